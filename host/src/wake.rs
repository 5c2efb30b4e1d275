//! What ends a device: a signal, or a thread of it that has ended.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::low_level::pipe::register;

use crate::error::{Context, Error, Result};

/// A pair of sockets: whatever ends the device writes a byte into it.
#[derive(Debug)]
pub struct Wake {
    reader: UnixStream,
    writer: UnixStream,
}

impl Wake {
    /// From here on SIGTERM, SIGINT and SIGHUP do not end the process, but wake it.
    ///
    /// # Errors
    ///
    /// Where the system refuses that.
    pub fn new() -> Result<Wake> {
        Wake::by(&[SIGTERM, SIGINT, SIGHUP])
    }

    /// The same for a process that reads its files again at SIGHUP: what ends it, and what has it read them.
    ///
    /// # Errors
    ///
    /// As [`Wake::new`].
    pub fn end_and_reload() -> Result<(Wake, Wake)> {
        Ok((Wake::by(&[SIGTERM, SIGINT])?, Wake::by(&[SIGHUP])?))
    }

    fn by(signals: &[i32]) -> Result<Wake> {
        let failed = || "cannot catch signals".to_owned();
        let (reader, writer) = UnixStream::pair().doing(failed)?;
        for &signal in signals {
            register(signal, writer.try_clone().doing(failed)?).doing(failed)?;
        }
        Ok(Wake { reader, writer })
    }

    /// From here on a file that may grow no further is an error of who writes it (`EFBIG`), not the process's end by
    /// SIGXFSZ. What this process starts is ended by it as usual.
    ///
    /// # Errors
    ///
    /// Where the system refuses that.
    pub fn survive_file_limits() -> Result<()> {
        let flag = signal_hook::flag::register(SIGXFSZ, Arc::default());
        flag.doing(|| "cannot catch signals".into()).map(drop)
    }

    /// A value that wakes when it is dropped.
    ///
    /// # Errors
    ///
    /// Where there is no further file descriptor.
    pub fn at_end(&self) -> io::Result<WakeAtEnd> {
        self.writer.try_clone().map(WakeAtEnd)
    }

    /// Whether to go on with the start.
    ///
    /// # Errors
    ///
    /// Where something has woken us already.
    pub fn check(&self) -> Result<()> {
        match self.is_woken_within(Duration::ZERO) {
            Ok(true) => Err(Error::failed(
                "it was told to end before the device was ready",
            )),
            Ok(false) | Err(_) => Ok(()),
        }
    }

    /// Waits until something wakes us, no longer than this. Says whether something has.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn wait_at_most(&self, time: Duration) -> Result<bool> {
        match self.is_woken_within(time) {
            // What interrupts is a signal, which wakes us.
            Err(Errno::INTR) => self.is_woken_within(Duration::ZERO),
            woken => woken,
        }
        .doing(|| "cannot wait for signals".into())
    }

    fn is_woken_within(&self, time: Duration) -> rustix::io::Result<bool> {
        let time = Timespec::try_from(time).map_err(|_| Errno::INVAL)?;
        let ready = poll(&mut [PollFd::new(&self.reader, PollFlags::IN)], Some(&time))?;
        Ok(ready > 0)
    }

    /// Waits until something wakes us.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn wait(&mut self) -> Result<()> {
        self.reader
            .read_exact(&mut [0])
            .doing(|| "cannot wait for signals".into())
    }
}

/// Wakes the main thread when another thread has ended, however it ended.
#[derive(Debug)]
pub struct WakeAtEnd(UnixStream);

impl Drop for WakeAtEnd {
    fn drop(&mut self) {
        // Nobody reads it when the end is under way already.
        let _ = self.0.write(&[0]);
    }
}

impl AsFd for Wake {
    /// It can be read once something has woken us.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Has this process get a signal when the one that started it ends.
///
/// # Errors
///
/// Where that has ended already.
pub fn end_with_parent(signal: Signal) -> Result<()> {
    let failed = || "cannot wait for the parent's end".to_owned();
    let parent = getppid();
    set_parent_process_death_signal(Some(signal)).doing(failed)?;
    if getppid() != parent {
        return Err(Error::failed("the parent has ended already"));
    }
    Ok(())
}
