//! How soon something that ends before its time begins again: at once, then later and later, at last not any more.

use std::time::{Duration, Instant};

use crate::limits;

/// Ends one soon after the other.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    ends: u32,
    /// When it last began or, where it did not, when it ended.
    since: Instant,
}

impl Backoff {
    /// It has begun for the first time.
    #[must_use]
    pub fn new(now: Instant) -> Backoff {
        Backoff {
            ends: 0,
            since: now,
        }
    }

    /// It has begun again.
    pub fn begun(&mut self, now: Instant) {
        self.since = now;
    }

    /// It has ended, or could not begin. Says how long to wait before it may begin: nothing at first, then `delay`, and
    /// each time twice as long; `None` where more than `ends_max` came one soon after the other.
    pub fn ended(&mut self, now: Instant, ends_max: u32, delay: Duration) -> Option<Duration> {
        if now.duration_since(self.since) > limits::RESTART_CALM_TIME {
            self.ends = 0;
        }
        self.since = now;
        self.ends += 1;
        match self.ends {
            n if n > ends_max => None,
            1 => Some(Duration::ZERO),
            n => Some(delay * 2_u32.pow(n - 2)),
        }
    }
}
