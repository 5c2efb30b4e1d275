//! What broker and warden tell each other, over the socket pair that the warden begins with.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::io::ioctl_fionbio;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use rustix::stdio::dup2_stdin;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::wire::{self, Record, Wanted};
use crate::error::{Context, Error, Result};
use crate::message;
use crate::sys::nothing;

/// What a warden is started for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Its device, and whose it is.
    pub(super) record: Record,
    /// What is to be added. Without it, there is the device already.
    pub(super) wanted: Option<Wanted>,
    /// How long it may leave all of its requests unanswered.
    pub(super) answer_timeout: Duration,
    /// The broker's socket, where the next broker is found if this one ends.
    pub(super) socket: PathBuf,
    /// Whether a capability comes along, then the process that asked, where the kernel knows such things. Without one,
    /// the warden before is gone.
    pub(super) capability: bool,
}

/// What a warden says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub(super) enum Report {
    /// What its device is now.
    Now(Record),
    /// Its device is gone for good, or never was.
    Gone,
}

/// What a broker says to a warden that is at work.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
pub(super) enum Further {
    /// A capability for somebody else comes along.
    Join,
}

/// Starts this program again with one hidden command, and gives it its order.
pub(super) fn start(
    command: &str,
    order: &impl Serialize,
    files: &[BorrowedFd<'_>],
    log: &str,
) -> Result<(OwnedFd, Child)> {
    let failed = || format!("cannot start a {command}");
    let (ours, theirs) = message::pair().doing(failed)?;
    let bytes = wire::encode(order).doing(failed)?;
    // It is there before the warden is: nobody waits.
    message::send(&ours, &bytes, files).doing(failed)?;
    ioctl_fionbio(&ours, true).doing(failed)?;
    let child = Command::new("/proc/self/exe")
        .args([command, "--log", log])
        .stdin(Stdio::from(theirs))
        .stdout(nothing().doing(failed)?)
        .spawn()
        .doing(failed)?;
    Ok((ours, child))
}

/// Reads the order, in the process that was started.
///
/// # Errors
///
/// Where the broker did not start it.
pub fn receive<T: DeserializeOwned>() -> Result<(T, OwnedFd, Vec<OwnedFd>)> {
    let alone = || Error::usage("'wasmblk broker' starts this; it is not for people");
    let stdin = io::stdin();
    let socket = stdin.as_fd().try_clone_to_owned().map_err(|_| alone())?;
    let sender = socket_peercred(&socket).map_err(|_| alone())?.uid;
    if sender != geteuid() {
        return Err(alone());
    }
    let (bytes, files) = message::receive(&socket).map_err(|_| alone())?;
    let order = wire::decode(&bytes).map_err(|_| alone())?;
    let left = nothing().and_then(|nothing| Ok(dup2_stdin(nothing)?));
    left.doing(|| "cannot leave the broker".into())?;
    Ok((order, socket, files))
}
