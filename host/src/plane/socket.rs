//! The control socket. A client sends one line of JSON and gets one back: for `{"command":"info"}` the
//! status at once, for `{"command":"wait"}` one that it was taken note of, and the outcome when the
//! device ends. With the answer to `{"command":"open","read_only":true}` comes the open disk.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use serde::{Deserialize, Serialize};
use tracing::debug;

use super::errand::Minder;
use super::lines::Lines;
use super::status::{Shared, Status};
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::message;

/// Longest line that a client may send.
const REQUEST_BYTES_MAX: usize = 4096;

/// Longest status that is read: what all its parts may take, and more.
const STATUS_BYTES_MAX: usize = 4 << 20;

/// Longest of the other answers: an error message, escaped.
const ANSWER_BYTES_MAX: usize = 8 * limits::MESSAGE_BYTES_MAX;

/// What a client may ask.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
enum Request {
    Info,
    Wait,
    Stop { force: bool },
    Open { read_only: bool },
}

/// The answer to an open: with the disk, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    error: Option<String>,
    /// Somebody has it mounted, or claimed otherwise.
    busy: bool,
}

/// The answer to a wait, before its outcome.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    /// Not where too many wait.
    waiting: bool,
}

/// What came of a stop that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// It ends.
    Ends,
    /// It is being started: nothing was done.
    Starting,
    /// Its disk is open somewhere.
    InUse,
    /// It cannot be stopped.
    Failed(String),
}

/// How a device ended.
#[derive(Debug, Serialize, Deserialize)]
struct Outcome {
    error: Option<String>,
}

/// Clients that wait for the end.
#[derive(Debug, Default)]
pub(super) struct Waiters(Mutex<Vec<Lines>>);

impl Waiters {
    fn add(&self, client: Lines) -> io::Result<()> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|client| !client.has_left());
        let waiting = clients.len() < limits::WAITERS_MAX;
        client.send(&Noted { waiting }, soon())?;
        if waiting {
            clients.push(client);
        }
        Ok(())
    }

    /// Tells all of them. Their connections end with the process.
    pub(super) fn tell(&self, result: &Result<()>) {
        let outcome = Outcome {
            error: result.as_ref().err().map(Error::chain),
        };
        for client in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // One that left does not want to know.
            let _ = client.send(&outcome, soon());
        }
    }
}

/// Makes the socket. One that a dead process left is replaced.
pub(super) fn bind(path: &Path) -> Result<UnixListener> {
    let shown = path.display();
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).doing(|| format!("cannot make the control socket {shown}"))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
        .doing(|| format!("cannot protect the control socket {shown}"))?;
    Ok(listener)
}

/// Answers on the socket in a thread of its own, for the life of the process.
pub(super) fn serve(
    listener: UnixListener,
    shared: Arc<Shared>,
    minder: Arc<Minder>,
) -> Result<()> {
    let run = move || {
        for client in listener.incoming() {
            if let Err(error) = client.and_then(|client| answer(client, &shared, &minder)) {
                debug!(%error, "a client of the control socket got no answer");
            }
        }
    };
    thread::Builder::new()
        .name("control".into())
        .spawn(run)
        .doing(|| "cannot start a thread".into())?;
    Ok(())
}

/// By when a line must be through.
fn soon() -> Instant {
    Instant::now() + limits::SOCKET_TIMEOUT
}

fn answer(client: UnixStream, shared: &Shared, minder: &Minder) -> io::Result<()> {
    let mut client = Lines::new(client);
    match client.receive(REQUEST_BYTES_MAX, soon())? {
        Request::Info => client.send(&shared.status(), soon()),
        Request::Wait => shared.waiters.add(client),
        Request::Stop { force } => client.send(&stop_for(minder, force), soon()),
        Request::Open { read_only } => {
            let opened = minder.open(read_only);
            let error = opened.as_ref().err();
            let busy = error.is_some_and(|error| error.kind() == ErrorKind::ResourceBusy);
            let error = error.map(ToString::to_string);
            let disk: Vec<_> = opened.iter().map(AsFd::as_fd).collect();
            let answer = serde_json::to_vec(&Opened { error, busy })?;
            let client = client.socket();
            client.set_write_timeout(Some(limits::SOCKET_TIMEOUT))?;
            message::send(client, &answer, &disk)
        }
    }
}

/// Stops the device for somebody who has no privilege to do it himself.
fn stop_for(minder: &Minder, force: bool) -> Stopped {
    match minder.stop_for(force) {
        Ok(()) => Stopped::Ends,
        // Who waits for the end learns of it.
        Err(error) if error.kind() == ErrorKind::WouldBlock && minder.is_ending() => Stopped::Ends,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Stopped::Starting,
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Stopped::InUse,
        Err(error) => Stopped::Failed(error.to_string()),
    }
}

/// Connects, with a bound, and sends a request; where it matters, only to a process of the `owner`.
fn call(path: &Path, request: Request, owner: Option<u32>, until: Instant) -> io::Result<Lines> {
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    let left = until.saturating_duration_since(Instant::now());
    // None at all would be no bound.
    let left = left.max(Duration::from_millis(1));
    set_socket_timeout(&socket, Timeout::Send, Some(left))?;
    connect(&socket, &SocketAddrUnix::new(path)?).map_err(|why| match why {
        Errno::AGAIN => Errno::TIMEDOUT,
        why => why,
    })?;
    if owner.is_some_and(|owner| socket_peercred(&socket).map(|it| it.uid.as_raw()) != Ok(owner)) {
        return Err(ErrorKind::PermissionDenied.into());
    }
    let server = Lines::new(UnixStream::from(socket));
    server.send(&request, until)?;
    Ok(server)
}

/// Asks a device for its status.
///
/// # Errors
///
/// `ConnectionRefused` or `NotFound` where no process serves it any more; `PermissionDenied` where it
/// is another user's.
pub fn ask(path: &Path) -> io::Result<Status> {
    ask_owned(path, None)
}

/// The same of a socket of which somebody says that it is a device's: nobody else's process but the `owner`'s is
/// asked.
///
/// # Errors
///
/// As [`ask`]; `PermissionDenied` where it is another user's.
pub fn ask_owned(path: &Path, owner: Option<u32>) -> io::Result<Status> {
    let until = soon();
    let once = || call(path, Request::Info, owner, until)?.receive(STATUS_BYTES_MAX, until);
    once().or_else(|error: io::Error| match error.kind() {
        // It ended while it was asked: the next time nobody is there.
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => once(),
        _ => Err(error),
    })
}

/// Asks a device to stop, unless its disk is open somewhere or with `force`.
///
/// # Errors
///
/// As [`ask`].
pub fn stop(path: &Path, force: bool) -> io::Result<Stopped> {
    let mut server = call(path, Request::Stop { force }, None, soon())?;
    // Requests that the guest has in hand are waited for.
    server.receive(ANSWER_BYTES_MAX, soon() + limits::SLOW_CONTROL_TIMEOUT)
}

/// Asks a device for its open disk, where nobody here sees a node of it.
///
/// # Errors
///
/// As [`ask`], or why it is not to be had; `ResourceBusy` where it is to be written, and in use.
pub fn open(path: &Path, read_only: bool) -> io::Result<File> {
    let server = call(path, Request::Open { read_only }, None, soon())?;
    // What a broker does has bounds of its own.
    let most = limits::SLOW_CONTROL_TIMEOUT + limits::SOCKET_TIMEOUT;
    server.socket().set_read_timeout(Some(most))?;
    let (bytes, files) = message::receive(server.socket())?;
    let Opened { error, busy } = serde_json::from_slice(&bytes)?;
    match (files.into_iter().next(), error) {
        (Some(disk), _) => Ok(disk.into()),
        (None, Some(_)) if busy => Err(ErrorKind::ResourceBusy.into()),
        (None, Some(why)) => Err(io::Error::other(why)),
        (None, None) => Err(ErrorKind::UnexpectedEof.into()),
    }
}

/// A wait for the end of a device's process.
#[derive(Debug)]
pub struct End(Lines);

impl End {
    /// Begins to wait, before whatever makes the device end.
    ///
    /// # Errors
    ///
    /// As [`ask`]; `QuotaExceeded` where too many wait already.
    pub fn of(path: &Path) -> io::Result<End> {
        let until = soon();
        let mut server = call(path, Request::Wait, None, until)?;
        // The process says when it has taken note: from then on its last word cannot be missed.
        match server.receive(ANSWER_BYTES_MAX, until)? {
            Noted { waiting: true } => Ok(End(server)),
            Noted { waiting: false } => Err(io::Error::new(
                ErrorKind::QuotaExceeded,
                format!("{} others wait for its end already", limits::WAITERS_MAX),
            )),
        }
    }

    /// The device's minder, as the kernel knows it: it made the socket. `None` where this process does not see it.
    #[must_use]
    pub fn minder(&self) -> Option<u32> {
        let peer = socket_peercred(self.0.socket()).ok()?;
        u32::try_from(peer.pid.as_raw_pid())
            .ok()
            .filter(|pid| *pid > 0)
    }

    /// Waits until the process has ended; gives what went wrong in it, if anything.
    ///
    /// # Errors
    ///
    /// `TimedOut` where it does not end within [`limits::STOP_TIMEOUT`].
    pub fn wait(&mut self) -> io::Result<Option<String>> {
        let until = Instant::now() + limits::STOP_TIMEOUT;
        let outcome = match self.0.receive(ANSWER_BYTES_MAX, until) {
            Err(why) if why.kind() == ErrorKind::TimedOut => return Err(why),
            // No word at all: it was killed, and what it had not flushed is lost.
            said => said.unwrap_or_else(|_| Outcome {
                error: Some("its process was killed".into()),
            }),
        };
        self.0.end(until)?;
        Ok(outcome.error)
    }
}
