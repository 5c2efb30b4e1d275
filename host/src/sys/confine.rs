//! What a process gives up for good, where Rust has no safe name for it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `include/uapi/linux/prctl.h`; libc does not name them everywhere.
pub const PR_SET_MDWE: libc::c_int = 65;
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// Gives this thread, and those that it starts, a namespace of mounts of its own: a copy of what was there.
///
/// # Errors
///
/// `EPERM` without CAP_SYS_ADMIN.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: what is no longer shared are mounts, and with them this thread's root and working folder;
    // descriptors and memory stay.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Makes a mount that nobody else has one for data: nothing in it is a device, or a program, and where it is for
/// reading only, nothing in it is changed (Linux 5.12).
///
/// # Errors
///
/// The system's.
pub fn restrict_mount(mount: impl AsFd, read_only: bool) -> io::Result<()> {
    let mut set = libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
    if read_only {
        set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, and path and structure live until the call has ended, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// From here on memory of this process that can be written, or once could, never becomes code, and code never
/// becomes memory that can be written (`PR_SET_MDWE`, Linux 6.3).
///
/// # Errors
///
/// `EINVAL` where the kernel does not know that.
pub fn deny_write_execute() -> io::Result<()> {
    let unused: libc::c_ulong = 0;
    // SAFETY: takes integers, and changes what later calls may do with mappings, none of which is needed.
    let result = unsafe {
        libc::prctl(
            PR_SET_MDWE,
            PR_MDWE_REFUSE_EXEC_GAIN,
            unused,
            unused,
            unused,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
