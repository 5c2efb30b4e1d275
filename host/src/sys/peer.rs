//! Who is at the other end of a unix socket, as the kernel noted it when the connection was made, and what can be
//! done about him.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::write;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// `include/uapi/asm-generic/socket.h`; libc does not name them everywhere.
const SO_PEERGROUPS: libc::c_int = 59;
const SO_PEERPIDFD: libc::c_int = 77;

/// `F_SETSIG` of fcntl(2) (`include/uapi/asm-generic/fcntl.h`); libc does not name it.
const F_SETSIG: libc::c_int = 10;

/// As many groups as the kernel gives a process (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65536;

/// The peer's supplementary groups.
///
/// # Errors
///
/// The system's, such as for a socket that is no unix socket.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice()))
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the kernel writes at most `bytes`, the length of the vector, which outlives the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let more = count > groups.len() && count <= GROUPS_MAX;
        if error.raw_os_error() != Some(libc::ERANGE) || !more {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// The peer's process: a number that cannot become another's (Linux 6.5).
///
/// # Errors
///
/// `ENOPROTOOPT` on older kernels; `ESRCH` where it has ended.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut fd = MaybeUninit::<libc::c_int>::uninit();
    let mut bytes = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `bytes`, the size of the integer, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            fd.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the kernel has written it.
    let fd = unsafe { fd.assume_init() };
    // SAFETY: the kernel has just made it for this call; nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Ends a process of another user without CAP_KILL, which whoever has the user id of root may do by a file that
/// signals its owner (`sigio_perm` in `fs/fcntl.c`): the kernel itself sends SIGKILL when the file can be read.
/// Where the process has ended, nothing happens.
///
/// # Errors
///
/// `ESRCH` where it has ended; the system's.
pub fn kill_as_root(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let pid = number_of(pidfd)?;
    let kind = SocketType::STREAM;
    let (ours, trigger) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    for (command, argument) in [
        (F_SETSIG, libc::SIGKILL),
        (libc::F_SETOWN, pid),
        (libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK),
    ] {
        // SAFETY: takes integers, and changes a socket that nobody else has.
        if unsafe { libc::fcntl(ours.as_raw_fd(), command, argument) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The owner was looked up by its number: if the process is still there now, it was it.
    if has_ended(pidfd)? {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    write(&trigger, &[0])?;
    Ok(())
}

/// The number of a process, while it is there.
fn number_of(pidfd: BorrowedFd<'_>) -> io::Result<i32> {
    let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = about.lines().find_map(|line| line.strip_prefix("Pid:"));
    let number = number.and_then(|number| number.trim().parse().ok());
    // Of one that has ended it is -1, which as an owner would be a group.
    (number.filter(|number| *number > 0)).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

/// Whether a process has ended.
///
/// # Errors
///
/// The system's.
pub fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now))?;
    Ok(ready > 0)
}
