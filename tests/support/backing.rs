//! Files that devices use as stores.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A file of zeros, removed at the end.
#[derive(Debug)]
pub struct Backing(PathBuf);

impl Backing {
    /// Makes one of so many bytes.
    ///
    /// # Panics
    ///
    /// Where that is not possible.
    #[must_use]
    pub fn new(name: &str, bytes: u64) -> Backing {
        Backing::within(&env::temp_dir(), name, bytes)
    }

    /// Makes one of so many bytes, in memory where the system has a place for that.
    ///
    /// # Panics
    ///
    /// As [`Backing::new`].
    #[must_use]
    pub fn in_memory(name: &str, bytes: u64) -> Backing {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            Backing::within(memory, name, bytes)
        } else {
            Backing::new(name, bytes)
        }
    }

    fn within(folder: &Path, name: &str, bytes: u64) -> Backing {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = folder.join(format!("wasmblk-store-{name}-{process}-{count}"));
        let file = File::create(&path).expect("a file can be made");
        file.set_len(bytes).expect("a file can be long");
        Backing(path)
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Words for `--store`; `how` is what stands behind the path.
    #[must_use]
    pub fn grant(&self, name: &str, how: &str) -> String {
        format!("{name}={}{how}", self.0.display())
    }

    /// All that is in it.
    ///
    /// # Panics
    ///
    /// Where it cannot be read.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        fs::read(&self.0).expect("it can be read")
    }

    /// It, opened for reading and writing.
    ///
    /// # Panics
    ///
    /// Where it cannot be opened.
    #[must_use]
    pub fn file(&self) -> File {
        let open = OpenOptions::new().read(true).write(true).open(&self.0);
        open.expect("it can be opened")
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
