//! Closing what somebody else may have made slow to close.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::thread::Builder;

/// Closes sockets, and with them the files that nobody has taken out of the messages in them, by the end of a thread
/// that has the last copies. A file may make its last `close` wait: a socket for as long as SO_LINGER says, but not
/// where that is part of an end; others hold up that thread.
///
/// # Errors
///
/// Where there is no such thread, and nothing is closed yet.
pub fn leave(sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    let (copied, has_copies) = channel();
    let (closed, is_closed) = channel::<()>();
    Builder::new().name("leave".into()).spawn(move || {
        // SAFETY: takes flags. This thread opens and closes nothing: whatever file another one has stays its own.
        let result = match unsafe { libc::unshare(libc::CLONE_FILES) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        if copied.send(result).is_ok() {
            // Nothing is sent: this ends when the other end is dropped.
            let _ = is_closed.recv();
        }
    })?;
    (has_copies.recv()).unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
    // Not the last copies.
    sockets.clear();
    drop(closed);
    Ok(())
}
