//! Data on its way from a file to a socket without being copied: a pipe holds the file's pages in between.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::null_mut;

use super::memory::PAGE_BYTES;

/// Pages of a file that wait for a socket.
#[derive(Debug)]
pub struct Pages {
    output: PipeReader,
    input: PipeWriter,
    bytes: usize,
    pages_max: u64,
}

/// Number of the system call, which is the same everywhere (Linux 6.5; `asm-generic/unistd.h`).
pub const CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct Range {
    offset: u64,
    bytes: u64,
}

/// `struct cachestat` of `linux/mman.h`, in pages.
#[repr(C)]
#[derive(Default)]
struct Cached {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

impl Pages {
    /// Room for so many bytes that begin with a page. The kernel allows each user so much in all his pipes (16,384
    /// pages, `pipe-user-pages-soft`), so there is none for the page more that others take.
    ///
    /// # Errors
    ///
    /// Where there are no further file descriptors, or pipes as large.
    pub fn new(bytes_max: usize) -> io::Result<Pages> {
        let (output, input) = io::pipe()?;
        let room = libc::c_int::try_from(bytes_max).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for the call, which takes no pointer.
        if unsafe { libc::fcntl(input.as_raw_fd(), libc::F_SETPIPE_SZ, room) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Pages {
            output,
            input,
            bytes: 0,
            pages_max: (bytes_max / PAGE_BYTES) as u64,
        })
    }

    /// Takes a range of a file: none of it where that is not all in the system's cache, or cannot be taken at once.
    /// What it had before has to be gone.
    pub fn take(&mut self, file: &File, offset: u64, length: u32) -> bool {
        let pages = pages(offset, length);
        if self.bytes > 0 || pages > self.pages_max || cached_pages(file, offset, length) != pages {
            return false;
        }
        let Ok(mut offset) = libc::loff_t::try_from(offset) else {
            return false;
        };
        let wanted = length as usize;
        while self.bytes < wanted {
            // SAFETY: both descriptors are open for the call; the offset is written to during it only.
            let moved = unsafe {
                libc::splice(
                    file.as_raw_fd(),
                    &raw mut offset,
                    self.input.as_raw_fd(),
                    null_mut(),
                    wanted - self.bytes,
                    libc::SPLICE_F_NONBLOCK,
                )
            };
            match usize::try_from(moved) {
                Ok(moved) if moved > 0 => self.bytes += moved,
                _ => break,
            }
        }
        self.bytes == wanted
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sends as much as a socket takes now.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where that is nothing; the socket's.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: both descriptors are open for the call, which takes no pointer.
        let moved = unsafe {
            libc::splice(
                self.output.as_raw_fd(),
                null_mut(),
                socket.as_raw_fd(),
                null_mut(),
                self.bytes,
                libc::SPLICE_F_NONBLOCK,
            )
        };
        let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
        if moved == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes -= moved;
        Ok(moved)
    }

    /// Copies all that is left; `data` is as long.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn copy_out(&mut self, data: &mut [u8]) -> io::Result<()> {
        self.output.read_exact(data)?;
        self.bytes -= data.len();
        Ok(())
    }
}

/// Pages that a range lies in.
fn pages(offset: u64, length: u32) -> u64 {
    let page = PAGE_BYTES as u64;
    (offset + u64::from(length)).div_ceil(page) - offset / page
}

/// Pages of a range that are in the system's cache, where the kernel tells: for those nobody has to wait.
fn cached_pages(file: &File, offset: u64, length: u32) -> u64 {
    let range = Range {
        offset,
        bytes: length.into(),
    };
    let mut cached = Cached::default();
    // SAFETY: both structures are laid out as the kernel's, and live until the call has ended.
    let result = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            &raw const range,
            &raw mut cached,
            0,
        )
    };
    if result == 0 { cached.cached } else { 0 }
}
