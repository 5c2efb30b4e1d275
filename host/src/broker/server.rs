//! The process that answers for a device: whoever starts it, and before that, whoever asked for it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::UCred;
use rustix::process::{PidfdFlags, pidfd_open};
use tracing::debug;

use crate::sys::kill_as_root;

/// A process, held so that its number cannot become another's.
#[derive(Debug)]
pub(super) struct Server(OwnedFd);

impl Server {
    /// The process that this is.
    pub(super) fn new(pidfd: OwnedFd) -> Server {
        Server(pidfd)
    }

    /// The process that has just sent a message.
    ///
    /// # Errors
    ///
    /// Where it is gone, or its number is already that of another user's process.
    pub(super) fn of(sender: UCred) -> io::Result<Server> {
        let pidfd = pidfd_open(sender.pid, PidfdFlags::empty())?;
        let pid = sender.pid.as_raw_nonzero().get();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let mut uids = uids.unwrap_or_default().split_whitespace();
        // Whoever ends it by us could have done so himself.
        if uids.all(|uid| uid.parse() == Ok(sender.uid.as_raw())) {
            Ok(Server(pidfd))
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    /// Ends it for good.
    pub(super) fn kill(&self) {
        if let Err(why) = kill_as_root(self.0.as_fd()) {
            debug!(%why, "it cannot be ended");
        }
    }
}
