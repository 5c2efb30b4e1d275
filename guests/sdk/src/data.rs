//! The data of a request that stays with the host.

use crate::Errno;
use crate::arena;
use crate::operation::Operation;
use crate::store::result;

const FILL: u64 = 6;
const COPY_OUT: u64 = 7;
const COPY_IN: u64 = 8;

/// Data of a request, or a part of it: where a write's comes from, or a read's goes to. It is used until the
/// request is answered, in whole sectors of 512 bytes; all of a read's must be filled by then.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    tag: u32,
    offset: u32,
    bytes: u32,
}

impl Data {
    pub(crate) fn new(tag: u32, bytes: u32) -> Data {
        Data {
            tag,
            offset: 0,
            bytes,
        }
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.bytes
    }

    /// The first `bytes` of it, and the rest.
    ///
    /// # Panics
    ///
    /// Where there are not so many.
    #[must_use]
    pub fn split_at(self, bytes: u32) -> (Data, Data) {
        assert!(bytes <= self.bytes, "a part of the data");
        let first = Data { bytes, ..self };
        let rest = Data {
            offset: self.offset + bytes,
            bytes: self.bytes - bytes,
            ..self
        };
        (first, rest)
    }

    /// Makes a read's data zeros.
    ///
    /// # Errors
    ///
    /// None that a guest could do anything about.
    pub async fn fill_with_zeros(self) -> Result<(), Errno> {
        let action = [FILL, 0, u64::from(self.bytes), self.place()];
        result(Operation::new(action, false).await)
    }

    /// Copies a write's data into memory of the same length in the arena ([`Scratch`](crate::Scratch)).
    ///
    /// # Errors
    ///
    /// `Invalid` for other memory.
    pub async fn copy_to(self, memory: &mut [u8]) -> Result<(), Errno> {
        self.copy(COPY_OUT, memory).await
    }

    /// Copies memory of the same length in the arena ([`Scratch`](crate::Scratch)) to a read's data.
    ///
    /// # Errors
    ///
    /// `Invalid` for other memory.
    pub async fn copy_from(self, memory: &[u8]) -> Result<(), Errno> {
        self.copy(COPY_IN, memory).await
    }

    async fn copy(self, kind: u64, memory: &[u8]) -> Result<(), Errno> {
        let place = arena::offset_of(memory).filter(|_| memory.len() == self.bytes as usize);
        let place = place.ok_or(Errno::Invalid)?;
        let action = [kind, place, u64::from(self.bytes), self.place()];
        result(Operation::new(action, true).await)
    }

    /// Offset and tag, as the last word of an action has them.
    pub(crate) fn place(self) -> u64 {
        u64::from(self.offset) | u64::from(self.tag) << 32
    }
}
