//! What a process says of itself.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use std::time::Duration;

/// `include/uapi/linux/prctl.h`; libc does not name it.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Marks this thread, and those that it starts, as writing back memory (`PR_SET_IO_FLUSHER`): when one
/// needs memory, the kernel does not wait for writes that only this process could do.
///
/// # Errors
///
/// `EPERM` without CAP_SYS_RESOURCE.
pub fn set_io_flusher() -> io::Result<()> {
    // SAFETY: takes integers and changes one flag of this thread.
    let result = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// This thread, and those that it starts, have no capabilities from here on. Where it may decide that, no
/// program that it starts has some either.
///
/// # Errors
///
/// The system's.
pub fn drop_capabilities() -> io::Result<()> {
    keep_capabilities(CapabilitySet::empty())
}

/// What a data plane gives up step by step, or uses before that.
const DATA_PLANES: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_RESOURCE);

/// The same, but for what ublk's control commands take, and files of other users in a run directory; where it
/// `recovers`, also for what further data planes begin with.
///
/// # Errors
///
/// The system's.
pub fn keep_minders_capabilities(recovers: bool) -> io::Result<()> {
    let mut kept = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_OVERRIDE;
    kept.set(CapabilitySet::SYS_RESOURCE, recovers);
    keep_capabilities(kept)
}

/// The same, but for what ublk's control commands take, and what giving a node to a user takes; where it `hosts`
/// data planes, also for what marks them as I/O flushers.
///
/// # Errors
///
/// The system's.
pub fn keep_brokers_capabilities(hosts: bool) -> io::Result<()> {
    let mut kept = CapabilitySet::SYS_ADMIN | CapabilitySet::CHOWN | CapabilitySet::FOWNER;
    kept.set(CapabilitySet::SYS_RESOURCE, hosts);
    keep_capabilities(kept)
}

/// The same, but for what giving a control socket to a user takes; where it `recovers`, also for what further data
/// planes begin with.
///
/// # Errors
///
/// The system's.
pub fn keep_hosts_capabilities(recovers: bool) -> io::Result<()> {
    let mut kept = CapabilitySet::CHOWN;
    kept.set(DATA_PLANES, recovers);
    keep_capabilities(kept)
}

fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let all = (0..u64::BITS).map(|bit| CapabilitySet::from_bits_retain(1 << bit));
    for capability in all.filter(|capability| !kept.contains(*capability)) {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // That was the last; or this is nobody who could lose any.
            Err(Errno::INVAL | Errno::PERM) => break,
            Err(error) => return Err(error.into()),
        }
    }
    clear_ambient_capability_set()?;
    let left = capabilities(None)?.permitted & kept;
    let sets = CapabilitySets {
        effective: left,
        permitted: left,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    Ok(())
}

/// What whoever started this process left open for it beside the standard ones, a lock for instance, is open here only:
/// no program that is started from here on has it.
///
/// # Errors
///
/// The system's.
pub fn keep_files_here() -> io::Result<()> {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: takes integers, and sets a flag of descriptors, which stay open for whoever owns them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            last,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The first file descriptor behind the standard ones, which whoever started this process left open for it
/// (`SD_LISTEN_FDS_START` of sd_listen_fds(3)). It is given out once.
///
/// # Errors
///
/// `EBADF` where there is none.
pub fn first_inherited_fd() -> io::Result<OwnedFd> {
    inherited_fd(3)
}

/// A file descriptor that whoever started this process left open for it, as it says. One is given out, once.
///
/// # Errors
///
/// `EBADF` where there is none.
pub fn inherited_fd(number: i32) -> io::Result<OwnedFd> {
    static GIVEN: AtomicBool = AtomicBool::new(false);
    if number < 3 || GIVEN.swap(true, Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: sets a flag of a number; where it is no descriptor, that is an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open; nobody in this process owns it: who started it made it for us, and says so (LISTEN_FDS, or
    // an option of a command that is for nobody else), and it is given out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A descriptor of its own for a file that whoever started this process left open as `number`.
///
/// # Errors
///
/// `EBADF` where there is none.
pub fn copy_of_fd(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: makes a new descriptor; where the number is none, that is an error.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was made by the call above, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Computing time of this thread until now.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Computing time of this process until now, of all its threads.
#[must_use]
pub fn process_cpu_time() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Zero where there is no such clock; every kernel has those two.
fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the structure, which outlives the call.
    let result = unsafe { libc::clock_gettime(id, &raw mut time) };
    if result != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
