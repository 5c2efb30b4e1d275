//! How a guest of the contract `ring` can break it.

use thiserror::Error;

use super::records;

/// How a guest broke the contract. Its instance is of no use any more.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Breach {
    #[error("it answers tag {0}, which it does not have")]
    Tag(u32),
    #[error("it completes tag {0}, whose data is under way")]
    UnderWay(u32),
    #[error("it completes the read with tag {0}, and has not filled all of its data")]
    NotFilled(u32),
    #[error("it answers tag {0} by a transfer that is not of all the request's data")]
    NotAll(u32),
    #[error("it uses token {0}, which is in use or not below ops-max")]
    Token(u32),
    #[error("it names store {0}, which it was not granted")]
    Store(u16),
    #[error("a transfer's memory, {length} bytes from {offset} on, is not in its arena")]
    OutsideArena { offset: u64, length: u32 },
    #[error("a transfer's memory is not in the data of a request with tag {0} that it has")]
    OutsideRequest(u32),
    #[error("a transfer would change the data of a write, or take that of a read (tag {0})")]
    Direction(u32),
    #[error("it names a request's data, which lies in its own memory")]
    OwnSlots,
    #[error("it asks for what is no action: {0}")]
    Action(records::NoAction),
    #[error("it keeps requests and waits for nothing")]
    Idle,
    #[error("it has kept a request for longer than its deadline")]
    Overdue,
}
