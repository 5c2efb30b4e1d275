//! What a guest has done with the stores that it was granted, and with the data of requests: the host moves
//! the bytes, the guest says where.

use std::io;
use std::time::Duration;

use super::Errno;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bytes of a store go to memory.
    Read,
    /// Bytes of memory go to a store; with `durable`, these are durable then, and no others.
    #[expect(missing_docs, reason = "the line above")]
    Write { durable: bool },
    /// All that was written to a store becomes durable.
    Flush,
    /// Bytes of a store are forgotten.
    Discard,
    /// Bytes of a store become zeros; with `may_discard`, without keeping their room.
    #[expect(missing_docs, reason = "the line above")]
    WriteZeroes { may_discard: bool },
    /// Bytes of a request's data become zeros. There is no store in it.
    Fill,
    /// Bytes of a request's data go to the arena, where `offset` says. There is no store in it.
    CopyOut,
    /// Bytes of the arena, where `offset` says, become those of a request. There is no store in it.
    CopyIn,
}

impl Work {
    /// Whether there is no store in it: bytes are copied between a request's data and the arena, or are zeros.
    #[must_use]
    pub fn is_copy(self) -> bool {
        matches!(self, Work::Fill | Work::CopyOut | Work::CopyIn)
    }
}

/// Where the bytes are that do not lie in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// There are none.
    Nowhere,
    /// In the arena, so many bytes in.
    Arena(u32),
    /// In the data of the request with this tag, so many bytes in.
    Request(u32, u32),
    /// They are zeros.
    Zeros,
}

/// One operation, or the rest of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What is done.
    pub work: Work,
    /// The store's number.
    pub store: u16,
    /// Where in the store, in bytes.
    pub offset: u64,
    /// How much, in bytes; 0 of a flush.
    pub length: u32,
    /// From or to where.
    pub memory: Memory,
    /// Whether it answers the request whose data it moves: then it is all of them, and nobody looks at them before.
    pub answers: bool,
}

/// Bytes that are moved at a time: as much as the longest request has.
const PART_BYTES_MAX: u32 = 1 << 20;

/// Zeros that can be written at a time.
pub const ZEROS_BYTES: u32 = 64 << 10;

impl Transfer {
    /// What is left when so many bytes are done: nothing where that is all.
    #[must_use]
    pub fn rest(mut self, bytes: u32) -> Option<Transfer> {
        self.length = self.length.checked_sub(bytes).filter(|&left| left > 0)?;
        self.offset += u64::from(bytes);
        self.memory = match self.memory {
            Memory::Arena(at) => Memory::Arena(at + bytes),
            Memory::Request(tag, at) => Memory::Request(tag, at + bytes),
            other => other,
        };
        Some(self)
    }

    /// Bytes that have to be moved for it.
    #[must_use]
    pub fn moved_bytes(&self) -> u32 {
        match self.memory {
            Memory::Nowhere => 0,
            _ => self.length,
        }
    }

    /// The part of it that is asked for at a time.
    #[must_use]
    pub fn part(self) -> Transfer {
        let length_max = match self.memory {
            Memory::Zeros => ZEROS_BYTES,
            Memory::Nowhere => u32::MAX,
            _ => PART_BYTES_MAX,
        };
        Transfer {
            length: self.length.min(length_max),
            ..self
        }
    }
}

/// How a part of a transfer ended: bytes done, or why not.
pub type Ended = Result<u32, Errno>;

/// Carries transfers out. Each has a token, which is in use until its end was told.
pub trait Carrier {
    /// Begins a transfer.
    ///
    /// # Errors
    ///
    /// Where nothing can be begun any more; what goes wrong with one transfer is its end.
    fn begin(&mut self, token: u32, transfer: &Transfer) -> io::Result<()>;

    /// Waits until a transfer ends, not longer than this, and tells all that have.
    ///
    /// # Errors
    ///
    /// Where nothing can be waited for any more.
    fn wait(&mut self, timeout: Duration, ended: &mut dyn FnMut(u32, Ended)) -> io::Result<()>;
}
