//! Where log lines go: standard error, or a device's own file of bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tracing::error;
use tracing_subscriber::EnvFilter;

use crate::error::{Context, Error, Result};
use crate::limits;

/// Where lines go now.
static SINK: Mutex<Option<LogFile>> = Mutex::new(None);

/// Starts logging to standard error.
///
/// # Errors
///
/// Where the filter is not one.
pub fn init(filter: &str) -> Result<()> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|why| Error::usage(format!("--log {filter}: not a filter")).because(why))?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_target(true)
        .with_ansi(false)
        .with_writer(|| Sink)
        // A log that cannot be written must not end the process by a second message about that.
        .log_internal_errors(false)
        .try_init()
        .map_err(|why| Error::failed("cannot start logging").because(why))
}

/// Sends all further lines to a file, and panics too.
///
/// # Errors
///
/// The system's.
pub fn log_to(files: LogFiles) -> io::Result<()> {
    let bytes = files.log.metadata()?.len();
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(LogFile { files, bytes });
    panic::set_hook(Box::new(|panic| error!("{panic}")));
    Ok(())
}

/// A device's log and the one before it, open: who writes the log needs no folder for that.
#[derive(Debug)]
pub struct LogFiles {
    log: File,
    old: File,
}

impl LogFiles {
    /// Begins a log. That of the number's last device is kept until the next one, or until this one is full.
    ///
    /// # Errors
    ///
    /// Where the files cannot be made.
    pub fn begin(path: &Path) -> Result<LogFiles> {
        let old = path.with_extension("log.old");
        let _ = fs::rename(path, &old);
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.create(true).read(true).append(true).mode(0o600);
            options
                .open(path)
                .doing(|| format!("cannot write the log {}", path.display()))
        };
        Ok(LogFiles {
            log: open(path)?,
            old: open(&old)?,
        })
    }

    /// A copy of both, for another process.
    ///
    /// # Errors
    ///
    /// Where there is no further file descriptor.
    pub fn try_clone(&self) -> io::Result<LogFiles> {
        Ok(LogFiles {
            log: self.log.try_clone()?,
            old: self.old.try_clone()?,
        })
    }

    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.log.as_fd(), self.old.as_fd()]
    }

    /// What came along with a message; `None` where nothing did.
    pub(super) fn of(files: Vec<OwnedFd>) -> Option<LogFiles> {
        let mut files = files.into_iter().map(File::from);
        Some(LogFiles {
            log: files.next()?,
            old: files.next()?,
        })
    }

    /// What was written becomes the old log, and the one before goes.
    fn turn_over(&self) -> io::Result<()> {
        self.old.set_len(0)?;
        let mut piece = vec![0; 64 << 10];
        let mut at = 0;
        loop {
            match self.log.read_at(&mut piece, at)? {
                0 => break,
                bytes => {
                    (&self.old).write_all(&piece[..bytes])?;
                    at += bytes as u64;
                }
            }
        }
        self.log.set_len(0)
    }
}

struct Sink;

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match SINK.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(file) => file.write(line),
            None => io::stderr().write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct LogFile {
    files: LogFiles,
    bytes: u64,
}

impl LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > limits::LOG_FILE_BYTES_MAX {
            self.files.turn_over()?;
            self.bytes = 0;
        }
        let written = (&self.files.log).write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }
}
