//! Threads that begin before their process is confined. The kernel keeps capabilities for each thread, and before
//! Linux 7.0 what Landlock allows as well; so each gives them up when it begins.

use std::io;
use std::sync::mpsc::channel;
use std::thread::{Builder, JoinHandle};

use tracing::debug;

use super::{Needed, landlock};
use crate::sys::drop_capabilities;

/// Starts a thread that has no capabilities and no way to files and addresses but those that are open, and waits until
/// that is so: afterwards it could be forbidden to give them up.
///
/// # Errors
///
/// Where the system gives no thread.
pub fn spawn_unprivileged<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let (begin, begun) = channel::<()>();
    let thread = Builder::new().name(name.into()).spawn(move || {
        for_thread(&[]);
        drop(begin);
        work()
    })?;
    // Nothing is sent: this ends when the other end is dropped.
    let _ = begun.recv();
    Ok(thread)
}

/// Gives that up for this thread, which connects to some ports of TCP.
pub fn for_thread(ports: &[u16]) {
    // Where it has none already, that may be refused.
    let _ = drop_capabilities();
    let needed = Needed {
        ports: ports.to_vec(),
        ..Needed::default()
    };
    if let Err(error) = landlock::this_thread(&needed) {
        debug!(%error, "a thread has only what its process will have");
    }
}
