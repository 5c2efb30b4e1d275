//! The engine, and the clock that ends calls which do not return.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::{Config, Engine};

use super::usage::Meter;
use crate::error::{Error, Result};
use crate::limits;
use crate::sys::spawn_unprivileged;

/// The one configuration for all guests. Compiled guests are valid for exactly this.
///
/// # Errors
///
/// Where this processor lacks what wasmtime needs.
pub fn new_engine() -> Result<Engine> {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.epoch_interruption(true);
    // Not needed by component guests: memories beyond 4 GiB would have to move when they grow, and
    // relaxed SIMD computes differently on each machine.
    config.wasm_memory64(false);
    // The kernel and the host keep addresses in a guest's memory: it may grow, and never moves.
    config.memory_reservation(1 << 32);
    config.memory_may_move(false);
    config.wasm_relaxed_simd(false);
    Engine::new(&config)
        .map_err(|why| Error::failed("wasmtime does not work on this machine").because(why))
}

/// Looks at all running calls every [`limits::EPOCH_TICK`], or [`limits::CPU_TICK`] where their computing time has a
/// limit; a call that has seen too many ticks ends in a trap. While no call runs when it looks, nothing is done. Its
/// thread lives as long as the clock or an instance that it watches.
#[derive(Clone, Debug)]
pub struct Clock {
    /// How often it has looked.
    ticks: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<Watched>>>,
}

/// The calls of one instance.
#[derive(Debug)]
pub(super) struct Call {
    /// How often a call began or ended: odd while one runs.
    turns: AtomicU64,
    meter: Arc<Meter>,
}

impl Call {
    /// Marks a call as running until the value is dropped. Only one thread calls an instance.
    pub(super) fn begin(&self) -> Running<'_> {
        self.turn();
        Running(self)
    }

    fn turn(&self) {
        let turns = self.turns.load(Relaxed);
        self.turns.store(turns.wrapping_add(1), Relaxed);
    }
}

/// A call as the clock knows it.
#[derive(Debug)]
struct Watched {
    call: Arc<Call>,
    /// Its computing time has a limit.
    paced: bool,
    /// The turns at the last look, and since when they are the same.
    turns: u64,
    since: Instant,
}

impl Watched {
    /// Whether it has to be looked at often.
    fn is_urgent(&self, now: Instant) -> bool {
        self.paced && now.duration_since(self.since) < limits::CPU_IDLE_TIME
    }

    /// Whether a call runs. One that is the same as before has run since then.
    fn look(&mut self, now: Instant) -> bool {
        let turns = self.call.turns.load(Relaxed);
        let runs = turns % 2 == 1;
        if turns != self.turns {
            (self.turns, self.since) = (turns, now);
        } else if runs {
            let ms = now.duration_since(self.since).as_millis();
            let ms = u64::try_from(ms).unwrap_or(u64::MAX);
            self.call.meter.longest_call_ms.fetch_max(ms, Relaxed);
        }
        runs
    }
}

/// A call that runs.
pub(super) struct Running<'a>(&'a Call);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.turn();
    }
}

impl Clock {
    /// Starts the clock's thread.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread.
    pub fn start(engine: &Engine) -> Result<Clock> {
        let calls = Arc::new(Mutex::new(Vec::<Watched>::new()));
        let watched = Arc::downgrade(&calls);
        let engine = engine.clone();
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = ticks.clone();
        let run = move || {
            while let Some(calls) = watched.upgrade() {
                let pause = tick(&calls, &engine);
                drop(calls);
                counted.fetch_add(1, Relaxed);
                thread::sleep(pause);
            }
        };
        spawn_unprivileged("clock", run)
            .map_err(|why| Error::failed("cannot start a thread").because(why))?;
        Ok(Clock { ticks, calls })
    }

    /// A number that changes with each tick.
    pub(super) fn ticks(&self) -> Arc<AtomicU64> {
        self.ticks.clone()
    }

    /// A further instance to watch.
    pub(super) fn watch(&self, meter: Arc<Meter>, paced: bool) -> Arc<Call> {
        let call = Arc::new(Call {
            turns: AtomicU64::new(0),
            meter,
        });
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of instances that are gone are nobody else's.
        calls.retain(|watched| Arc::strong_count(&watched.call) > 1);
        calls.push(Watched {
            call: call.clone(),
            paced,
            turns: 0,
            since: Instant::now(),
        });
        call
    }
}

/// Lets time pass for the calls that run now. Gives how long to wait for the next time.
fn tick(calls: &Mutex<Vec<Watched>>, engine: &Engine) -> Duration {
    let now = Instant::now();
    let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut runs, mut urgent) = (false, false);
    for watched in calls.iter_mut() {
        let call_runs = watched.look(now);
        runs |= call_runs;
        urgent |= watched.is_urgent(now) || call_runs && watched.paced;
    }
    if runs {
        engine.increment_epoch();
    }
    if urgent {
        limits::CPU_TICK
    } else {
        limits::EPOCH_TICK
    }
}
