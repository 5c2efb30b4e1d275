//! How long a guest keeps requests, without a look at the clock for each.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Time in periods that are as long as a guest's deadline: what was there for all of one is overdue.
#[derive(Debug)]
pub(super) struct Periods {
    length: Duration,
    number: NonZeroU32,
    end: Option<Instant>,
    /// What the clock counts, and how much that was at the last look.
    ticks: Arc<AtomicU64>,
    seen: u64,
}

impl Periods {
    pub(super) fn new(length: Duration, ticks: Arc<AtomicU64>) -> Periods {
        Periods {
            length,
            number: NonZeroU32::MIN,
            end: None,
            ticks,
            seen: 0,
        }
    }

    /// The number of this one.
    pub(super) fn number(&self) -> NonZeroU32 {
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

    /// Whether one ends now, and the next begins. The time is asked for once in a tick, as in some machines that
    /// is slow, and where the caller has nothing else to do.
    pub(super) fn pass(&mut self, has_time: bool) -> bool {
        let ticks = self.ticks.load(Relaxed);
        if self.end.is_some() && !has_time && ticks == self.seen {
            return false;
        }
        self.seen = ticks;
        let now = Instant::now();
        if self.end.is_some_and(|end| now < end) {
            return false;
        }
        self.number = self.number.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.end.replace(now + self.length).is_some()
    }
}
