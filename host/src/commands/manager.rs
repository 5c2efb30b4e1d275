//! The service manager that began this process, where it waits to be told that all is ready (sd_notify(3)).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

use crate::limits;

/// A connection to it, where there is one.
pub(super) struct Manager(Option<UnixDatagram>);

impl Manager {
    /// Connects, which a process cannot do any more when it is confined.
    pub(super) fn connect() -> Manager {
        let name = env::var_os("NOTIFY_SOCKET");
        Manager(name.and_then(|name| connect(name.as_bytes()).map_err(warned).ok()))
    }

    /// Tells it that this process serves, once: nobody who takes the process over finds a way to it.
    pub(super) fn tell_ready(self) {
        if let Some(socket) = self.0
            && let Err(error) = rustix::io::write(&socket, b"READY=1")
        {
            warned(error.into());
        }
    }
}

fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(limits::MANAGER_TIMEOUT))?;
    Ok(socket)
}

#[expect(clippy::needless_pass_by_value, reason = "errors are mapped to it")]
fn warned(error: io::Error) {
    warn!(%error, "the service manager of $NOTIFY_SOCKET cannot be told that all is ready");
}
