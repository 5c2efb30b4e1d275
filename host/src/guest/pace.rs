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
    deadline: Duration,
    meter: Arc<Meter>,
    /// Counts the ticks of the clock: it is looked at more often than system calls are worth.
    ticks: Arc<AtomicU64>,
    ticks_seen: u64,
    /// Computing time that is saved up, or, below 0, overdrawn, in nanoseconds.
    credit: i64,
    last: Option<Look>,
    /// When the call that runs began, or a little before.
    began: Instant,
}

/// What the clocks said.
#[derive(Clone, Copy)]
struct Look {
    thread: ThreadId,
    time: Instant,
    cpu: Duration,
}

/// Whether a call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    /// Its deadline has passed.
    Overdue,
}

impl Pace {
    /// Nothing where there is no budget.
    pub(super) fn new(limits: &Limits, meter: Arc<Meter>, ticks: Arc<AtomicU64>) -> Option<Pace> {
        (limits.cpu_percent < limits::CPU_PERCENT_DEFAULT).then(|| Pace {
            percent: limits.cpu_percent.max(1),
            deadline: limits.deadline + limits::EPOCH_TICK,
            meter,
            // Not what it is now: the first call looks.
            ticks_seen: u64::MAX,
            ticks,
            credit: nanoseconds(limits::CPU_CREDIT_MAX),
            last: None,
            began: Instant::now(),
        })
    }

    /// A call is to begin: waits for its turn.
    pub(super) fn begin(&mut self) {
        let ticks = self.ticks.load(Relaxed);
        if ticks != self.ticks_seen {
            self.ticks_seen = ticks;
            self.began = self.keep_to_budget();
        } else if let Some(last) = self.last {
            self.began = last.time;
        }
    }

    /// A tick in the middle of a call: waits where too much is used.
    pub(super) fn tick(&mut self) -> Verdict {
        let now = self.keep_to_budget();
        if now.duration_since(self.began) > self.deadline {
            Verdict::Overdue
        } else {
            Verdict::GoOn
        }
    }

    /// Sleeps as long as it takes for what was used to be within the budget, but not for ever: however much
    /// is overdrawn, each call gets a tick between two sleeps. Gives the time after that.
    fn keep_to_budget(&mut self) -> Instant {
        let look = Look {
            thread: thread::current().id(),
            time: Instant::now(),
            cpu: thread_cpu_time(),
        };
        let last = self.last.replace(look);
        // An instance may be opened by one thread and served by another, whose past is not its.
        let Some(last) = last.filter(|last| last.thread == look.thread) else {
            return look.time;
        };
        let percent = i64::from(self.percent);
        let earned = nanoseconds(look.time.duration_since(last.time)).saturating_mul(percent) / 100;
        let used = nanoseconds(look.cpu.saturating_sub(last.cpu));
        let credit = self.credit.saturating_add(earned).saturating_sub(used);
        self.credit = credit.min(nanoseconds(limits::CPU_CREDIT_MAX));
        if self.credit >= 0 {
            return look.time;
        }
        let owed = self.credit.unsigned_abs().saturating_mul(100) / u64::from(self.percent);
        let pause = Duration::from_nanos(owed).min(limits::CPU_PAUSE_MAX);
        thread::sleep(pause);
        let now = Instant::now();
        let paused = now.duration_since(look.time).as_micros();
        let paused = u64::try_from(paused).unwrap_or(u64::MAX);
        self.meter.throttled_us.fetch_add(paused, Relaxed);
        now
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
