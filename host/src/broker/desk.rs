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
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use tracing::{debug, error, info, warn};

use super::client;
use super::files::Closers;
use super::hosts::Hosts;
use super::policy::{Peer, Policy};
use super::table::Table;
use crate::config::make_run_dir;
use crate::confine;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::{leave, peer_groups};
use crate::wake::Wake;

/// Clients that the kernel keeps waiting for us.
const BACKLOG: i32 = 256;

/// Serves clients at a socket until SIGTERM or SIGINT. Devices stay when it ends. `read` gives the policy, at first and
/// at SIGHUP. `place` is the folder of the control sockets and logs of devices that it serves itself, and what to log.
/// `announce` is called when clients can connect.
///
/// # Errors
///
/// Where there is no policy, or no ublk, or the socket cannot be made, or is another broker's.
pub fn serve(
    path: &Path,
    read: &dyn Fn() -> Result<Policy>,
    place: (&Path, &str),
    announce: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (run_dir, log) = place;
    let (end, mut reload) = Wake::end_and_reload()?;
    let policy = read()?;
    let table = Table::new(log)?;
    let listener = open(path)?;
    confine::for_broker(policy.hosts())
        .doing(|| "cannot give up privileges; is this root?".into())?;
    announce()?;
    info!(socket = %path.display(), "the broker is ready");
    let mut desk = Desk {
        path: path.to_owned(),
        run_dir: run_dir.to_owned(),
        policy,
        table,
        hosts: Hosts::default(),
        log: log.to_owned(),
        complained: Instant::now(),
        closers: Closers::default(),
        listener,
        visitors: Vec::new(),
        leaving: Vec::new(),
    };
    let hosts = desk.policy.hosts();
    let served = desk.serve(&end, &mut reload, &|| reread(read, hosts));
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
        make_run_dir(folder).doing(|| format!("cannot make {}", folder.display()))?;
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

/// The policy once more, for a broker that `hosts` devices, or gave up what that takes. One that is wrong is none.
fn reread(read: &dyn Fn() -> Result<Policy>, hosts: bool) -> Option<Policy> {
    match read() {
        Ok(policy) => {
            if policy.hosts() && !hosts {
                warn!(
                    "'hosted' is new: until the broker begins anew, such devices are no place for swap"
                );
            }
            info!("the policy was read again; devices that are there stay as they are");
            Some(policy)
        }
        Err(why) => {
            error!("the policy stays what it was: {}", why.chain());
            None
        }
    }
}

/// A client that has not said what it wants, or may not have heard the answer.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) socket: OwnedFd,
    pub(super) peer: Peer,
    is_answered: bool,
    until: Instant,
}

pub(super) struct Desk {
    pub(super) path: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) policy: Policy,
    pub(super) table: Table,
    pub(super) hosts: Hosts,
    pub(super) log: String,
    /// When the log last spoke of a refusal.
    pub(super) complained: Instant,
    pub(super) closers: Closers,
    listener: OwnedFd,
    visitors: Vec<Visitor>,
    /// Sockets of visitors that are let go. What is unread in them may be slow to close.
    pub(super) leaving: Vec<OwnedFd>,
}

impl Desk {
    fn serve(
        &mut self,
        end: &Wake,
        reload: &mut Wake,
        reread: &dyn Fn() -> Option<Policy>,
    ) -> Result<()> {
        let mut looked = Instant::now();
        loop {
            let ready = self.wait(end, reload)?;
            let (visitors, wardens) = ready[3..].split_at(self.visitors.len());
            if ready[0] {
                info!("told to end; its devices stay");
                return Ok(());
            }
            if ready[1] {
                reload.wait()?;
                if let Some(policy) = reread() {
                    self.policy = policy;
                }
            }
            // What visitors change comes after what was waited for.
            self.table.hear(wardens);
            for (visitor, is_ready) in mem::take(&mut self.visitors).into_iter().zip(visitors) {
                let waits = !is_ready && visitor.until > Instant::now();
                match visitor.is_answered {
                    _ if waits => self.visitors.push(visitor),
                    false if *is_ready => self.receive(visitor),
                    _ => self.leaving.push(visitor.socket),
                }
            }
            if ready[2] {
                self.accept();
            }
            if !self.leaving.is_empty()
                && let Err(why) = leave(&mut self.leaving)
            {
                error!(%why, "clients that are done are not let go");
            }
            if looked.elapsed() >= limits::BROKER_LOOK_TIME {
                looked = Instant::now();
                self.table.look(&self.path, self.policy.answer_timeout);
                self.hosts.look();
            }
        }
    }

    /// Waits for whatever comes first; says of both signals, the listener, each visitor and each warden whether it is
    /// ready.
    fn wait(&self, end: &Wake, reload: &Wake) -> Result<Vec<bool>> {
        let mut fds = vec![
            PollFd::new(end, PollFlags::IN),
            PollFd::new(reload, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        let visitors = self.visitors.iter().map(|visitor| {
            // Who has his answer closes his end; what he has sent may be there still.
            let ready = if visitor.is_answered {
                PollFlags::empty()
            } else {
                PollFlags::IN
            };
            (visitor.socket.as_fd(), ready)
        });
        let reports = self.table.reports().map(|fd| (fd, PollFlags::IN));
        let others: Vec<(BorrowedFd<'_>, PollFlags)> = visitors.chain(reports).collect();
        fds.extend(others.iter().map(|(fd, ready)| PollFd::new(fd, *ready)));
        let busy =
            !self.visitors.is_empty() || self.table.has_loose_ends() || !self.hosts.is_empty();
        let busy = busy || !self.leaving.is_empty();
        let timeout: Option<Timespec> = busy
            .then(|| limits::BROKER_LOOK_TIME.try_into().ok())
            .flatten();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why).doing(|| "cannot wait for clients".into()),
        }
        Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Keeps who is answered until he closes his end: ours, with something unread in it, takes the answer from him.
    pub(super) fn keep(&mut self, visitor: Visitor) {
        self.visitors.push(Visitor {
            is_answered: true,
            until: Instant::now() + limits::BROKER_CLIENT_TIMEOUT,
            ..visitor
        });
    }

    /// Lets in who is there. Who is let in or sent away takes a place of this turn: however many come, the others have
    /// their turn too.
    fn accept(&mut self) {
        for _ in 0..limits::BROKER_CLIENTS_MAX {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = accept_with(&self.listener, flags) else {
                return;
            };
            let Ok(peer) = peer_of(&socket) else {
                self.leaving.push(socket);
                continue;
            };
            let his = self
                .visitors
                .iter()
                .filter(|other| other.peer.uid == peer.uid);
            if his.count() >= limits::BROKER_CLIENTS_OF_USER_MAX {
                debug!(uid = peer.uid, "too many clients of one user");
                self.leaving.push(socket);
                continue;
            }
            if self.visitors.len() >= limits::BROKER_CLIENTS_MAX {
                self.make_room();
            }
            self.visitors.push(Visitor {
                socket,
                peer,
                is_answered: false,
                until: Instant::now() + limits::BROKER_CLIENT_TIMEOUT,
            });
        }
    }

    /// Sends away who has been there longest of those whom no rule names, else of those who are not root: of one user
    /// there are few, but some users have many numbers.
    fn make_room(&mut self) {
        let is_stranger = |visitor: &Visitor| self.policy.allowed(&visitor.peer).is_none();
        let longest = self.visitors.iter().position(is_stranger);
        let is_other = |visitor: &Visitor| visitor.peer.uid != 0;
        let longest = longest.or_else(|| self.visitors.iter().position(is_other));
        let visitor = self.visitors.remove(longest.unwrap_or(0));
        debug!(uid = visitor.peer.uid, "too many clients");
        self.leaving.push(visitor.socket);
    }
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
