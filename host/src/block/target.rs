//! The way down for requests in flight: what takes checked requests by slot, and answers them by slot.

use super::{Checked, Errno};

/// One request's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The slot that the request came with.
    pub slot: u32,
    /// Bytes done (all of them), or why not.
    pub result: Result<u32, Errno>,
}

/// Something that serves many requests at a time. Each comes with a *slot*, a data buffer of its own
/// that both sides know by its number: a write's data lies at its begin, a read's belongs there.
pub trait Target {
    /// Takes a request. The slot belongs to the target until it is answered.
    fn submit(&mut self, slot: u32, request: &Checked);

    /// Works on what was submitted, without waiting, and appends the answers that are ready; each
    /// submitted slot is answered exactly once, in any order. Says whether there is more to do at once:
    /// then `poll` is to be called again, soon.
    fn poll(&mut self, answers: &mut Vec<Answer>) -> bool;
}
