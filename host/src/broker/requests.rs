//! What the broker does with what clients ask for.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fstat, major, minor};
use tracing::{debug, info, warn};

use super::desk::{Desk, Visitor};
use super::order::Order;
use super::policy::{Allowed, Peer};
use super::quota::Use;
use super::wire::{self, Reason, Record, Reply, Request, State, Wanted};
use crate::config::DeviceConfig;
use crate::error::{Context, Error};
use crate::limits;
use crate::message;
use crate::sys::peer_pidfd;
use crate::text::printable;
use crate::ublk::DataPath;

/// What comes of a request, or why nothing does.
type Outcome<T> = Result<T, Reply>;

impl Desk {
    /// Does what a visitor wants, who is let go then. Files that came along are taken only where they are needed, and
    /// he may send them.
    pub(super) fn receive(&mut self, visitor: Visitor) {
        let taken = |has_files| has_files || message::receive(&visitor.socket).is_ok();
        let (bytes, has_files) = match message::peek(&visitor.socket) {
            Ok((bytes, has_files)) if taken(has_files) => (bytes, has_files),
            _ => return self.leaving.push(visitor.socket),
        };
        let answer = match wire::decode(&bytes) {
            Err(why) => Err(Reply::refused(Reason::Wrong, why.to_string())),
            Ok(Request::List { from }) => {
                let devices = self.table.visible(&visitor.peer, from);
                Ok((Reply::Devices { devices }, None))
            }
            Ok(Request::Device(wanted)) => (self.device(&visitor, wanted)).map(with_capability),
            Ok(Request::Attach | Request::Serve { .. }) if !has_files => {
                let text = "an open file must come along";
                Err(Reply::refused(Reason::Wrong, text))
            }
            Ok(Request::Attach) => self.attach(&visitor).map(with_capability),
            Ok(Request::Serve { config }) => match self.host(&visitor, *config) {
                Ok(()) => return self.leaving.push(visitor.socket),
                Err(refused) => Err(refused),
            },
            Ok(Request::Warden(record)) if visitor.peer.uid == 0 && !has_files => {
                // It is a warden's from here on, and may wait.
                return self.table.take_back(record, visitor.socket);
            }
            Ok(Request::Warden(_)) => {
                let text = "wardens belong to root".to_owned();
                Err(Reply::refused(Reason::Denied, text))
            }
        };
        let (reply, file) = answer.unwrap_or_else(|refused| (refused, None));
        if let Reply::Refused { text, .. } = &reply {
            self.complain(&visitor.peer, text);
        }
        let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let sent = wire::encode(&reply).map_err(io::Error::from);
        let sent = sent.and_then(|bytes| message::send(&visitor.socket, &bytes, &files));
        if let Err(why) = sent {
            debug!(%why, uid = visitor.peer.uid, "a client did not hear its answer");
        }
        if has_files {
            self.keep(visitor);
        } else {
            self.leaving.push(visitor.socket);
        }
    }

    /// Says in the log who is refused something, not more often than somebody can read.
    fn complain(&mut self, peer: &Peer, text: &str) {
        if self.complained.elapsed() > limits::BROKER_LOOK_TIME {
            self.complained = Instant::now();
            // Some of the words are his.
            let text = printable(text, limits::GUEST_WORDS_BYTES_MAX);
            info!(uid = peer.uid, pid = peer.pid, "refused: {text}");
        }
    }

    /// A new device: a warden for it, and its capability.
    fn device(&mut self, visitor: &Visitor, mut wanted: Wanted) -> Outcome<OwnedFd> {
        let asks = &visitor.peer;
        // A host asks for somebody else.
        let hosted = (asks.uid == 0)
            .then(|| self.hosts.begin(asks.pid))
            .flatten();
        if wanted.hosted && hosted.is_none() {
            // It would be root's.
            return Err(denied(
                "the broker that was to serve this device has ended; ask again",
            ));
        }
        let (owner, hosted_bytes) = hosted.clone().unwrap_or((asks.clone(), 0));
        let allowed = self.allowed(&owner)?;
        let geometry = (wanted.check()).map_err(|text| Reply::refused(Reason::Wrong, text))?;
        if wanted.id.is_some() && owner.uid != 0 {
            return Err(denied("only root may choose the number of a device"));
        }
        if !allowed.trusted && hosted.is_none() {
            if wanted.data_path == DataPath::ZeroCopy {
                return Err(denied(
                    "--data-path zero-copy is for users whom the broker's policy trusts, for parts of the kernel's \
                     memory come into their hands, and with --hosted; 'auto' copies",
                ));
            }
            wanted.data_path = DataPath::Copy;
        }
        let tags = u64::from(wanted.queues) * u64::from(wanted.depth);
        let memory_bytes = hosted_bytes + tags * u64::from(geometry.max_transfer_bytes);
        self.admit(&allowed, &owner, memory_bytes)?;
        let record = Record {
            id: None,
            name: wanted.name.clone(),
            uid: owner.uid,
            gid: owner.gid,
            pid: asks.pid,
            state: State::Starting,
            size_bytes: geometry.size_bytes,
            queues: wanted.queues,
            depth: wanted.depth,
            memory_bytes,
            mark: 0,
            hosted: hosted.is_some(),
            run_dir: match hosted {
                Some(_) => Some(self.run_dir.clone()),
                None => wanted.run_dir.clone(),
            },
        };
        self.guard(visitor, record, Some(wanted))
    }

    /// A device that the broker's own processes serve. Who asked hears of it from them.
    fn host(&mut self, visitor: &Visitor, mut config: DeviceConfig) -> Outcome<()> {
        let peer = &visitor.peer;
        let allowed = self.allowed(peer)?;
        if !allowed.hosted {
            return Err(denied(
                "the broker's policy does not allow you --hosted; without it, your own processes serve the device",
            ));
        }
        let wrong = |error: Error| Reply::refused(Reason::Wrong, error.chain());
        config.check().map_err(wrong)?;
        if config.id.is_some() && peer.uid != 0 {
            return Err(denied("only root may choose the number of a device"));
        }
        self.admit(&allowed, peer, config.limits.memory_bytes)?;
        config.run_dir.clone_from(&self.run_dir);
        config.log.clone_from(&self.log);
        config.broker = Some(self.path.clone());
        config.owner = Some((peer.uid, peer.gid));
        config.confine = true;
        let files = self.closers.receive(peer.uid, &visitor.socket)?;
        let files: Vec<_> = [&visitor.socket].into_iter().chain(&*files).collect();
        (self.hosts.start(peer, &config, &files))
            .map_err(|error| Reply::refused(Reason::Failed, error.chain()))
    }

    fn allowed(&self, peer: &Peer) -> Outcome<Allowed> {
        self.policy.allowed(peer).ok_or_else(|| {
            denied(&format!(
                "the broker's policy allows user {} no devices, nor any of his groups; its administrator can add \
                 a rule [[allow]]",
                peer.uid
            ))
        })
    }

    /// Whether somebody may have one more device, beside those that he has and those that are on their way.
    fn admit(&self, allowed: &Allowed, peer: &Peer, memory_bytes: u64) -> Outcome<()> {
        let (has, comes) = (self.table.held(peer.uid), self.hosts.held(peer.uid));
        let used: Use = has.chain(comes).collect();
        (allowed.quota.admits(used, memory_bytes))
            .map_err(|text| Reply::refused(Reason::Quota, text))
    }

    /// A capability for who serves a device already.
    fn attach(&mut self, visitor: &Visitor) -> Outcome<OwnedFd> {
        let uid = visitor.peer.uid;
        if self.table.held(uid).next().is_none() {
            self.allowed(&visitor.peer)?;
        }
        let files = self.closers.receive(uid, &visitor.socket)?;
        let known = files.first().and_then(id_of);
        let known = known.and_then(|id| Some((id, self.table.find(id)?.clone())));
        let Some((id, record)) = known else {
            let text = "an open /dev/ublkcN of this broker's must come along";
            return Err(Reply::refused(Reason::Wrong, text));
        };
        let failed = |why: io::Error| Reply::refused(Reason::Failed, why.to_string());
        let (theirs, ours) = message::pair().map_err(failed)?;
        match self.table.join(id, ours.as_fd()) {
            Some(joined) => joined.map(|()| theirs).map_err(failed),
            None => self.guard(visitor, record, None),
        }
    }

    /// Starts a warden. Gives the capability.
    fn guard(
        &mut self,
        visitor: &Visitor,
        record: Record,
        wanted: Option<Wanted>,
    ) -> Outcome<OwnedFd> {
        let failed = |error: Error| Reply::refused(Reason::Failed, error.chain());
        let (theirs, ours) = message::pair()
            .doing(|| "the broker has no room".into())
            .map_err(failed)?;
        let order = Order {
            record,
            wanted,
            answer_timeout: self.policy.answer_timeout,
            socket: self.path.clone(),
            capability: true,
        };
        let client = peer_pidfd(visitor.socket.as_fd())
            .inspect_err(|why| warn!(%why, "a client that hangs cannot be ended"));
        let mut files = vec![ours.as_fd()];
        files.extend(client.iter().map(AsFd::as_fd));
        self.table.guard(&order, &files).map_err(failed)?;
        Ok(theirs)
    }
}

fn denied(text: &str) -> Reply {
    Reply::refused(Reason::Denied, text)
}

fn with_capability(capability: OwnedFd) -> (Reply, Option<OwnedFd>) {
    (Reply::Capability, Some(capability))
}

/// The device whose `/dev/ublkcN` is open for reading and writing here: only its server, and who was before him,
/// can have that. A mere path to it, which `O_PATH` gives everybody, does not count.
fn id_of(file: &OwnedFd) -> Option<u32> {
    let flags = fcntl_getfl(file).ok()?;
    if flags.contains(OFlags::PATH) || !flags.contains(OFlags::RDWR) {
        return None;
    }
    let about = fstat(file).ok()?;
    if about.st_mode & libc::S_IFMT != libc::S_IFCHR {
        return None;
    }
    let number = format!("{}:{}", major(about.st_rdev), minor(about.st_rdev));
    let link = fs::read_link(format!("/sys/dev/char/{number}")).ok()?;
    link.file_name()?
        .to_str()?
        .strip_prefix("ublkc")?
        .parse()
        .ok()
}
