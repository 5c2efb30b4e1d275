//! How `add` starts a device's processes and learns whether it is ready: one message each way over a socket
//! pair, which is the new process's standard input.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};
use rustix::stdio::dup2_stdin;
use serde::{Deserialize, Serialize};

use crate::config::DeviceConfig;
use crate::error::{Context, Error, Kind, Result};
use crate::limits;
use crate::message::{self, MESSAGE_BYTES_MAX};
use crate::sys::{Artefact, nothing};

/// A device that can be used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Its number.
    pub id: u32,
    /// Its node.
    pub device: PathBuf,
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Ready(Ready),
    Error(Kind, String),
}

/// Starts a device's minder, which starts its data plane for a compiled guest, and waits until the device can
/// be used.
///
/// # Errors
///
/// What they say; or that they ended, or did not answer in time.
pub fn start(config: &DeviceConfig, artefact: &Artefact) -> Result<Ready> {
    let (socket, mut child) = spawn("mind", config, artefact, &[])?;
    wait(&socket, &mut child)
}

/// Starts this program again with one hidden command, and hands it a device, with the stores that are open already.
pub(super) fn spawn(
    command: &str,
    config: &DeviceConfig,
    artefact: &Artefact,
    stores: &[File],
) -> Result<(OwnedFd, Child)> {
    let failed = || "cannot start the process of the device".to_owned();
    let bytes = serde_json::to_vec(config).doing(failed)?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(Error::usage(
            "the guest's options are too long; 64 KiB in all is the most",
        ));
    }
    let (ours, theirs) = message::pair().doing(failed)?;
    // One that asks and reads no answer has nobody wait for it.
    set_socket_timeout(&ours, Timeout::Send, Some(limits::SOCKET_TIMEOUT)).doing(failed)?;
    let child = Command::new("/proc/self/exe")
        .arg(command)
        .args(["--log", &config.log])
        .stdin(Stdio::from(theirs))
        .stdout(nothing().doing(failed)?)
        .spawn()
        .doing(failed)?;
    let files = [artefact.file()].into_iter().chain(stores);
    let files: Vec<BorrowedFd<'_>> = files.map(AsFd::as_fd).collect();
    message::send(&ours, &bytes, &files).doing(failed)?;
    Ok((ours, child))
}

/// Waits for the end of a process. One that takes longer than this is killed.
///
/// # Errors
///
/// The system's.
pub fn wait_or_kill(child: &mut Child, most: Duration) -> io::Result<ExitStatus> {
    let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(most).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut fds = [PollFd::new(&end, PollFlags::IN)];
    if retry_on_intr(|| poll(&mut fds, Some(&timeout)))? == 0 {
        child.kill()?;
    }
    child.wait()
}

fn wait(socket: &OwnedFd, child: &mut Child) -> Result<Ready> {
    let timeout = Timespec {
        tv_sec: limits::START_TIMEOUT.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    let ready = poll(&mut fds, Some(&timeout)).doing(|| "cannot wait for the device".into())?;
    if ready == 0 {
        // It hangs in the kernel, where nothing ends it; it cleans up if it ever comes back.
        return Err(Error::failed(format!(
            "the device was not ready within {} s; its process {} goes on trying. If the kernel hangs, \
             'wasmblk doctor' may know this kernel",
            limits::START_TIMEOUT.as_secs(),
            child.id()
        )));
    }
    let answer = match message::receive(socket) {
        Ok((bytes, _)) => serde_json::from_slice(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(why) => {
            return Err(Error::failed("cannot read from the device's process").because(why));
        }
    };
    match answer {
        Some(Answer::Ready(ready)) => Ok(ready),
        Some(Answer::Error(Kind::Usage, text)) => Err(Error::usage(text)),
        Some(Answer::Error(Kind::Failed, text)) => Err(Error::failed(text)),
        None => {
            let status = child
                .wait()
                .doing(|| "the device's process is lost".into())?;
            Err(Error::failed(format!(
                "the device's process ended before it was ready: {status}"
            )))
        }
    }
}

/// What a process of a device begins with.
#[derive(Debug)]
pub struct Handed {
    /// Its device.
    pub config: DeviceConfig,
    /// The compiled guest.
    pub artefact: Artefact,
    /// The stores, where they are open already.
    pub stores: Vec<File>,
    /// Who waits for it.
    pub parent: Parent,
}

/// The end of the socket pair in the process that was started.
#[derive(Debug)]
pub struct Parent(pub(super) OwnedFd);

/// Reads what the parent sent, in the new process.
///
/// # Errors
///
/// Where this process was not started by ours.
pub fn receive() -> Result<Handed> {
    let alone = || Error::usage("'wasmblk add' starts this; it is not for people");
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|_| alone())?;
    // The kernel says who is at the other end; machine code of another user is not to be run.
    let sender = socket_peercred(&socket).map_err(|_| alone())?.uid;
    if sender != geteuid() {
        return Err(alone());
    }
    let (bytes, files) = message::receive(&socket).map_err(|_| alone())?;
    let config = serde_json::from_slice(&bytes).map_err(|_| alone())?;
    let mut files = files.into_iter().map(File::from);
    let artefact = files.next().ok_or_else(alone)?;
    // Once it is closed here, the other end learns of it.
    let left = nothing().and_then(|nothing| Ok(dup2_stdin(nothing)?));
    left.doing(|| "cannot leave the terminal".into())?;
    Ok(Handed {
        config,
        artefact: Artefact::vouch(artefact),
        stores: files.collect(),
        parent: Parent(socket),
    })
}

impl Parent {
    /// Tells `add` that the device can be used.
    ///
    /// # Errors
    ///
    /// Where `add` is gone: then nobody knows of the device.
    pub fn ready(&self, ready: &Ready) -> Result<()> {
        self.send(&Answer::Ready(ready.clone()))
            .doing(|| "'wasmblk add' went away".into())
    }

    /// Tells `add` why there is no device.
    pub fn error(&self, error: &Error) {
        // If it is gone, nobody is left to be told.
        let _ = self.send(&Answer::Error(error.kind(), error.chain()));
    }

    fn send(&self, answer: &Answer) -> io::Result<()> {
        let bytes = serde_json::to_vec(answer)?;
        message::send(&self.0, &bytes, &[])
    }
}
