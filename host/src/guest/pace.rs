//! Computing time: a guest whose instances take more than their share of a processor waits, before its next call or
//! in the middle of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::usage::{Limits, Meter};
use crate::limits;
use crate::sys::thread_cpu_time;

/// What all instances of a guest may use of a processor together.
#[derive(Debug)]
pub(super) struct Allowance {
    percent: u32,
    /// Computing time that is saved up, or, below 0, overdrawn, in nanoseconds.
    credit_ns: AtomicI64,
    /// Until when it was earned, in nanoseconds from the start.
    earned_ns: AtomicI64,
    start: Instant,
}

impl Allowance {
    /// Nothing where there is no limit.
    pub(super) fn new(limits: &Limits) -> Option<Arc<Allowance>> {
        (limits.cpu_percent < limits::CPU_PERCENT_DEFAULT).then(|| {
            Arc::new(Allowance {
                percent: limits.cpu_percent.max(1),
                credit_ns: AtomicI64::new(nanoseconds(limits::CPU_CREDIT_MAX)),
                earned_ns: AtomicI64::new(0),
                start: Instant::now(),
            })
        })
    }

    /// Pays for what was used. Gives how long to wait for that to be within the limit.
    fn pay(&self, used: Duration) -> Duration {
        let now = nanoseconds(self.start.elapsed());
        // Whoever comes second with an earlier time earns nothing.
        let earned = now - self.earned_ns.fetch_max(now, Relaxed);
        let earned = earned.max(0).saturating_mul(i64::from(self.percent)) / 100;
        let change = earned.saturating_sub(nanoseconds(used));
        let sum = |credit: i64| {
            let credit = credit.saturating_add(change);
            credit.min(nanoseconds(limits::CPU_CREDIT_MAX))
        };
        let update = |credit| Some(sum(credit));
        let before = self.credit_ns.fetch_update(Relaxed, Relaxed, update);
        let (Ok(before) | Err(before)) = before;
        let owed = sum(before).min(0).unsigned_abs().saturating_mul(100);
        Duration::from_nanos(owed / u64::from(self.percent))
    }
}

/// What the thread of one instance uses. All that the thread does counts, as the host's part of it is on the
/// instance's behalf.
pub(super) struct Pace {
    allowance: Arc<Allowance>,
    meter: Arc<Meter>,
    /// Counts the ticks of the clock: it is looked at more often than system calls are worth.
    ticks: Arc<AtomicU64>,
    ticks_seen: u64,
    last: Option<Look>,
}

/// What a thread had used when it was looked at.
#[derive(Clone, Copy)]
struct Look {
    thread: ThreadId,
    cpu: Duration,
}

impl Pace {
    pub(super) fn new(allowance: Arc<Allowance>, meter: Arc<Meter>, ticks: Arc<AtomicU64>) -> Pace {
        Pace {
            allowance,
            meter,
            // Not what it is now: the first call looks.
            ticks_seen: u64::MAX,
            ticks,
            last: None,
        }
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
            cpu: thread_cpu_time(),
        };
        let last = self.last.replace(look);
        // An instance may be opened by one thread and served by another, whose past is not its.
        let Some(last) = last.filter(|last| last.thread == look.thread) else {
            return;
        };
        let owed = self.allowance.pay(look.cpu.saturating_sub(last.cpu));
        if owed.is_zero() {
            return;
        }
        let begin = Instant::now();
        thread::sleep(owed.min(limits::CPU_PAUSE_MAX));
        let paused = begin.elapsed().as_micros();
        let paused = u64::try_from(paused).unwrap_or(u64::MAX);
        self.meter.throttled_us.fetch_add(paused, Relaxed);
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
