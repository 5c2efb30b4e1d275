//! Files that clients send along: they are closed in threads of their own, for whoever sends a file can have its last
//! `close` wait, such as one of a file system that he serves himself.

use std::mem;
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

use super::wire::{Reason, Reply};
use crate::limits;
use crate::message;

/// What came along with a message, until it is closed elsewhere.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<OwnedFd>,
    closer: Sender<Vec<OwnedFd>>,
}

/// The threads, each with the user whose files it closes.
#[derive(Debug, Default)]
pub(super) struct Closers(Vec<(u32, JoinHandle<()>)>);

impl Closers {
    /// Takes the next message from a user's socket, and gives the files that come along.
    pub(super) fn receive(&mut self, uid: u32, socket: &OwnedFd) -> Result<Files, Reply> {
        self.0.retain(|(_, thread)| !thread.is_finished());
        let his = self.0.iter().filter(|(owner, _)| *owner == uid).count();
        let all = self.0.len() >= limits::CLOSERS_MAX && uid != 0;
        if his >= limits::CLOSERS_OF_USER_MAX || all {
            let text = "files that were sent before still wait to be closed: is it a file system that hangs? \
                        Unmount it, or end what serves it";
            return Err(Reply::refused(Reason::Busy, text));
        }
        let failed = |why: std::io::Error| Reply::refused(Reason::Failed, why.to_string());
        let (closer, closed) = channel::<Vec<OwnedFd>>();
        // Before there is anything to close.
        let thread = Builder::new().name("closer".into());
        let thread = thread.spawn(move || drop(closed.recv())).map_err(failed)?;
        self.0.push((uid, thread));
        let (_, files) = message::receive(socket).map_err(failed)?;
        Ok(Files { files, closer })
    }
}

impl Deref for Files {
    type Target = [OwnedFd];

    fn deref(&self) -> &[OwnedFd] {
        &self.files
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = self.closer.send(mem::take(&mut self.files));
    }
}
