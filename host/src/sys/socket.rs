//! Reading and writing sockets where some of the data lies in slots: by address, so that no data is
//! copied on its way, and no reference to a guest's memory is made.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::slots::Slots;

/// Part of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// Which.
    pub slot: u32,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// How long it is, in bytes.
    pub bytes: usize,
}

/// One piece of what is to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Bytes of ours.
    Bytes(&'a [u8]),
    /// Data in a slot.
    Slot(SlotRange),
}

/// Pieces that one call sends; more are left for the next.
const PIECES_MAX: usize = 256;

/// Reads once: first into part of a slot, where there is one, then into `rest`. Returns the bytes read
/// in all, 0 at the end.
///
/// # Errors
///
/// The system's; `WouldBlock` where there is nothing.
///
/// # Panics
///
/// Where the range is not in the slot.
pub fn read_scattered(
    socket: BorrowedFd<'_>,
    slots: &Slots,
    first: Option<SlotRange>,
    rest: &mut [u8],
) -> io::Result<usize> {
    let rest = libc::iovec {
        iov_base: rest.as_mut_ptr().cast(),
        iov_len: rest.len(),
    };
    let vectors = match first {
        Some(range) => [in_slot(slots, range), rest],
        None => [rest, NOTHING],
    };
    // SAFETY: both vectors name memory that can be written: the range was checked, and belongs to the
    // frontend, which calls this, until it submits the slot; `rest` is borrowed meanwhile.
    let bytes = unsafe { libc::readv(socket.as_raw_fd(), vectors.as_ptr(), 2) };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

/// Writes once, as many of the pieces as one call takes. Returns the bytes written.
///
/// # Errors
///
/// The system's; `WouldBlock` where there is no room.
///
/// # Panics
///
/// Where a range is not in its slot.
pub fn write_gathered<'a>(
    socket: BorrowedFd<'_>,
    slots: &Slots,
    pieces: impl Iterator<Item = Piece<'a>>,
) -> io::Result<usize> {
    let mut vectors = [const { MaybeUninit::uninit() }; PIECES_MAX];
    let mut count = 0;
    for (vector, piece) in vectors.iter_mut().zip(pieces) {
        vector.write(match piece {
            Piece::Bytes(bytes) => libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            },
            Piece::Slot(range) => in_slot(slots, range),
        });
        count += 1;
    }
    let vectors = vectors.as_ptr().cast::<libc::iovec>();
    // SAFETY: the first `count` vectors were written above. They name memory that can be read: bytes that
    // `pieces` borrows, and ranges that were checked, of slots that are answered and not free yet.
    let bytes = unsafe { libc::writev(socket.as_raw_fd(), vectors, count) };
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

const NOTHING: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn in_slot(slots: &Slots, range: SlotRange) -> libc::iovec {
    libc::iovec {
        iov_base: slots
            .at(range.slot, range.offset, range.bytes)
            .as_ptr()
            .cast(),
        iov_len: range.bytes,
    }
}
