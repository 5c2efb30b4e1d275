//! What a warden does for whoever has its device's capability.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Instant;

use tracing::info;

use super::warden::Warden;
use super::wire::{Command, Reason, Reply, State};
use crate::block::{Claims, Geometry};
use crate::limits;
use crate::message;
use crate::ublk::{Device, block_path};

impl Warden {
    /// Does one command. Gives the reply, and what goes along.
    pub(super) fn run(
        &mut self,
        device: &mut Device,
        command: Command,
    ) -> (Reply, Option<OwnedFd>) {
        let done = match command {
            Command::Affinity { queues } => {
                let all = queues
                    .iter()
                    .all(|queue| *queue < device.info().nr_hw_queues);
                let few = queues.len() <= usize::from(limits::QUEUES_MAX);
                let processors = (all && few).then(|| device.affinity(&queues).unwrap_or_default());
                let processors = processors.unwrap_or_default();
                return (Reply::Processors { processors }, None);
            }
            Command::Info => {
                let device = self.order.record.clone();
                return (Reply::Device { device }, None);
            }
            Command::Copy => return self.copy(),
            Command::Open {
                read_only,
                exclusive,
            } => match self.open(device.id(), read_only, exclusive) {
                Ok(file) => return (Reply::Done, Some(file.into())),
                Err(error) => Err(error),
            },
            Command::Start => self.start(device),
            Command::Quiesce => device.quiesce(),
            Command::Recover => match device.recover() {
                Ok(file) => return (Reply::Done, Some(file.into())),
                Err(error) => Err(io::Error::other(error.chain())),
            },
            Command::TryStop => device.try_stop().inspect(|()| self.stopped = true),
            Command::Stop => self.stop(device),
            Command::Resize { size_bytes } => self.resize(device, size_bytes),
            Command::Detach if self.order.record.state == State::Live => {
                self.detached = true;
                Ok(())
            }
            // Nobody would miss it.
            Command::Detach => Err(io::Error::other("it has not been started")),
            Command::Delete => {
                self.stopped = true;
                // Its end is that of this process.
                self.detached = false;
                let stopped = device.stop().and_then(|()| device.delete());
                if stopped.is_ok() {
                    self.order.record.id = None;
                }
                stopped
            }
        };
        match done {
            Ok(()) => (Reply::Done, None),
            Err(error) => (refused(&error), None),
        }
    }

    fn stop(&mut self, device: &mut Device) -> io::Result<()> {
        self.stopped = true;
        let stopped = device.stop();
        self.stuck = match &stopped {
            Ok(()) => None,
            Err(_) => self.stuck.or_else(|| Some(Instant::now())),
        };
        stopped
    }

    fn copy(&mut self) -> (Reply, Option<OwnedFd>) {
        if self.ends.len() >= limits::CAPABILITIES_MAX {
            let most = limits::CAPABILITIES_MAX;
            let text = format!("a device has at most {most} capabilities of their own");
            return (Reply::refused(Reason::Quota, text), None);
        }
        match message::pair() {
            Ok((theirs, ours)) => {
                self.join(ours);
                (Reply::Capability, Some(theirs))
            }
            Err(error) => (refused(&error), None),
        }
    }

    fn start(&mut self, device: &mut Device) -> io::Result<()> {
        if !device.is_recovering() && (self.order.wanted.is_none() || self.stopped) {
            return Err(io::Error::other(
                "a device is started once, by its first warden",
            ));
        }
        device
            .start()
            .map_err(|error| io::Error::other(error.chain()))?;
        let record = &mut self.order.record;
        give(&block_path(device.id()), record.uid, record.gid)?;
        record.state = State::Live;
        info!(id = device.id(), uid = record.uid, "live");
        self.tell_now();
        Ok(())
    }

    /// The owner's node belongs to him alone, and this process may not pass by that: so it takes it for a moment.
    fn open(&self, id: u32, read_only: bool, exclusive: bool) -> io::Result<File> {
        let record = &self.order.record;
        let node = block_path(id);
        chown(&node, Some(0), Some(0))?;
        let mut options = File::options();
        options.read(true).write(!read_only);
        options.custom_flags(if exclusive { libc::O_EXCL } else { 0 });
        let opened = options.open(&node);
        give(&node, record.uid, record.gid)?;
        opened
    }

    fn resize(&mut self, device: &mut Device, size_bytes: u64) -> io::Result<()> {
        // The kernel takes any number.
        let whole = Claims {
            logical_block_bytes: 4096,
            ..Claims::default()
        };
        let claimed = self.order.wanted.as_ref().map(|wanted| wanted.geometry);
        let geometry = Claims {
            size_bytes,
            ..claimed.unwrap_or(whole)
        };
        let wrong = |why| io::Error::other(format!("{why}"));
        Geometry::new(&geometry).map_err(wrong)?;
        device.resize(size_bytes)?;
        self.order.record.size_bytes = size_bytes;
        self.tell_now();
        Ok(())
    }
}

/// Makes a node somebody's, and nobody else's.
fn give(node: &Path, uid: u32, gid: u32) -> io::Result<()> {
    fs::set_permissions(node, Permissions::from_mode(0o600))?;
    chown(node, Some(uid), Some(gid))
}

fn refused(error: &io::Error) -> Reply {
    let reason = match error.kind() {
        io::ErrorKind::ResourceBusy => Reason::Busy,
        io::ErrorKind::TimedOut => Reason::TimedOut,
        _ => Reason::Failed,
    };
    Reply::refused(reason, error.to_string())
}
