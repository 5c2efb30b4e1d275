//! How long a guest keeps requests, without a look at the clock for each.

use std::time::{Duration, Instant};

use crate::limits;

/// Time in periods that are as long as a guest's deadline: what was there for all of one is overdue.
#[derive(Debug)]
pub(super) struct Periods {
    length: Duration,
    number: u32,
    end: Option<Instant>,
    polls: u32,
}

impl Periods {
    pub(super) fn new(length: Duration) -> Periods {
        Periods {
            length,
            number: 0,
            end: None,
            polls: 0,
        }
    }

    /// The number of this one.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// When this one ends, once there has been one. Where nobody waited for that, it may have been long ago.
    pub(super) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// How long they are.
    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// Whether one ends now, and the next begins. The clock is not looked at in every call, as in some
    /// machines it is slow, but where the caller has time.
    pub(super) fn pass(&mut self, has_time: bool) -> bool {
        self.polls = self.polls.wrapping_add(1);
        let looks = has_time || self.polls.is_multiple_of(limits::RING_POLLS_PER_LOOK);
        if self.end.is_some() && !looks {
            return false;
        }
        let now = Instant::now();
        if self.end.is_some_and(|end| now < end) {
            return false;
        }
        self.number = self.number.wrapping_add(1);
        self.end.replace(now + self.length).is_some()
    }
}
