//! The way down for requests in flight: what takes checked requests by slot, and answers them by slot.

use std::time::{Duration, Instant};

use super::{Checked, Ended, Errno, Transfer};

/// One request's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The slot that the request came with.
    pub slot: u32,
    /// Bytes done (all of them), or why not.
    pub result: Result<u32, Errno>,
}

/// What a target has done.
#[derive(Debug, Default)]
pub struct Output {
    /// Requests that are answered.
    pub answers: Vec<Answer>,
    /// Transfers to be carried out, with their tokens. The end of each goes to [`Target::ended`].
    pub transfers: Vec<(u32, Transfer)>,
}

/// Something that serves many requests at a time. Each comes with a *slot*, a data buffer of its own
/// that both sides know by its number: a write's data lies at its begin, a read's belongs there.
pub trait Target {
    /// Takes a request. The slot belongs to the target until it is answered.
    fn submit(&mut self, slot: u32, request: &Checked);

    /// A transfer, which this target asked for, has ended, or a part of it, whose rest is then asked for.
    fn ended(&mut self, token: u32, ended: Ended, output: &mut Output);

    /// Works on what was submitted and what has ended, without waiting, and appends what is done; each
    /// submitted slot is answered exactly once, in any order.
    fn poll(&mut self, output: &mut Output) -> Next;

    /// Bytes of requests' data that the target copied on the host's side since the last call.
    fn take_copied_bytes(&mut self) -> u64;
}

/// When a target is to be polled next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something is submitted or has ended.
    Submitted,
    /// The same, or after this time.
    Within(Duration),
    /// The same, or at this time.
    At(Instant),
    /// At once: there is more to do.
    Again,
}

impl Next {
    /// How long to wait for that; `None` is for ever.
    #[must_use]
    pub fn wait(self) -> Option<Duration> {
        match self {
            Next::Submitted => None,
            Next::Within(time) => Some(time),
            Next::At(time) => Some(time.saturating_duration_since(Instant::now())),
            Next::Again => Some(Duration::ZERO),
        }
    }
}
