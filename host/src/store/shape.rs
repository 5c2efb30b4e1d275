//! Size and limits of a store, and what fits them.

use crate::block::{Errno, Memory, Transfer, Work};

/// Size and limits of a store, fixed when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its size in bytes: what a file had, or a disk has.
    pub size_bytes: u64,
    /// The unit that it is best used in, in bytes: a power of two from 512 to 4096.
    pub block_bytes: u32,
    /// What offsets, lengths and places in memory must be multiples of, in bytes: 1 where the system's cache
    /// lies between.
    pub align_bytes: u32,
    /// What ranges that become zeros, or are discarded, must be multiples of, in bytes: a disk's block, 1 in a file.
    pub range_align_bytes: u32,
    /// It may not be changed.
    pub read_only: bool,
}

impl Shape {
    /// Holds a transfer against the store.
    ///
    /// # Errors
    ///
    /// `EROFS` where it would change a store that is read-only; `EINVAL` where it is empty, beyond the end,
    /// or not aligned as the store wants it.
    pub fn check(&self, asked: &Transfer) -> Result<(), Errno> {
        let (aligned, changes) = match asked.work {
            Work::Flush => return Ok(()),
            Work::Read => (true, false),
            // Zeros may have to be written.
            Work::Write { .. } | Work::WriteZeroes { .. } => (true, true),
            _ => (false, true),
        };
        if changes {
            self.check_change(asked.offset, asked.length.into())?;
        } else {
            self.check_range(asked.offset, asked.length.into())?;
        }
        let place = match asked.memory {
            Memory::Arena(at) | Memory::Request(_, at) => at,
            Memory::Nowhere | Memory::Zeros => 0,
        };
        let fits = asked.offset.is_multiple_of(self.align_bytes.into())
            && asked.length.is_multiple_of(self.align_bytes)
            && place.is_multiple_of(self.align_bytes);
        if aligned && !fits {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Whether the system can make zeros of these bytes, or discard them, without their being written.
    #[must_use]
    pub fn has_range(&self, offset: u64, length: u32) -> bool {
        let align = self.range_align_bytes;
        offset.is_multiple_of(align.into()) && length.is_multiple_of(align)
    }

    /// Whether so many bytes may be changed there.
    pub(super) fn check_change(&self, offset: u64, length: u64) -> Result<(), Errno> {
        if self.read_only {
            return Err(Errno::EROFS);
        }
        self.check_range(offset, length)
    }

    /// Whether so many bytes are there.
    pub(super) fn check_range(&self, offset: u64, length: u64) -> Result<(), Errno> {
        let end = offset.checked_add(length);
        let inside = length > 0 && end.is_some_and(|end| end <= self.size_bytes);
        inside.then_some(()).ok_or(Errno::EINVAL)
    }
}
