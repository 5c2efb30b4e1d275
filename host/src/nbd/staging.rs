//! What a client sent and nobody has looked at yet.

use crate::limits;

/// A buffer of one size: bytes `begin..end` are there.
pub(super) struct Staging {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Staging {
    pub(super) fn new() -> Staging {
        Staging {
            buffer: vec![0; limits::NBD_STAGING_BYTES].into(),
            begin: 0,
            end: 0,
        }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    /// So many bytes are done with.
    pub(super) fn used(&mut self, bytes: usize) {
        self.begin += bytes;
        debug_assert!(self.begin <= self.end, "only what is there is used");
    }

    /// Room for more. There is some as long as no message is longer than the buffer.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.begin > 0 {
            self.buffer.copy_within(self.begin..self.end, 0);
            self.end -= self.begin;
            self.begin = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes came into the room.
    pub(super) fn received(&mut self, bytes: usize) {
        self.end += bytes;
    }
}
