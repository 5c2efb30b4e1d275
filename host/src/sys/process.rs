//! What a process says of itself.

use std::io;

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
