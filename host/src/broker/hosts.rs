//! The devices that the broker serves itself for users: by processes of its own binary, which their users cannot
//! trace, replace or stop. Until such a process asks for its device, it counts here.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::time::Instant;

use tracing::warn;

use super::order;
use super::policy::Peer;
use crate::config::DeviceConfig;
use crate::error::Result;
use crate::limits;

/// A process that will ask for a device, or has.
#[derive(Debug)]
struct Host {
    owner: Peer,
    child: Child,
    /// The guest's.
    memory_bytes: u64,
    since: Instant,
    /// It has asked, and its device counts in the table from then on.
    has_begun: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Hosts(Vec<Host>);

impl Hosts {
    /// Starts one. `files` are who asked, the guest, and its stores.
    pub(super) fn start(
        &mut self,
        owner: &Peer,
        config: &DeviceConfig,
        files: &[&OwnedFd],
    ) -> Result<()> {
        let files: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let (_, child) = order::start("host", config, &files, &config.log)?;
        self.0.push(Host {
            owner: owner.clone(),
            child,
            memory_bytes: config.limits.memory_bytes,
            since: Instant::now(),
            has_begun: false,
        });
        Ok(())
    }

    /// For whom this process asks for a device, where it is one of them, and what its guest may have. Once.
    pub(super) fn begin(&mut self, pid: i32) -> Option<(Peer, u64)> {
        let is = |host: &&mut Host| i32::try_from(host.child.id()) == Ok(pid) && !host.has_begun;
        let host = self.0.iter_mut().find(is)?;
        host.has_begun = true;
        Some((host.owner.clone(), host.memory_bytes))
    }

    /// What counts for a user here.
    pub(super) fn held(&self, uid: u32) -> impl Iterator<Item = u64> {
        let his = move |host: &&Host| host.owner.uid == uid && !host.has_begun;
        self.0.iter().filter(his).map(|host| host.memory_bytes)
    }

    /// Whether there is nothing to look after.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets those that have ended, and ends those that take too long to begin.
    pub(super) fn look(&mut self) {
        self.0.retain_mut(|host| {
            if !host.has_begun && host.since.elapsed() > limits::START_TIMEOUT {
                warn!(uid = host.owner.uid, "a guest takes too long to begin");
                let _ = host.child.kill();
            }
            matches!(host.child.try_wait(), Ok(None))
        });
    }
}
