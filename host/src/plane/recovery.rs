//! What a minder keeps of a device whose data planes may follow one another.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keeper::{Guest, Keeper};
use super::log::LogFiles;
use crate::backoff::Backoff;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::ublk::abi::DevInfo;

/// What a further data plane needs, and how many there were.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    kept: Option<Kept>,
    log: Option<LogFiles>,
}

#[derive(Debug)]
struct Kept {
    guest: Guest,
    info: DevInfo,
    listener: UnixListener,
    backoff: Backoff,
    /// The open `/dev/ublkcN`, until the data plane has it.
    file: Option<Arc<File>>,
}

impl Recovery {
    /// Keeps what the next data plane will get.
    pub(super) fn keep(
        &mut self,
        guest: Guest,
        info: DevInfo,
        listener: &UnixListener,
    ) -> Result<()> {
        let listener = listener.try_clone().doing(no_descriptor)?;
        self.kept = Some(Kept {
            guest,
            info,
            listener,
            backoff: Backoff::new(Instant::now()),
            file: None,
        });
        Ok(())
    }

    /// The same for the log, where there is one.
    pub(super) fn keep_log(&mut self, files: Option<&LogFiles>) -> Result<()> {
        let copy = files.map(LogFiles::try_clone).transpose();
        self.log = copy.doing(no_descriptor)?;
        Ok(())
    }

    /// The log for a further data plane.
    pub(super) fn log(&self) -> Result<Option<LogFiles>> {
        let copy = self.log.as_ref().map(LogFiles::try_clone).transpose();
        copy.doing(no_descriptor)
    }

    /// The device is told to end: nobody takes it up any more.
    pub(super) fn end(&mut self) {
        self.kept = None;
    }

    /// How long to wait before the device is taken up; `None` where it is not.
    pub(super) fn next_delay(&mut self) -> Option<Duration> {
        let kept = self.kept.as_mut()?;
        let (most, delay) = (limits::RECOVERIES_MAX, limits::RECOVERY_DELAY);
        kept.backoff.ended(Instant::now(), most, delay)
    }

    /// Takes the device up, for the data plane that is started next.
    pub(super) fn take_up(&mut self, device: &mut Keeper) -> Result<()> {
        if let Some(kept) = &mut self.kept {
            // As long as it is open, the kernel sees no end.
            kept.file = None;
            kept.file = Some(Arc::new(device.recover()?));
        }
        Ok(())
    }

    /// What a further data plane asked for, where this is one.
    pub(super) fn again(
        &mut self,
        guest: &Guest,
    ) -> Option<Result<(DevInfo, Arc<File>, UnixListener)>> {
        let kept = self.kept.as_mut()?;
        let file = kept.file.take()?;
        if *guest != kept.guest {
            let text =
                "the guest is another device than before; 'wasmblk del' it, and add it again";
            return Some(Err(Error::failed(text)));
        }
        let listener = kept.listener.try_clone().doing(no_descriptor);
        Some(listener.map(|listener| (kept.info, file, listener)))
    }
}

fn no_descriptor() -> String {
    "no further file descriptor".into()
}
