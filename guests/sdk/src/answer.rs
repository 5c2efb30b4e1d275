//! What a request of a [`Mapper`](crate::Mapper) comes to.

use crate::arena::Record;

/// How a read or write is answered, where nothing has gone wrong so far.
#[derive(Clone, Copy, Debug)]
pub struct Answer(pub(crate) Option<Record>);

impl Answer {
    /// All of it is done.
    pub const DONE: Answer = Answer(None);
}

impl From<()> for Answer {
    /// All of it is done.
    fn from((): ()) -> Answer {
        Answer::DONE
    }
}
