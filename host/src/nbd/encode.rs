//! Replies of the transmission phase. Pure.

use super::wire::{CHUNK_MAGIC, SIMPLE_REPLY_MAGIC, chunk};
use crate::block::Errno;

/// The number of the one context that there is, `base:allocation`.
pub const CONTEXT_ID: u32 = 1;

/// The protocol's own error numbers (`NBD_E`): a part of the system's, of one size for all systems.
#[must_use]
pub fn error_number(errno: Errno) -> u32 {
    match errno {
        Errno::EROFS => 1,
        Errno::EINVAL => 22,
        Errno::ENOSPC => 28,
        Errno::EOPNOTSUPP => 95,
        _ => 5,
    }
}

/// A simple reply's header; a read's data follows where there is no error.
#[must_use]
pub fn simple_reply(cookie: u64, error: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.to_be_bytes());
    bytes
}

/// A structured reply chunk's header. All our replies are one chunk.
#[must_use]
pub fn only_chunk(cookie: u64, kind: u16, length: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&chunk::FLAG_DONE.to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// Appends a structured error with its text.
pub fn error_chunk(output: &mut Vec<u8>, cookie: u64, error: u32, text: &str) {
    let text_bytes = u16::try_from(text.len()).unwrap_or(0);
    let text = if text_bytes == 0 { "" } else { text };
    let length = 4 + 2 + u32::from(text_bytes);
    output.extend_from_slice(&only_chunk(cookie, chunk::ERROR, length));
    output.extend_from_slice(&error.to_be_bytes());
    output.extend_from_slice(&text_bytes.to_be_bytes());
    output.extend_from_slice(text.as_bytes());
}

/// Appends the status of a range: all of it is data.
pub fn allocated_chunk(output: &mut Vec<u8>, cookie: u64, length: u32) {
    output.extend_from_slice(&only_chunk(cookie, chunk::BLOCK_STATUS, 12));
    output.extend_from_slice(&CONTEXT_ID.to_be_bytes());
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(&0_u32.to_be_bytes());
}
