//! The way down for requests in flight: what takes checked requests by slot, and answers them by slot.

use std::time::{Duration, Instant};

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
    /// submitted slot is answered exactly once, in any order.
    fn poll(&mut self, answers: &mut Vec<Answer>) -> Next;

    /// Bytes of requests' data that the target copied on the host's side since the last call.
    fn take_copied_bytes(&mut self) -> u64;
}

/// When a target is to be polled next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something is submitted.
    Submitted,
    /// At this time, or when something is submitted.
    At(Instant),
    /// At once: there is more to do.
    Again,
}

impl Next {
    /// How long to wait for something to be submitted; `None` is for ever.
    #[must_use]
    pub fn wait(self) -> Option<Duration> {
        match self {
            Next::Submitted => None,
            Next::At(time) => Some(time.saturating_duration_since(Instant::now())),
            Next::Again => Some(Duration::ZERO),
        }
    }
}
