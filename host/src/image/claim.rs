//! What keeps others off the ends of a copy.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::end::Role;
use crate::error::{Error, Result};
use crate::sys::lock_file;

/// Takes the lock that a device has of a file that is its store: a target is for one alone, a source may have others
/// who read it.
pub(super) fn lock(file: &File, shown: &str, role: Role) -> Result<()> {
    match lock_file(file, role == Role::Target) {
        Ok(false) => Err(Error::failed(format!(
            "{shown} is in use: stop the device that has it"
        ))),
        // Where the file system has no locks, no device has one.
        Ok(true) | Err(_) => Ok(()),
    }
}

/// The same of a file that somebody else has opened: what is locked as that would stay so with him. Where this process
/// may not open it again, nothing tells whether it is in use.
pub(super) fn lock_again(file: &File, shown: &str, role: Role) -> Result<Option<File>> {
    let mut how = OpenOptions::new();
    how.read(role == Role::Source).write(role == Role::Target);
    let again = how.open(path_of(file)).ok();
    if let Some(again) = &again {
        lock(again, shown, role)?;
    }
    Ok(again)
}

/// Claims a disk that somebody else has opened, so that nobody mounts it. Where this process may not open it again,
/// nothing tells whether it is in use.
pub(super) fn claim(disk: &File) -> io::Result<Option<File>> {
    let claimed = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_EXCL)
        .open(path_of(disk));
    match claimed {
        Err(why) if why.kind() == ErrorKind::ResourceBusy => Err(why),
        claimed => Ok(claimed.ok()),
    }
}

/// The name that everything open has for this process.
pub(super) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
