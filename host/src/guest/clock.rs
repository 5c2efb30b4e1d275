//! The clock that ends calls which do not return.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use super::pace::Allowance;
use super::usage::Meter;
use crate::confine::spawn_unprivileged;
use crate::error::{Error, Result};
use crate::limits;

/// Looks at the calls of all instances. A call that is overdue is marked, and the next epoch begins: in that, the
/// call looks at its mark and ends in a trap. The thread lives as long as the clock or an instance that it watches.
#[derive(Clone, Debug)]
pub struct Clock {
    /// How often it has looked.
    ticks: Arc<AtomicU64>,
    face: Arc<Face>,
    calls: Arc<Mutex<Vec<Watched>>>,
}

/// What calls see of the clock.
#[derive(Debug)]
struct Face {
    /// It looks seldom: a call that begins wakes it.
    seldom: AtomicBool,
    thread: OnceLock<Thread>,
    start: Instant,
}

/// The calls of one instance.
#[derive(Debug)]
pub(super) struct Call {
    face: Arc<Face>,
    /// How often a call began or ended: odd while one runs.
    turns: AtomicU64,
    /// The turn of the call that is overdue.
    overdue: AtomicU64,
    /// Until when its thread sleeps because of its budget, in nanoseconds of the clock; 0 where it does not.
    sleeps_until_ns: AtomicU64,
    meter: Arc<Meter>,
}

impl Face {
    /// Has the clock look at once, and often from then on, if it looks seldom.
    fn wake(&self) {
        let seldom = &self.seldom;
        if seldom.load(Ordering::Relaxed) && seldom.swap(false, Ordering::Relaxed) {
            self.thread.get().inspect(|thread| thread.unpark());
        }
    }
}

impl Call {
    /// Its thread sleeps for some time, and need not be looked at until then.
    pub(super) fn sleep_until(&self, end: Instant) {
        let ns = end.saturating_duration_since(self.face.start).as_nanos();
        let ns = u64::try_from(ns).unwrap_or(u64::MAX);
        self.sleeps_until_ns.store(ns, Ordering::Relaxed);
    }

    /// It sleeps no more.
    pub(super) fn wake(&self) {
        self.sleeps_until_ns.store(0, Ordering::Relaxed);
    }

    /// How long its thread will sleep.
    fn sleep_left(&self, now: Instant) -> Duration {
        let ns = self.sleeps_until_ns.load(Ordering::Relaxed);
        let end = self.face.start + Duration::from_nanos(ns);
        end.saturating_duration_since(now)
    }

    /// Marks a call as running until the value is dropped. Only one thread calls an instance.
    pub(super) fn begin(&self) -> Running<'_> {
        self.turn();
        self.face.wake();
        Running(self)
    }

    fn turn(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1), Ordering::Release);
    }

    /// Whether the call that runs has to end.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed) == self.turns.load(Ordering::Relaxed)
    }
}

/// A call that runs.
pub(super) struct Running<'a>(&'a Call);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.turn();
    }
}

/// A call as the clock knows it.
#[derive(Debug)]
struct Watched {
    call: Arc<Call>,
    deadline: Duration,
    /// Where its computing time has a limit.
    allowance: Option<Arc<Allowance>>,
    /// The turns at the last look, and when that was.
    turns: u64,
    looked: Instant,
    /// When the call that runs began, or up to a tick before.
    since: Instant,
    /// When there was last a new turn.
    busy: Instant,
}

/// What the clock has to do for one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Nothing, until so much time has passed.
    Look(Duration),
    /// The call that runs is to look at its mark, or its computing time, soon and again after so much time.
    Interrupt(Duration),
}

impl Watched {
    fn new(call: Arc<Call>, deadline: Duration, allowance: Option<Arc<Allowance>>) -> Watched {
        let now = Instant::now();
        Watched {
            call,
            deadline,
            allowance,
            turns: 0,
            looked: now,
            since: now,
            busy: now,
        }
    }

    fn look(&mut self, now: Instant) -> Next {
        let turns = self.call.turns.load(Ordering::Acquire);
        let before = std::mem::replace(&mut self.looked, now);
        let runs = turns % 2 == 1;
        if turns != self.turns {
            // The look before may be longer ago: of a guest that was idle, or where this thread had to wait for a
            // processor.
            let tick_ago = now.checked_sub(limits::CLOCK_TICK).unwrap_or(before);
            self.since = before.max(tick_ago);
            (self.turns, self.busy) = (turns, now);
        } else if runs {
            let ms = now.duration_since(self.since).as_millis();
            let ms = u64::try_from(ms).unwrap_or(u64::MAX);
            self.call
                .meter
                .longest_call_ms
                .fetch_max(ms, Ordering::Relaxed);
        }
        let idle = !runs && now.duration_since(self.busy) >= limits::CLOCK_IDLE_TIME;
        let sleep = self.call.sleep_left(now);
        let pause = match (idle, &self.allowance) {
            (true, _) => limits::CLOCK_IDLE_TICK,
            // Who sleeps uses nothing.
            (false, Some(_)) => (sleep + limits::CPU_TICK).min(limits::CLOCK_TICK),
            (false, None) => limits::CLOCK_TICK,
        };
        if !runs {
            return Next::Look(pause);
        }
        let left = self.deadline.saturating_sub(now.duration_since(self.since));
        if left.is_zero() {
            self.call.overdue.store(turns, Ordering::Relaxed);
            return Next::Interrupt(pause);
        }
        let pause = pause.min(left);
        if self.allowance.is_some() && sleep.is_zero() {
            Next::Interrupt(pause)
        } else {
            Next::Look(pause)
        }
    }
}

impl Clock {
    /// Starts the clock's thread.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread.
    pub fn start(engine: &Engine) -> Result<Clock> {
        let clock = Clock {
            ticks: Arc::default(),
            face: Arc::new(Face {
                seldom: AtomicBool::new(false),
                thread: OnceLock::new(),
                start: Instant::now(),
            }),
            calls: Arc::default(),
        };
        let calls = Arc::downgrade(&clock.calls);
        let (face, ticks, engine) = (clock.face.clone(), clock.ticks.clone(), engine.clone());
        let run = move || {
            while let Some(calls) = calls.upgrade() {
                let pause = tick(&calls, &engine);
                drop(calls);
                ticks.fetch_add(1, Ordering::Relaxed);
                let idle = pause >= limits::CLOCK_IDLE_TICK;
                let was_idle = face.seldom.swap(idle, Ordering::Relaxed);
                // A call may have begun between the look and this, and has not woken anybody.
                thread::park_timeout(if was_idle {
                    pause
                } else {
                    pause.min(limits::CLOCK_TICK)
                });
            }
        };
        let thread = spawn_unprivileged("clock", run)
            .map_err(|why| Error::failed("cannot start a thread").because(why))?;
        clock.face.thread.get_or_init(|| thread.thread().clone());
        Ok(clock)
    }

    /// A number that changes with each tick.
    pub(super) fn ticks(&self) -> Arc<AtomicU64> {
        self.ticks.clone()
    }

    /// A further instance to watch, whose calls may take so long.
    pub(super) fn watch(
        &self,
        meter: Arc<Meter>,
        deadline: Duration,
        allowance: Option<Arc<Allowance>>,
    ) -> Arc<Call> {
        let call = Arc::new(Call {
            face: self.face.clone(),
            turns: AtomicU64::new(0),
            // Never that of a call.
            overdue: AtomicU64::new(u64::MAX - 1),
            sleeps_until_ns: AtomicU64::new(0),
            meter,
        });
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of instances that are gone are nobody else's.
        calls.retain(|watched| Arc::strong_count(&watched.call) > 1);
        calls.push(Watched::new(call.clone(), deadline, allowance));
        call
    }
}

/// Looks at all calls, and interrupts those for which that is due. Gives how long to wait for the next time.
fn tick(calls: &Mutex<Vec<Watched>>, engine: &Engine) -> Duration {
    let now = Instant::now();
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pause = limits::CLOCK_IDLE_TICK;
    let mut interrupts = false;
    for watched in calls.iter_mut() {
        let next = watched.look(now);
        interrupts |= matches!(next, Next::Interrupt(_));
        let (Next::Look(time) | Next::Interrupt(time)) = next;
        pause = pause.min(time);
    }
    if interrupts {
        engine.increment_epoch();
    }
    // This thread works for them too.
    if let Some(allowance) = calls.iter().find_map(|watched| watched.allowance.as_ref()) {
        allowance.pay();
    }
    pause
}
