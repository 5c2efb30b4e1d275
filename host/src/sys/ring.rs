//! The ring for control commands: one at a time, each with a bound.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use zerocopy::IntoBytes;

use crate::ublk::abi::CtrlCmd;

/// Longest data of a command: a mask of 32768 processors.
const DATA_BYTES_MAX: usize = 4096;

/// `/dev/ublk-control` with a ring of large entries, as its commands need.
pub struct ControlRing {
    control: File,
    /// `None` after a command that did not come back, until the next one.
    session: Option<Session>,
}

/// A ring, and the memory where the kernel reads and writes a command's data.
struct Session {
    ring: IoUring<squeue::Entry128, cqueue::Entry>,
    data: Box<[u8; DATA_BYTES_MAX]>,
}

impl Session {
    fn new() -> io::Result<Session> {
        let ring = IoUring::builder().build(4)?;
        Ok(Session {
            ring,
            data: Box::new([0; DATA_BYTES_MAX]),
        })
    }
}

impl std::fmt::Debug for ControlRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlRing").finish_non_exhaustive()
    }
}

impl ControlRing {
    /// Makes a ring for an open `/dev/ublk-control`.
    ///
    /// # Errors
    ///
    /// Where this system allows no io_uring (`EPERM`, `ENOSYS`).
    pub fn new(control: File) -> io::Result<ControlRing> {
        Ok(ControlRing {
            control,
            session: Some(Session::new()?),
        })
    }

    /// Carries out one command. `data` goes to the kernel, and comes back as the kernel left it.
    ///
    /// # Errors
    ///
    /// The kernel's error for the command; `TimedOut` where it does not come back in time. It may
    /// still be carried out then, but the next command does not wait for it.
    ///
    /// # Panics
    ///
    /// Where `data` is longer than 4096 bytes.
    pub fn call(
        &mut self,
        operation: u32,
        mut command: CtrlCmd,
        data: &mut [u8],
        timeout: Duration,
    ) -> io::Result<i32> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::new()?,
        };
        let Session { ring, data: shared } = &mut session;
        shared[..data.len()].copy_from_slice(data);
        command.addr = shared.as_mut_ptr() as u64;
        command.len = u16::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = [0; 80];
        bytes[..size_of::<CtrlCmd>()].copy_from_slice(command.as_bytes());
        let entry = opcode::UringCmd80::new(Fd(self.control.as_raw_fd()), operation)
            .cmd(bytes)
            .build();
        // SAFETY: the entry points into the session's `data`, which is freed only when no command is
        // under way: below, it is leaked where one does not come back.
        unsafe { ring.submission().push(&entry) }
            .map_err(|_| io::Error::other("the control ring is full"))?;
        let result = match wait(ring, Instant::now() + timeout) {
            Ok(result) => result,
            Err(error) => {
                // The kernel may still carry it out, and then uses this memory: it stays for ever.
                Box::leak(session.data);
                return Err(error);
            }
        };
        data.copy_from_slice(&shared[..data.len()]);
        self.session = Some(session);
        if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(result)
        }
    }
}

/// Submits what was pushed and waits for its result.
fn wait(ring: &mut IoUring<squeue::Entry128, cqueue::Entry>, deadline: Instant) -> io::Result<i32> {
    loop {
        let left = Timespec::from(deadline.saturating_duration_since(Instant::now()));
        let waited = ring
            .submitter()
            .submit_with_args(1, &SubmitArgs::new().timespec(&left));
        if let Some(completion) = ring.completion().next() {
            return Ok(completion.result());
        }
        match waited.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) | Err((Some(libc::EINTR), _)) => {}
            Err((Some(libc::ETIME), _)) => return Err(io::ErrorKind::TimedOut.into()),
            Err((_, error)) => return Err(error),
        }
    }
}
