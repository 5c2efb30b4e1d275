//! Replies of the transmission phase. Pure.

use std::fmt::Arguments;
use std::io::Write;

use super::wire::{CHUNK_MAGIC, EXTENDED_CHUNK_MAGIC, SIMPLE_REPLY_MAGIC, chunk};
use crate::block::Errno;

/// The number of the one context that there is, `base:allocation`.
pub const CONTEXT_ID: u32 = 1;

/// Longest text of an error; more is of no help, and the specification stops at 4096.
const ERROR_TEXT_BYTES_MAX: usize = 512;

/// How replies look, as it was agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// A read's data follows the reply, and errors are numbers.
    #[default]
    Simple,
    /// Replies are chunks.
    Structured,
    /// Chunks, with lengths of 64 bits.
    Extended,
}

/// What a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// How it looks.
    pub framing: Framing,
    /// The request's name.
    pub cookie: u64,
    /// The request's offset, which extended replies repeat.
    pub offset: u64,
}

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

/// Appends a simple reply's header; a read's data follows where there is no error.
pub fn simple_reply(output: &mut Vec<u8>, cookie: u64, error: u32) {
    output.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    output.extend_from_slice(&error.to_be_bytes());
    output.extend_from_slice(&cookie.to_be_bytes());
}

/// Appends a chunk's header, for `length` bytes that follow.
fn chunk_header(output: &mut Vec<u8>, to: To, done: bool, kind: u16, length: u64) {
    let extended = to.framing == Framing::Extended;
    let magic = if extended {
        EXTENDED_CHUNK_MAGIC
    } else {
        CHUNK_MAGIC
    };
    let flags = if done { chunk::FLAG_DONE } else { 0 };
    output.extend_from_slice(&magic.to_be_bytes());
    output.extend_from_slice(&flags.to_be_bytes());
    output.extend_from_slice(&kind.to_be_bytes());
    output.extend_from_slice(&to.cookie.to_be_bytes());
    if extended {
        output.extend_from_slice(&to.offset.to_be_bytes());
        output.extend_from_slice(&length.to_be_bytes());
    } else {
        // Chunks are no longer than the longest payload.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        output.extend_from_slice(&length.to_be_bytes());
    }
}

/// Appends the header of a read's data, which follows: all of it where replies are simple, else the piece
/// at `offset`.
pub fn data(output: &mut Vec<u8>, to: To, done: bool, offset: u64, length: u64) {
    if to.framing == Framing::Simple {
        return simple_reply(output, to.cookie, 0);
    }
    chunk_header(output, to, done, chunk::OFFSET_DATA, 8 + length);
    output.extend_from_slice(&offset.to_be_bytes());
}

/// Appends the reply to a request that is done and has no data.
pub fn done(output: &mut Vec<u8>, to: To) {
    if to.framing == Framing::Simple {
        simple_reply(output, to.cookie, 0);
    } else {
        chunk_header(output, to, true, chunk::NONE, 0);
    }
}

/// Appends an error, with words where the reply has room for them.
pub fn error(output: &mut Vec<u8>, to: To, errno: Errno, text: Arguments<'_>) {
    let number = error_number(errno);
    if to.framing == Framing::Simple {
        return simple_reply(output, to.cookie, number);
    }
    let mut words = [0; ERROR_TEXT_BYTES_MAX];
    let mut rest = &mut words[..];
    // What does not fit is cut.
    let _ = rest.write_fmt(text);
    let left = rest.len();
    let words = &words[..ERROR_TEXT_BYTES_MAX - left];
    let words_bytes = u16::try_from(words.len()).unwrap_or(0);
    chunk_header(output, to, true, chunk::ERROR, 6 + u64::from(words_bytes));
    output.extend_from_slice(&number.to_be_bytes());
    output.extend_from_slice(&words_bytes.to_be_bytes());
    output.extend_from_slice(words);
}

/// Appends the status of a range: all of it is data.
pub fn allocated(output: &mut Vec<u8>, to: To, length: u64) {
    if to.framing == Framing::Extended {
        chunk_header(output, to, true, chunk::BLOCK_STATUS_EXT, 4 + 4 + 16);
        output.extend_from_slice(&CONTEXT_ID.to_be_bytes());
        output.extend_from_slice(&1_u32.to_be_bytes());
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&0_u64.to_be_bytes());
    } else {
        chunk_header(output, to, true, chunk::BLOCK_STATUS, 4 + 8);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        output.extend_from_slice(&CONTEXT_ID.to_be_bytes());
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&0_u32.to_be_bytes());
    }
}
