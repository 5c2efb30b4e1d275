//! Locks on files that belong to the open file, not to the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Locks all of a file, against everybody who asks in the same way (`F_OFD_SETLK`, fcntl_locking(2)), until it
/// is closed: alone, or together with others who only read. Does not wait.
///
/// # Errors
///
/// `EAGAIN` or `EACCES` where somebody else has it; what the file system says where it has no locks.
pub fn lock_file(file: &File, alone: bool) -> io::Result<()> {
    let kind = if alone { libc::F_WRLCK } else { libc::F_RDLCK };
    let whole = libc::flock {
        l_type: kind.try_into().unwrap_or_default(),
        // SEEK_SET is 0: from the begin.
        l_whence: 0,
        l_start: 0,
        // To the end, wherever that is.
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the kernel reads the structure during the call, and changes nothing of ours.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const whole) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
