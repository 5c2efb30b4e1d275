//! How long to look for events before sleeping: waking up a thread costs more than answering a request.

use std::thread;
use std::time::Instant;

use crate::limits;

/// Looks for events again and again for a short time, as long as that pays: a client that answers within
/// that time finds us awake. Where it does not pay, because clients think for longer or need this very
/// processor to run, it is tried ever more rarely.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Waits that are still to go to sleep at once.
    skip: u32,
    /// How many to skip after the next time that it does not pay.
    penalty: u32,
}

impl Patience {
    /// Calls `look` until it finds something, or the time is over; `None` then, and where it is not worth
    /// looking.
    pub(super) fn look<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let begin = Instant::now();
        while begin.elapsed() < limits::NBD_LOOK_TIME {
            if let Some(found) = look() {
                self.penalty = 0;
                return Some(found);
            }
            // Whoever is to send the next request may need this processor.
            thread::yield_now();
        }
        self.penalty = (2 * self.penalty + 1).min(limits::NBD_SKIPS_MAX);
        self.skip = self.penalty;
        None
    }
}
