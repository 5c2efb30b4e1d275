//! Where clients come in: a unix socket, or TCP.

use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay,
    socket_acceptconn, socket_domain,
};
use rustix::net::{AddressFamily, SocketFlags, accept_with};

use tracing::warn;

use super::tls::Tls;
use crate::error::{Context, Error, Result};
use crate::limits;

/// Where to listen.
#[derive(Clone, Debug)]
pub enum Address {
    /// A unix socket at this path.
    Unix(PathBuf),
    /// TCP at this address.
    Tcp(IpAddr, u16),
}

/// An open socket for clients. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    /// Somebody else's: its file stays.
    inherited: bool,
}

impl Listener {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// Names the address, and what to do where it is taken.
    pub fn open(address: &Address) -> Result<Listener> {
        let (socket, address): (OwnedFd, Address) = match address {
            Address::Unix(path) => {
                let listener = UnixListener::bind(path).map_err(|why| {
                    let shown = path.display();
                    let remedy = match why.kind() {
                        ErrorKind::AddrInUse => "; remove it, or choose another -U",
                        ErrorKind::NotFound => "; make its folder first",
                        _ => "",
                    };
                    Error::failed(format!("cannot listen at {shown}{remedy}")).because(why)
                })?;
                listener
                    .set_nonblocking(true)
                    .doing(|| "cannot listen".into())?;
                (listener.into(), Address::Unix(path.clone()))
            }
            Address::Tcp(ip, port) => {
                let wanted = SocketAddr::new(*ip, *port);
                let listener = TcpListener::bind(wanted).map_err(|why| {
                    let remedy = match why.kind() {
                        ErrorKind::AddrInUse => "; choose another --port",
                        ErrorKind::AddrNotAvailable => {
                            "; choose an address of this machine with -i"
                        }
                        ErrorKind::PermissionDenied => "; choose a --port above 1023",
                        _ => "",
                    };
                    Error::failed(format!("cannot listen at {wanted}{remedy}")).because(why)
                })?;
                listener
                    .set_nonblocking(true)
                    .doing(|| "cannot listen".into())?;
                let port = listener
                    .local_addr()
                    .doing(|| "cannot listen".into())?
                    .port();
                (listener.into(), Address::Tcp(*ip, port))
            }
        };
        Ok(Listener {
            socket,
            address,
            inherited: false,
        })
    }

    /// Takes a socket that listens already.
    ///
    /// # Errors
    ///
    /// Where it does not, or is neither a unix socket nor TCP.
    pub fn inherit(socket: OwnedFd) -> Result<Listener> {
        let failed = || "the socket that this process was started with cannot be used".to_owned();
        if !socket_acceptconn(&socket).doing(failed)? {
            return Err(Error::failed(format!("{}: it does not listen", failed())));
        }
        ioctl_fionbio(&socket, true).doing(failed)?;
        let (address, socket) = match socket_domain(&socket).doing(failed)? {
            AddressFamily::UNIX => {
                let listener = UnixListener::from(socket);
                let name = listener.local_addr().doing(failed)?;
                let path = name.as_pathname().map(PathBuf::from).unwrap_or_default();
                (Address::Unix(path), listener.into())
            }
            _ => {
                let listener = TcpListener::from(socket);
                let address = listener.local_addr().doing(failed)?;
                (Address::Tcp(address.ip(), address.port()), listener.into())
            }
        };
        Ok(Listener {
            socket,
            address,
            inherited: true,
        })
    }

    /// Where it listens; a port that was 0 is known now.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The export's address as NBD tools take it (`doc/uri.md` of the NBD project). With `tls`, by which name
    /// the server knows its clients, where it knows only one.
    #[must_use]
    pub fn uri(&self, export: &str, tls: Option<&Tls>) -> String {
        let scheme = if tls.is_some() { "nbds" } else { "nbd" };
        let user = tls.and_then(Tls::user).map(|user| quoted(user, b"") + "@");
        let user = user.unwrap_or_default();
        match &self.address {
            Address::Unix(path) => {
                let path = quoted(path.as_os_str().as_bytes(), b"/");
                format!("{scheme}+unix://{user}/{export}?socket={path}")
            }
            Address::Tcp(ip, port) => {
                let address = SocketAddr::new(*ip, *port);
                format!("{scheme}://{user}{address}/{export}")
            }
        }
    }

    /// Takes a client that is waiting, if there is one. Its socket does not block. An error is the
    /// system's, which has no room for it.
    pub(super) fn accept(&self) -> std::result::Result<Option<OwnedFd>, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = match accept_with(&self.socket, flags) {
            Ok(client) => client,
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                return Err(error);
            }
            Err(_) => return Ok(None),
        };
        if matches!(self.address, Address::Tcp(..)) {
            // Replies are written whole: waiting for more of them would only cost time.
            let _ = set_tcp_nodelay(&client, true);
            // One that is gone without a word is not to keep its place.
            let _ = set_tcp_keepidle(&client, limits::NBD_KEEPALIVE_TIME);
            let _ = set_tcp_keepintvl(&client, limits::NBD_KEEPALIVE_TIME / 6);
            let _ = set_tcp_keepcnt(&client, 6);
            let _ = set_socket_keepalive(&client, true);
        }
        Ok(Some(client))
    }
}

/// Bytes as a part of a URI in which some more characters mean themselves.
fn quoted(bytes: &[u8], more: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || more.contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Address::Unix(path) = &self.address
            && !self.inherited
        {
            // Nobody may use the same path again.
            if let Err(error) = fs::remove_file(path)
                && error.kind() != ErrorKind::NotFound
            {
                warn!(%error, "{} stays: remove it before the next start", path.display());
            }
        }
    }
}
