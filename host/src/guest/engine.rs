//! The engine, and the clock that ends calls which do not return.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use wasmtime::{Config, Engine};

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

/// Looks at all running calls every [`limits::EPOCH_TICK`]; a call that has seen too many ticks ends in
/// a trap. While no call runs when it looks, nothing is done. Its thread lives as long as the clock or an
/// instance that it watches.
#[derive(Clone, Debug)]
pub struct Clock {
    calls: Arc<Mutex<Vec<Arc<Call>>>>,
}

/// Whether an instance is being called now.
#[derive(Debug, Default)]
pub(super) struct Call(AtomicBool);

impl Call {
    /// Marks a call as running until the value is dropped.
    pub(super) fn begin(&self) -> Running<'_> {
        self.0.store(true, Relaxed);
        Running(self)
    }
}

/// A call that runs.
pub(super) struct Running<'a>(&'a Call);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.store(false, Relaxed);
    }
}

impl Clock {
    /// Starts the clock's thread.
    ///
    /// # Errors
    ///
    /// Where the system gives no thread.
    pub fn start(engine: &Engine) -> Result<Clock> {
        let calls = Arc::new(Mutex::new(Vec::<Arc<Call>>::new()));
        let watched = Arc::downgrade(&calls);
        let engine = engine.clone();
        let run = move || {
            while let Some(calls) = watched.upgrade() {
                let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                if calls.iter().any(|call| call.0.load(Relaxed)) {
                    engine.increment_epoch();
                }
                drop(calls);
                thread::sleep(limits::EPOCH_TICK);
            }
        };
        spawn_unprivileged("clock", run)
            .map_err(|why| Error::failed("cannot start a thread").because(why))?;
        Ok(Clock { calls })
    }

    /// A further instance to watch.
    pub(super) fn watch(&self) -> Arc<Call> {
        let call = Arc::new(Call::default());
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of instances that are gone are nobody else's.
        calls.retain(|call| Arc::strong_count(call) > 1);
        calls.push(call.clone());
        call
    }
}
