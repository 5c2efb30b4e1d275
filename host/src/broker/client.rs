//! The client's side: asking for a device, and what can be done with its capability. It needs no privilege, no
//! device nodes and no files but the broker's socket.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::wire::{self, Command, Reason, Record, Reply, Request, Wanted};
use crate::config::DeviceConfig;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::message;
use crate::text::printable;
use crate::ublk::abi::DevInfo;

/// Where a broker listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/wasmblk/broker.sock";

/// Devices that a list may have: as many as the kernel has numbers.
const ALL_MAX: usize = limits::ID_MAX as usize + 1;

/// A device capability. Whoever has it, or a copy of it, can do with the device what [`Command`] has; when the last
/// is closed, the device is stopped and deleted, unless it was detached.
#[derive(Debug)]
pub struct Capability(OwnedFd);

/// Whether a broker answers at a socket. It may refuse everything.
#[must_use]
pub fn answers(path: &Path) -> bool {
    call(path).is_ok()
}

/// Asks for a new device. Gives its capability, what the kernel made of it, and the open `/dev/ublkcN`.
///
/// # Errors
///
/// Says that nobody answers, what the broker refuses and why, or what the kernel refuses.
pub fn device(path: &Path, wanted: &Wanted) -> Result<(Capability, DevInfo, File)> {
    let (reply, files) = request(path, &Request::Device(wanted.clone()), &[])?;
    let capability = capability(reply, files)?;
    let added = capability
        .receive()
        .doing(|| "the device's warden is gone".into())?;
    match (added.0, added.1.into_iter().next()) {
        (Reply::Added { info }, Some(file)) => Ok((capability, info, file.into())),
        (Reply::Refused { reason, text }, _) => Err(refusal(reason, &text)),
        _ => Err(nonsense()),
    }
}

/// Asks for a further capability of the device whose open `/dev/ublkcN` this is.
///
/// # Errors
///
/// As [`device`].
pub fn attach(path: &Path, char_device: BorrowedFd<'_>) -> Result<Capability> {
    let (reply, files) = request(path, &Request::Attach, &[char_device])?;
    capability(reply, files)
}

/// Asks the broker to serve a device by its own processes, and waits until it can be used. Gives its number.
///
/// # Errors
///
/// As [`device`], or why it cannot be served.
pub fn host(path: &Path, config: &DeviceConfig, guest: &File, stores: &[File]) -> Result<u32> {
    let config = Box::new(config.clone());
    let files: Vec<_> = [guest].into_iter().chain(stores).map(AsFd::as_fd).collect();
    let asked = call(path).and_then(|socket| {
        message::send(&socket, &wire::encode(&Request::Serve { config })?, &files)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(limits::START_TIMEOUT))?;
        message::receive(&socket)
    });
    let (bytes, _) = asked.map_err(|why| unanswered(path, why))?;
    match wire::decode(&bytes) {
        Ok(Reply::Served { id }) => Ok(id),
        Ok(Reply::Refused { reason, text }) => Err(refusal(reason, &text)),
        _ => Err(nonsense()),
    }
}

/// Asks for the devices that this user may see: his own, or for root all.
///
/// # Errors
///
/// As [`device`].
pub fn list(path: &Path) -> Result<Vec<Record>> {
    let mut all: Vec<Record> = Vec::new();
    loop {
        let from = all
            .last()
            .and_then(|record| record.id)
            .map_or(0, |id| id + 1);
        match request(path, &Request::List { from }, &[])?.0 {
            Reply::Devices { devices } if devices.is_empty() => return Ok(all),
            // In order, so that this ends whoever answers.
            Reply::Devices { devices } => {
                all.extend(devices.into_iter().filter(|it| it.id >= Some(from)));
                if all.last().is_none_or(|last| last.id < Some(from)) || all.len() > ALL_MAX {
                    return Err(nonsense());
                }
            }
            Reply::Refused { reason, text } => return Err(refusal(reason, &text)),
            _ => return Err(nonsense()),
        }
    }
}

/// Puts a warden under the broker at a socket. Gives the connection for its reports.
pub(super) fn report(path: &Path, record: &Record) -> Result<OwnedFd> {
    let request = Request::Warden(record.clone());
    let sent = call(path).and_then(|socket| {
        message::send(&socket, &wire::encode(&request)?, &[])?;
        // Orders come when they come.
        set_socket_timeout(&socket, Timeout::Recv, None)?;
        Ok(socket)
    });
    sent.doing(|| "no broker answers".into())
}

impl Capability {
    /// One that was handed on.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Capability {
        Capability(fd)
    }

    /// Asks for something, and waits for the reply and what comes along with it.
    ///
    /// # Errors
    ///
    /// Where the device's warden is gone. What it refuses is a [`Reply`].
    pub fn ask(&self, command: &Command) -> io::Result<(Reply, Vec<OwnedFd>)> {
        message::send(&self.0, &wire::encode(command)?, &[])?;
        self.receive()
    }

    /// Asks for what only can be done or not.
    ///
    /// # Errors
    ///
    /// Why it is not; `ResourceBusy` where somebody uses the device, `TimedOut` where it takes longer.
    pub fn demand(&self, command: &Command) -> io::Result<Vec<OwnedFd>> {
        match self.ask(command)? {
            (Reply::Refused { reason, text }, _) => Err(match reason {
                Reason::Busy => io::ErrorKind::ResourceBusy.into(),
                Reason::TimedOut => io::ErrorKind::TimedOut.into(),
                _ => io::Error::other(printable(&text, limits::MESSAGE_BYTES_MAX)),
            }),
            (_, files) => Ok(files),
        }
    }

    fn receive(&self) -> io::Result<(Reply, Vec<OwnedFd>)> {
        let (bytes, files) = message::receive(&self.0)?;
        let reply = wire::decode(&bytes).map_err(io::Error::other)?;
        Ok((reply, files))
    }
}

impl AsFd for Capability {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn capability(reply: Reply, files: Vec<OwnedFd>) -> Result<Capability> {
    match (reply, files.into_iter().next()) {
        (Reply::Capability, Some(fd)) => {
            // What the warden does has bounds of its own, all shorter.
            let most = limits::SLOW_CONTROL_TIMEOUT + limits::CONTROL_TIMEOUT;
            bound(&fd, most).doing(|| "cannot use the capability".into())?;
            Ok(Capability(fd))
        }
        (Reply::Refused { reason, text }, _) => Err(refusal(reason, &text)),
        _ => Err(nonsense()),
    }
}

fn request(
    path: &Path,
    request: &Request,
    files: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>)> {
    let shown = path.display();
    let asked = call(path).and_then(|socket| {
        message::send(&socket, &wire::encode(request)?, files)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(limits::BROKER_TIMEOUT))?;
        Ok(socket)
    });
    let answer = message::receive(&asked.map_err(|why| unanswered(path, why))?);
    let answer = answer.map_err(|why| match why.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => why,
    });
    let (bytes, files) = answer.doing(|| format!("the broker at {shown} does not answer"))?;
    let reply = wire::decode(&bytes)
        .map_err(|why| Error::failed(format!("the broker at {shown} is another's")).because(why))?;
    Ok((reply, files))
}

/// Connects, with a bound.
fn call(path: &Path) -> io::Result<OwnedFd> {
    let kind = SocketType::SEQPACKET;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    bound(&socket, limits::SOCKET_TIMEOUT)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn unanswered(path: &Path, why: io::Error) -> Error {
    let shown = path.display();
    let text = match why.kind() {
        io::ErrorKind::PermissionDenied => {
            format!(
                "there is no way for this user to {shown}; root can try 'chmod go+x' on its folder"
            )
        }
        _ => format!("no broker answers at {shown}; is 'wasmblk broker' running?"),
    };
    Error::failed(text).because(why)
}

fn bound(socket: &OwnedFd, timeout: Duration) -> io::Result<()> {
    for direction in [Timeout::Send, Timeout::Recv] {
        set_socket_timeout(socket, direction, Some(timeout))?;
    }
    Ok(())
}

fn refusal(reason: Reason, text: &str) -> Error {
    let text = printable(text, limits::MESSAGE_BYTES_MAX);
    match reason {
        Reason::Wrong => Error::usage(text),
        _ => Error::failed(text),
    }
}

fn nonsense() -> Error {
    Error::failed("the broker talks nonsense")
}
