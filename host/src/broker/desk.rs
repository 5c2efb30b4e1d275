//! The broker: who asks for what, and whether he gets it. One thread that waits for nobody: each client says what he
//! wants in one packet, within a bound; what the kernel is asked for, wardens ask.

use std::fs::{self, Permissions};
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fstat, major, minor};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use tracing::{debug, info, warn};

use super::client;
use super::order::Order;
use super::policy::{Peer, Policy};
use super::table::Table;
use super::wire::{self, Reason, Record, Reply, Request, State, Wanted};
use crate::confine;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::message;
use crate::sys::{peer_groups, peer_pidfd};
use crate::ublk::DataPath;
use crate::wake::Wake;

/// Clients that the kernel keeps waiting for us.
const BACKLOG: i32 = 256;

/// Serves clients at a socket until a signal. Devices stay when it ends. `announce` is called when clients can
/// connect.
///
/// # Errors
///
/// Where there is no ublk, or the socket cannot be made, or is another broker's.
pub fn serve(
    path: &Path,
    policy: Policy,
    log: &str,
    announce: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let mut wake = Wake::new()?;
    let table = Table::new(log)?;
    let listener = open(path)?;
    confine::for_broker().doing(|| "cannot give up privileges; is this root?".into())?;
    announce()?;
    info!(socket = %path.display(), "the broker is ready");
    let mut desk = Desk {
        path: path.to_owned(),
        policy,
        table,
        listener,
        visitors: Vec::new(),
    };
    let served = desk.serve(&mut wake);
    let _ = fs::remove_file(path);
    served
}

/// Makes the socket, to which everybody may connect. One that a dead broker left is replaced.
fn open(path: &Path) -> Result<OwnedFd> {
    let shown = path.display();
    if client::answers(path) {
        return Err(Error::failed(format!("another broker answers at {shown}")));
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).doing(|| format!("cannot make {}", folder.display()))?;
    }
    let _ = fs::remove_file(path);
    let listener = || -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        fs::set_permissions(path, Permissions::from_mode(0o666))?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    listener().doing(|| format!("cannot make the broker's socket {shown}"))
}

/// A client that has not said what it wants.
#[derive(Debug)]
struct Visitor {
    socket: OwnedFd,
    peer: Peer,
    until: Instant,
}

struct Desk {
    path: PathBuf,
    policy: Policy,
    table: Table,
    listener: OwnedFd,
    visitors: Vec<Visitor>,
}

impl Desk {
    fn serve(&mut self, wake: &mut Wake) -> Result<()> {
        let mut looked = Instant::now();
        loop {
            let ready = self.wait(wake)?;
            let (visitors, wardens) = ready[2..].split_at(self.visitors.len());
            if ready[0] {
                info!("told to end; its devices stay");
                return Ok(());
            }
            // What visitors change comes after what was waited for.
            self.table.hear(wardens);
            for (visitor, is_ready) in mem::take(&mut self.visitors).into_iter().zip(visitors) {
                if *is_ready {
                    self.receive(visitor);
                } else if visitor.until > Instant::now() {
                    self.visitors.push(visitor);
                }
            }
            if ready[1] {
                self.accept();
            }
            if looked.elapsed() >= limits::BROKER_LOOK_TIME {
                looked = Instant::now();
                self.table.look(&self.path);
            }
        }
    }

    /// Waits for whatever comes first; says of the signal, the listener, each visitor and each warden whether it is
    /// ready.
    fn wait(&self, wake: &Wake) -> Result<Vec<bool>> {
        let room = self.visitors.len() < limits::BROKER_CLIENTS_MAX;
        let listener = if room {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut fds = vec![
            PollFd::new(wake, PollFlags::IN),
            PollFd::new(&self.listener, listener),
        ];
        let visitors = self.visitors.iter().map(|visitor| visitor.socket.as_fd());
        let others: Vec<BorrowedFd<'_>> = visitors.chain(self.table.reports()).collect();
        fds.extend(others.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let busy = !self.visitors.is_empty() || self.table.has_loose_ends();
        let timeout: Option<Timespec> = busy
            .then(|| limits::BROKER_LOOK_TIME.try_into().ok())
            .flatten();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why).doing(|| "cannot wait for clients".into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Lets in who is there, as far as there is room. Who is let in or sent away takes a place of this turn: however
    /// many come, the others have their turn too.
    fn accept(&mut self) {
        for _ in self.visitors.len()..limits::BROKER_CLIENTS_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = accept_with(&self.listener, flags) else {
                return;
            };
            let Ok(peer) = peer_of(&socket) else { continue };
            let his = self
                .visitors
                .iter()
                .filter(|other| other.peer.uid == peer.uid);
            if his.count() >= limits::BROKER_CLIENTS_OF_USER_MAX {
                debug!(uid = peer.uid, "too many clients of one user");
                continue;
            }
            self.visitors.push(Visitor {
                socket,
                peer,
                until: Instant::now() + limits::BROKER_CLIENT_TIMEOUT,
            });
        }
    }

    /// Does what a visitor wants, who is let go then.
    fn receive(&mut self, visitor: Visitor) {
        let Ok((bytes, files)) = message::receive(&visitor.socket) else {
            return;
        };
        let mut files = files.into_iter();
        let answer = match wire::decode(&bytes) {
            Err(why) => Err(Reply::refused(Reason::Wrong, why.to_string())),
            Ok(Request::List { from }) => {
                let devices = self.table.visible(&visitor.peer, from);
                Ok((Reply::Devices { devices }, None))
            }
            Ok(Request::Device(wanted)) => (self.device(&visitor, wanted)).map(with_capability),
            Ok(Request::Attach) => (self.attach(&visitor, files.next())).map(with_capability),
            Ok(Request::Warden(record)) if visitor.peer.uid == 0 => {
                // It is a warden's from here on, and may wait.
                self.table.take_back(record, visitor.socket);
                return;
            }
            Ok(Request::Warden(_)) => {
                let text = "wardens belong to root".to_owned();
                Err(Reply::refused(Reason::Denied, text))
            }
        };
        let (reply, file) = answer.unwrap_or_else(|refused| (refused, None));
        if let Reply::Refused { text, .. } = &reply {
            let Peer { uid, pid, .. } = visitor.peer;
            info!(uid, pid, "refused: {text}");
        }
        let files: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let sent = wire::encode(&reply).map_err(io::Error::from);
        let sent = sent.and_then(|bytes| message::send(&visitor.socket, &bytes, &files));
        if let Err(why) = sent {
            debug!(%why, uid = visitor.peer.uid, "a client did not hear its answer");
        }
    }

    /// A new device: a warden for it, and its capability.
    fn device(
        &mut self,
        visitor: &Visitor,
        mut wanted: Wanted,
    ) -> std::result::Result<OwnedFd, Reply> {
        let peer = &visitor.peer;
        let denied = |text: String| Reply::refused(Reason::Denied, text);
        let allowed = self.policy.allowed(peer).ok_or_else(|| {
            denied(format!(
                "the broker's policy allows user {} no devices, nor any of his groups; its administrator can \
                 add a rule [[allow]]",
                peer.uid
            ))
        })?;
        let geometry = wanted
            .check()
            .map_err(|text| Reply::refused(Reason::Wrong, text))?;
        if wanted.id.is_some() && peer.uid != 0 {
            return Err(denied("only root may choose the number of a device".into()));
        }
        if !allowed.trusted {
            if wanted.data_path == DataPath::ZeroCopy {
                return Err(denied(
                    "--data-path zero-copy is for users whom the broker's policy trusts, for parts of the kernel's \
                     memory come into their hands; 'auto' copies"
                        .into(),
                ));
            }
            wanted.data_path = DataPath::Copy;
        }
        let tags = u64::from(wanted.queues) * u64::from(wanted.depth);
        let memory_bytes = tags * u64::from(geometry.max_transfer_bytes);
        (allowed
            .quota
            .admits(self.table.used(peer.uid), memory_bytes))
        .map_err(|text| Reply::refused(Reason::Quota, text))?;
        let record = Record {
            id: None,
            name: wanted.name.clone(),
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            state: State::Starting,
            size_bytes: geometry.size_bytes,
            queues: wanted.queues,
            depth: wanted.depth,
            memory_bytes,
            mark: 0,
        };
        self.guard(visitor, record, Some(wanted))
    }

    /// A capability for who serves a device already.
    fn attach(
        &mut self,
        visitor: &Visitor,
        char_device: Option<OwnedFd>,
    ) -> std::result::Result<OwnedFd, Reply> {
        let known = char_device.and_then(|file| id_of(&file));
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
    ) -> std::result::Result<OwnedFd, Reply> {
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

fn with_capability(capability: OwnedFd) -> (Reply, Option<OwnedFd>) {
    (Reply::Capability, Some(capability))
}

fn peer_of(socket: &OwnedFd) -> io::Result<Peer> {
    let known = socket_peercred(socket)?;
    Ok(Peer {
        pid: known.pid.as_raw_nonzero().get(),
        uid: known.uid.as_raw(),
        gid: known.gid.as_raw(),
        groups: peer_groups(socket.as_fd())?,
    })
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
