//! Where log lines go: standard error, or a device's own file of bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic;
use std::path::{Path, PathBuf};
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
/// Where the file cannot be made.
pub fn to_file(path: &Path) -> Result<()> {
    // The log of the number's last device is kept until the next one.
    let _ = fs::rename(path, path.with_extension("log.old"));
    let file = LogFile::open(path).doing(|| format!("cannot write the log {}", path.display()))?;
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    panic::set_hook(Box::new(|panic| error!("{panic}")));
    Ok(())
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
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<LogFile> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile {
            path: path.to_owned(),
            file,
            bytes,
        })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.bytes > limits::LOG_FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("log.old"))?;
            *self = LogFile::open(&self.path)?;
        }
        let written = self.file.write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }
}
