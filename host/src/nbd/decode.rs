//! Requests of the transmission phase. Pure.

use super::wire::{EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC, command};

/// Bytes of a request's header; a write's payload follows.
pub const HEADER_BYTES: usize = 28;
/// The same where extended headers were agreed on.
pub const EXTENDED_HEADER_BYTES: usize = 32;

/// A request as it stands on the wire. Nothing is known of its numbers yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `NBD_CMD_FLAG_`.
    pub flags: u16,
    /// `NBD_CMD_`.
    pub command: u16,
    /// The client's name for the request, to be given back.
    pub cookie: u64,
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
}

/// What the first bytes of the input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Too few bytes to say.
    Incomplete,
    /// No request: the stream is of no use any more.
    Garbage,
    /// The header of a request, and how long it is.
    Request(Header, usize),
}

impl Header {
    /// Bytes that follow the header: of a write, and, where extended headers were agreed on, of whatever
    /// says so.
    #[must_use]
    pub fn payload_bytes(&self, extended: bool) -> u64 {
        if self.command == command::WRITE || extended && self.has(command::FLAG_PAYLOAD_LEN) {
            self.length
        } else {
            0
        }
    }

    /// Whether a flag is set.
    #[must_use]
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

/// Reads a request's header.
#[must_use]
pub fn header(input: &[u8], extended: bool) -> Decoded {
    let (bytes, magic) = if extended {
        (EXTENDED_HEADER_BYTES, EXTENDED_REQUEST_MAGIC)
    } else {
        (HEADER_BYTES, REQUEST_MAGIC)
    };
    let Some(header) = input.get(..bytes) else {
        return Decoded::Incomplete;
    };
    let mut fields = Fields(header);
    if fields.u32() != magic {
        return Decoded::Garbage;
    }
    let header = Header {
        flags: fields.u16(),
        command: fields.u16(),
        cookie: fields.u64(),
        offset: fields.u64(),
        length: if extended {
            fields.u64()
        } else {
            fields.u32().into()
        },
    };
    Decoded::Request(header, bytes)
}

/// Takes big-endian numbers off the front of some bytes. Past their end there are zeros, so a caller
/// that has looked at the length first never meets that.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => [0; N],
        }
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }
}
