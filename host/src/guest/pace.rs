//! Computing time: an instance that takes more than its share of a processor waits, before its next call or in
//! the middle of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::usage::{Limits, Meter};
use crate::limits;
use crate::sys::thread_cpu_time;

/// What the thread of one instance may use of a processor. All that the thread does counts, as the host's part of
/// it is on the instance's behalf.
pub(super) struct Pace {
    percent: u32,
    meter: Arc<Meter>,
    /// Counts the ticks of the clock: it is looked at more often than system calls are worth.
    ticks: Arc<AtomicU64>,
    ticks_seen: u64,
    /// Computing time that is saved up, or, below 0, overdrawn, in nanoseconds.
    credit: i64,
    last: Option<Look>,
}

/// What the clocks said.
#[derive(Clone, Copy)]
struct Look {
    thread: ThreadId,
    time: Instant,
    cpu: Duration,
}

impl Pace {
    /// Nothing where there is no budget.
    pub(super) fn new(limits: &Limits, meter: Arc<Meter>, ticks: Arc<AtomicU64>) -> Option<Pace> {
        (limits.cpu_percent < limits::CPU_PERCENT_DEFAULT).then(|| Pace {
            percent: limits.cpu_percent.max(1),
            meter,
            // Not what it is now: the first call looks.
            ticks_seen: u64::MAX,
            ticks,
            credit: nanoseconds(limits::CPU_CREDIT_MAX),
            last: None,
        })
    }

    /// A call is to begin: waits for its turn.
    pub(super) fn begin(&mut self) {
        let ticks = self.ticks.load(Relaxed);
        if ticks != self.ticks_seen {
            self.ticks_seen = ticks;
            self.keep_to_budget();
        }
    }

    /// Sleeps as long as it takes for what was used to be within the budget, but not for ever: however much
    /// is overdrawn, each call gets a tick between two sleeps.
    pub(super) fn keep_to_budget(&mut self) {
        let look = Look {
            thread: thread::current().id(),
            time: Instant::now(),
            cpu: thread_cpu_time(),
        };
        let last = self.last.replace(look);
        // An instance may be opened by one thread and served by another, whose past is not its.
        let Some(last) = last.filter(|last| last.thread == look.thread) else {
            return;
        };
        let percent = i64::from(self.percent);
        let earned = nanoseconds(look.time.duration_since(last.time)).saturating_mul(percent) / 100;
        let used = nanoseconds(look.cpu.saturating_sub(last.cpu));
        let credit = self.credit.saturating_add(earned).saturating_sub(used);
        self.credit = credit.min(nanoseconds(limits::CPU_CREDIT_MAX));
        if self.credit >= 0 {
            return;
        }
        let owed = self.credit.unsigned_abs().saturating_mul(100) / u64::from(self.percent);
        let pause = Duration::from_nanos(owed).min(limits::CPU_PAUSE_MAX);
        thread::sleep(pause);
        let paused = look.time.elapsed().as_micros();
        let paused = u64::try_from(paused).unwrap_or(u64::MAX);
        self.meter.throttled_us.fetch_add(paused, Relaxed);
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
