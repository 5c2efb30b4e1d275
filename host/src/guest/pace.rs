//! Computing time: a guest whose instances take more than their share of a processor waits, before its next call or
//! in the middle of one.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use tracing::debug;

use super::clock::Call;
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
    /// All threads that ever paid: workers, the one that opens, the clock's.
    looks: Mutex<Vec<Look>>,
}

/// What a thread had used when it was looked at.
#[derive(Clone, Copy, Debug)]
struct Look {
    thread: ThreadId,
    cpu: Duration,
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
                looks: Mutex::default(),
            })
        })
    }

    /// This thread, and those that it starts from here on, give way to others: where one other wants the processor too,
    /// they get what the guest may use, and who wakes up need not wait until a guest has had its turn.
    pub(super) fn give_way(&self) {
        let nice = niceness(self.percent);
        if let Err(error) = setpriority_process(None, nice) {
            debug!(%error, nice, "a guest with a budget does not give way");
        }
    }

    /// What this thread has used since it was last asked; nothing the first time, as its past is not the guest's.
    fn used(&self) -> Duration {
        let (thread, cpu) = (thread::current().id(), thread_cpu_time());
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(look) = looks.iter_mut().find(|look| look.thread == thread) else {
            looks.push(Look { thread, cpu });
            return Duration::ZERO;
        };
        cpu.saturating_sub(std::mem::replace(&mut look.cpu, cpu))
    }

    /// Pays for what this thread has used: all of it, as whatever it does is on the guest's behalf, beginning and
    /// ending instances too. Gives how long to wait for that to be within the limit.
    pub(super) fn pay(&self) -> Duration {
        let used = self.used();
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

/// Has the thread of one instance keep to what all of them may use.
pub(super) struct Pace {
    allowance: Arc<Allowance>,
    meter: Arc<Meter>,
    call: Arc<Call>,
    /// Counts the ticks of the clock: it is looked at more often than system calls are worth.
    ticks: Arc<AtomicU64>,
    ticks_seen: u64,
}

impl Pace {
    pub(super) fn new(
        allowance: Arc<Allowance>,
        meter: Arc<Meter>,
        call: Arc<Call>,
        ticks: Arc<AtomicU64>,
    ) -> Pace {
        Pace {
            allowance,
            meter,
            call,
            // Not what it is now: the first call looks.
            ticks_seen: u64::MAX,
            ticks,
        }
    }

    /// A call is to begin: waits for its turn.
    pub(super) fn begin(&mut self) {
        if self.ticks.load(Relaxed) != self.ticks_seen {
            self.keep_to_budget();
        }
    }

    /// Sleeps as long as it takes for what was used to be within the budget, but not for ever: however much
    /// is overdrawn, each call gets a tick between two sleeps.
    pub(super) fn keep_to_budget(&mut self) {
        let owed = self.allowance.pay();
        if !owed.is_zero() {
            self.sleep(owed);
        }
        // Only now: while it slept, the clock ticked.
        self.ticks_seen = self.ticks.load(Relaxed);
    }

    fn sleep(&self, owed: Duration) {
        let begin = Instant::now();
        let pause = owed.min(limits::CPU_PAUSE_MAX);
        self.call.sleep_until(begin + pause);
        thread::sleep(pause);
        self.call.wake();
        let paused = begin.elapsed().as_micros();
        let paused = u64::try_from(paused).unwrap_or(u64::MAX);
        self.meter.throttled_us.fetch_add(paused, Relaxed);
    }
}

/// With which a thread gets so many percent of a processor that it shares with one other. Each step is a weight 1.25
/// times less (`sched_prio_to_weight` in the kernel).
fn niceness(percent: u32) -> i32 {
    const OTHER: u64 = 1_024_000;
    let (mut nice, mut weight) = (0, OTHER);
    while nice < 19 && weight * 100 > u64::from(percent) * (weight + OTHER) {
        weight = weight * 4 / 5;
        nice += 1;
    }
    nice
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
