//! One running copy of a guest: its store, and calls under a deadline.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

use wasmtime::{Store, Trap, UpdateDeadline};

use super::clock::{Call, Clock};
use super::fault::Health;
use super::imports::State;
use super::limiter::Limiter;
use super::loaded::Guest;
use super::pace::Pace;
use crate::error::{Error, Result};

/// One running copy of a guest, with a store of its own: a trap ends it, and nothing else.
pub(super) struct Session {
    store: Store<State>,
    deadline: Duration,
    call: Arc<Call>,
    health: Arc<Health>,
    /// Keeps the deadline alive.
    clock: Clock,
}

impl Session {
    /// A store for one instance, which is called under this deadline.
    ///
    /// # Errors
    ///
    /// Where the guest's limit has no memory for it.
    pub(super) fn new(guest: &Guest, clock: &Clock, health: Arc<Health>) -> Result<Session> {
        let deadline = guest.limits.deadline;
        let mut store = guest.new_store(health.clone())?;
        let (meter, allowance) = (&guest.meter, &guest.allowance);
        let call = clock.watch(meter.clone(), deadline, allowance.clone());
        let pace = |allowance| Pace::new(allowance, meter.clone(), call.clone(), clock.ticks());
        store.data_mut().pace = allowance.clone().map(pace);
        store.data_mut().call = Some(call.clone());
        keep_time(&mut store, call.clone());
        Ok(Session {
            store,
            deadline,
            call,
            health,
            clock: clock.clone(),
        })
    }

    /// The longest call.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A number that changes with each tick of the clock.
    pub(super) fn ticks(&self) -> Arc<AtomicU64> {
        self.clock.ticks()
    }

    /// How the device's instances are.
    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// Counts memory of the host as the guest's, as long as this instance is there; says whether there was room.
    pub(super) fn take_memory(&mut self, bytes: usize) -> bool {
        self.store.data_mut().limiter.take(0, bytes, 1)
    }

    /// Gives back some of what is taken for it.
    pub(super) fn give_back_memory(&mut self, bytes: usize) {
        self.store.data_mut().limiter.give_back(bytes);
    }

    /// So much of what is taken for it, which outlives it.
    pub(super) fn part_of_memory(&mut self, bytes: usize) -> Limiter {
        self.store.data_mut().limiter.part(bytes)
    }

    /// How to grant what it looked for in vain, behind an error that may be due to that.
    pub(super) fn explain(&self, error: Error) -> Error {
        let state = self.store.data();
        match state.missing.remedy(state.remotes.refused()) {
            Some(remedy) => error.because(remedy),
            None => error,
        }
    }

    /// One call, watched by the clock. An error is a trap, or what the caller makes one.
    pub(super) fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        if let Some(pace) = &mut self.store.data_mut().pace {
            pace.begin();
        }
        let running = self.call.begin();
        let unwound = GiveUpOnPanic(&self.health);
        let outcome = call(&mut self.store);
        // Whatever it ends with: it was made to (`link.rs`).
        let outcome = outcome.map_err(|why| {
            if self.call.is_overdue() {
                why.context(Trap::Interrupt)
            } else {
                why
            }
        });
        drop((running, unwound));
        outcome
    }
}

/// Has each new epoch looked at by the call that runs.
fn keep_time(store: &mut Store<State>, call: Arc<Call>) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        if let Some(pace) = &mut store.data_mut().pace {
            pace.keep_to_budget();
        }
        Ok(if call.is_overdue() {
            UpdateDeadline::Interrupt
        } else {
            UpdateDeadline::Continue(1)
        })
    });
}

/// A panic of ours leaves the instance in the middle of a call: it is of no use any more.
struct GiveUpOnPanic<'a>(&'a Health);

impl Drop for GiveUpOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.give_up("the host panicked during a call");
        }
    }
}
