//! Lines of JSON over a socket. Whoever is at the other end may be anybody: each line has a bound for its length, and
//! one for all of its time, however it comes.

use std::io::{self, ErrorKind};
use std::mem::replace;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, retry_on_intr};
use rustix::net::{SendFlags, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is read at a time.
const PIECE_BYTES: usize = 16 << 10;

/// A connection.
#[derive(Debug)]
pub(super) struct Lines {
    socket: UnixStream,
    /// What came behind the last line.
    ahead: Vec<u8>,
}

impl Lines {
    pub(super) fn new(socket: UnixStream) -> Lines {
        Lines {
            socket,
            ahead: Vec::new(),
        }
    }

    pub(super) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Whether nobody is at the other end any more.
    pub(super) fn has_left(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    /// Waits for a line.
    ///
    /// # Errors
    ///
    /// `TimedOut`, `UnexpectedEof`; `InvalidData` where it is too long, or not what was expected.
    pub(super) fn receive<T: DeserializeOwned>(
        &mut self,
        bytes_max: usize,
        until: Instant,
    ) -> io::Result<T> {
        let mut looked = 0;
        loop {
            let end = self.ahead[looked..].iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let rest = self.ahead.split_off(looked + end + 1);
                return Ok(serde_json::from_slice(&replace(&mut self.ahead, rest))?);
            }
            looked = self.ahead.len();
            if looked >= bytes_max {
                return Err(io::Error::new(ErrorKind::InvalidData, "too long a line"));
            }
            let mut piece = [0; PIECE_BYTES];
            match self.read(&mut piece, until)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                bytes => self.ahead.extend(&piece[..bytes]),
            }
        }
    }

    /// Waits until the other end is closed, whatever else comes.
    ///
    /// # Errors
    ///
    /// `TimedOut`.
    pub(super) fn end(&mut self, until: Instant) -> io::Result<()> {
        while self.read(&mut [0; PIECE_BYTES], until)? > 0 {}
        Ok(())
    }

    fn read(&self, piece: &mut [u8], until: Instant) -> io::Result<usize> {
        self.wait(PollFlags::IN, until)?;
        Ok(retry_on_intr(|| read(&self.socket, &mut *piece))?)
    }

    /// Sends a line.
    ///
    /// # Errors
    ///
    /// `TimedOut`; the system's.
    pub(super) fn send(&self, message: &impl Serialize, until: Instant) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut left = &line[..];
        while !left.is_empty() {
            self.wait(PollFlags::OUT, until)?;
            // One call that waits would wait anew for each part of a long line.
            match send(
                &self.socket,
                left,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(bytes) => left = &left[bytes..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(why) => return Err(why.into()),
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, until: Instant) -> io::Result<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(|_| ErrorKind::InvalidInput)?;
            // Also where something is there: a byte now and then is no line.
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            match poll(&mut [PollFd::new(&self.socket, what)], Some(&timeout)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(why) => return Err(why.into()),
            }
        }
    }
}
