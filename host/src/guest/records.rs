//! The records of the contract `ring` (`wit/ring.wit`, version 1 of the layout). Pure.

use crate::block::{Errno, Op, Request};

/// Bytes of an event and of an action.
pub const RECORD_BYTES: usize = 32;

/// The version of the layout.
pub const VERSION: u32 = 1;

/// The highest bit of what `poll` returns: the guest has more to do.
pub const MORE: u32 = 1 << 31;

const KIND_READ: u32 = 0;
const KIND_WRITE: u32 = 1;
const KIND_FLUSH: u32 = 2;
const KIND_DISCARD: u32 = 3;
const KIND_WRITE_ZEROES: u32 = 4;
const KIND_TIMER: u32 = 16;

const FLAG_FUA: u32 = 1 << 0;
const FLAG_MAY_DISCARD: u32 = 1 << 1;

const ACTION_COMPLETE: u32 = 0;

/// What a guest asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request is answered.
    Complete {
        /// The request's tag.
        tag: u32,
        /// All of it is done, or why not.
        result: Result<(), Errno>,
    },
    /// A timer is to be started.
    Timer {
        /// Its token.
        token: u32,
        /// After how many milliseconds it is due.
        after_ms: u64,
    },
}

/// Why a record is no action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAction {
    /// There is no such kind.
    Kind(u32),
    /// There is no such status.
    Status(u32),
}

/// The event of a request.
#[must_use]
pub fn request_event(tag: u32, request: &Request) -> [u8; RECORD_BYTES] {
    let kind = match request.op {
        Op::Read => KIND_READ,
        Op::Write => KIND_WRITE,
        Op::Flush => KIND_FLUSH,
        Op::Discard => KIND_DISCARD,
        Op::WriteZeroes => KIND_WRITE_ZEROES,
    };
    let mut flags = 0;
    if request.fua {
        flags |= FLAG_FUA;
    }
    if request.may_discard {
        flags |= FLAG_MAY_DISCARD;
    }
    let mut record = [0; RECORD_BYTES];
    record[0..4].copy_from_slice(&kind.to_le_bytes());
    record[4..8].copy_from_slice(&tag.to_le_bytes());
    record[8..16].copy_from_slice(&request.offset.to_le_bytes());
    record[16..20].copy_from_slice(&request.length.to_le_bytes());
    record[20..24].copy_from_slice(&flags.to_le_bytes());
    record
}

/// The event of a timer that is due.
#[must_use]
pub fn timer_event(token: u32) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[0..4].copy_from_slice(&KIND_TIMER.to_le_bytes());
    record[4..8].copy_from_slice(&token.to_le_bytes());
    record
}

/// Reads an action.
///
/// # Errors
///
/// Where it is none of this version.
pub fn action(record: &[u8; RECORD_BYTES]) -> Result<Action, NoAction> {
    let number = |at: usize| {
        u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    match number(0) {
        ACTION_COMPLETE => Ok(Action::Complete {
            tag: number(4),
            result: status(number(16))?,
        }),
        KIND_TIMER => Ok(Action::Timer {
            token: number(4),
            after_ms: u64::from(number(8)) | u64::from(number(12)) << 32,
        }),
        kind => Err(NoAction::Kind(kind)),
    }
}

/// 0, or 1 + the case of `types.errno` in the WIT.
fn status(number: u32) -> Result<Result<(), Errno>, NoAction> {
    Ok(Err(match number {
        0 => return Ok(Ok(())),
        1 => Errno::EIO,
        2 => Errno::ENOSPC,
        3 => Errno::EINVAL,
        4 => Errno::EOPNOTSUPP,
        5 => Errno::EROFS,
        6 => Errno::ETIMEDOUT,
        7 => Errno::ENODATA,
        8 => Errno::EILSEQ,
        _ => return Err(NoAction::Status(number)),
    }))
}
