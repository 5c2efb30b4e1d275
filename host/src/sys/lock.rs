//! Locks on files that belong to the open file, not to the process.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use crate::limits;

/// How often a lock is tried.
const STEP: Duration = Duration::from_millis(5);

/// Locks all of a file, against everybody who asks in the same way (`F_OFD_SETLK`, fcntl_locking(2)), until it
/// is closed: alone, or together with others who only read. `false` where somebody else has it, for longer than
/// who is ending just now ([`limits::STORE_LOCK_TIME`]).
///
/// # Errors
///
/// What the file system says where it has no locks.
pub fn lock_file(file: &File, alone: bool) -> io::Result<bool> {
    let begin = Instant::now();
    loop {
        let Err(why) = try_lock(file, alone) else {
            return Ok(true);
        };
        match why.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => {}
            _ => return Err(why),
        }
        if begin.elapsed() > limits::STORE_LOCK_TIME {
            return Ok(false);
        }
        thread::sleep(STEP);
    }
}

fn try_lock(file: &File, alone: bool) -> io::Result<()> {
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
