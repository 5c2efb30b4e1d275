//! The records of the contract `ring` (`wit/ring.wit`, version 1 of the layout). Pure.

use thiserror::Error;

use super::fault::guest_errno;
use crate::block::{Errno, Memory, Op, Request, Transfer, Work};

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
const KIND_ENDED: u32 = 17;

const FLAG_FUA: u32 = 1 << 0;
const FLAG_MAY_DISCARD: u32 = 1 << 1;

const ACTION_COMPLETE: u32 = 0;
const ACTION_READ: u32 = 1;
const ACTION_WRITE: u32 = 2;
const ACTION_FLUSH: u32 = 3;
const ACTION_DISCARD: u32 = 4;
const ACTION_WRITE_ZEROES: u32 = 5;
const ACTION_FILL: u32 = 6;
const ACTION_COPY_OUT: u32 = 7;
const ACTION_COPY_IN: u32 = 8;

const FLAG_DURABLE: u32 = 1 << 0;
const FLAG_ANSWERS: u32 = 1 << 2;

/// In the place of a tag: the memory is the arena's.
const NO_TAG: u32 = u32::MAX;

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
    /// Bytes are to be moved.
    Transfer {
        /// The operation's token.
        token: u32,
        /// What is to be done.
        transfer: Transfer,
    },
    /// Bytes are to be moved, and the end of that is the answer to the request whose data they are.
    Answer(Transfer),
}

/// Why a record is no action.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoAction {
    /// There is no such kind.
    #[error("kind {0}")]
    Kind(u32),
    /// There is no such status.
    #[error("status {0}")]
    Status(u32),
}

/// An event or action as words of 8 bytes; each word is little endian in memory.
pub type Record = [u64; RECORD_BYTES / 8];

/// Half of one, which fits into the processor's registers.
pub(super) type Half = [u64; RECORD_BYTES / 16];

/// Two fields of 4 bytes beside each other.
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

/// The two fields of 4 bytes of a word.
#[expect(clippy::cast_possible_truncation, reason = "the two halves")]
fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// The event of a request.
#[must_use]
pub fn request_event(tag: u32, request: &Request) -> Record {
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
    let (place, size) = (pair(kind, tag), pair(request.length, flags));
    [place, request.offset, size, 0].map(u64::to_le)
}

/// The event of a timer that is due.
#[must_use]
pub fn timer_event(token: u32) -> Record {
    [pair(KIND_TIMER, token), 0, 0, 0].map(u64::to_le)
}

/// The event of a transfer that has ended.
#[must_use]
pub fn ended_event(token: u32, result: Result<(), Errno>) -> Record {
    let status = result.map_or_else(|errno| 1 + guest_errno(errno) as u32, |()| 0);
    [pair(KIND_ENDED, token), 0, pair(status, 0), 0].map(u64::to_le)
}

/// The tag of a request that is done, where an action says just that.
#[inline]
#[must_use]
pub fn done(record: &Record) -> Option<u32> {
    let [head, _, size, _] = record.map(u64::from_le);
    let ((kind, tag), (status, _)) = (halves(head), halves(size));
    (kind == ACTION_COMPLETE && status == 0).then_some(tag)
}

/// Reads an action.
///
/// # Errors
///
/// Where it is none of this version.
pub fn action(record: &Record) -> Result<Action, NoAction> {
    let [head, offset, size, place] = record.map(u64::from_le);
    let ((kind, number), (length, how)) = (halves(head), halves(size));
    let work = match kind {
        ACTION_COMPLETE => {
            let result = status(length)?;
            return Ok(Action::Complete {
                tag: number,
                result,
            });
        }
        KIND_TIMER => {
            return Ok(Action::Timer {
                token: number,
                after_ms: offset,
            });
        }
        ACTION_READ => Work::Read,
        ACTION_WRITE => Work::Write {
            durable: how >> 16 & FLAG_DURABLE != 0,
        },
        ACTION_FLUSH => Work::Flush,
        ACTION_DISCARD => Work::Discard,
        ACTION_WRITE_ZEROES => Work::WriteZeroes {
            may_discard: how >> 16 & FLAG_MAY_DISCARD != 0,
        },
        ACTION_FILL => Work::Fill,
        ACTION_COPY_OUT => Work::CopyOut,
        ACTION_COPY_IN => Work::CopyIn,
        other => return Err(NoAction::Kind(other)),
    };
    let memory = match (work, halves(place)) {
        (Work::Flush | Work::Discard | Work::WriteZeroes { .. }, _) => Memory::Nowhere,
        (_, (at, NO_TAG)) => Memory::Arena(at),
        (_, (at, tag)) => Memory::Request(tag, at),
    };
    let transfer = Transfer {
        work,
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        store: how as u16,
        // Nobody looks at that of a fill.
        offset: if work == Work::Fill { 0 } else { offset },
        length,
        memory,
        answers: how >> 16 & FLAG_ANSWERS != 0 && matches!(work, Work::Read | Work::Write { .. }),
    };
    Ok(match work {
        _ if transfer.answers => Action::Answer(transfer),
        _ => Action::Transfer {
            token: number,
            transfer,
        },
    })
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
