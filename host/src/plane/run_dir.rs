//! The folder with one control socket for each device.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::socket::ask;
use crate::config::make_run_dir;
use crate::error::{Context, Error, Result};
use crate::limits;

/// How often a held lock is tried again.
const LOCK_STEP: Duration = Duration::from_millis(20);

/// `N.sock` and `N.log` for the device N, and `lock`.
#[derive(Clone, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Names the folder; it need not be there.
    #[must_use]
    pub fn new(folder: PathBuf) -> RunDir {
        RunDir(folder)
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The control socket of a device.
    #[must_use]
    pub fn socket(&self, id: u32) -> PathBuf {
        self.0.join(format!("{id}.sock"))
    }

    /// The log of a device.
    #[must_use]
    pub fn log(&self, id: u32) -> PathBuf {
        self.0.join(format!("{id}.log"))
    }

    /// The ids that have a socket, ascending. Their processes may be gone.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir(&self.0) else {
            return Vec::new();
        };
        let id = |name: &str| name.strip_suffix(".sock")?.parse().ok();
        let mut ids: Vec<u32> = entries
            .flatten()
            .filter_map(|entry| id(entry.file_name().to_str()?))
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Makes the folder and takes its lock, which whoever adds or deletes a device holds while ids
    /// and names change hands.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be made, or somebody holds the lock for longer than any of that takes.
    pub fn lock(&self) -> Result<File> {
        let shown = self.0.display();
        make_run_dir(&self.0).doing(|| format!("cannot make {shown}; try --run-dir"))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.0.join("lock"))
            .doing(|| format!("cannot use {shown} (does it belong to another user?)"))?;
        let tries = limits::CONTROL_TIMEOUT.as_millis() / LOCK_STEP.as_millis();
        for _ in 0..tries {
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                return Ok(lock);
            }
            thread::sleep(LOCK_STEP);
        }
        Err(Error::failed(format!(
            "another wasmblk has been adding or deleting a device in {shown} for {} s; is it stuck in \
             the kernel? 'wasmblk doctor' knows kernels that hang",
            limits::CONTROL_TIMEOUT.as_secs()
        )))
    }

    /// A name belongs to one device at a time. Called with the lock held.
    ///
    /// # Errors
    ///
    /// Where another device has it.
    pub(super) fn check_name(&self, name: Option<&str>) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        for id in self.ids() {
            if ask(&self.socket(id)).is_ok_and(|other| other.name.as_deref() == Some(name)) {
                return Err(Error::failed(format!(
                    "--name {name} is taken by device {id}; choose another, or 'wasmblk del {id}'"
                )));
            }
        }
        Ok(())
    }

    /// Removes the socket of a device that is gone; its log stays to be read.
    pub fn forget_socket(&self, id: u32) {
        let _ = fs::remove_file(self.socket(id));
    }
}
