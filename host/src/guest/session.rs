//! One running copy of a guest: its store, and calls under a deadline.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::Store;

use super::engine::{Call, Clock};
use super::fault::Health;
use super::imports::State;
use crate::limits;

/// One running copy of a guest, with a store of its own: a trap ends it, and nothing else.
pub(super) struct Session {
    store: Store<State>,
    deadline: Duration,
    ticks: u64,
    call: Arc<Call>,
    health: Arc<Health>,
    /// Keeps the deadline alive.
    _clock: Clock,
}

impl Session {
    /// A store for one instance, which is called under this deadline.
    pub(super) fn new(
        store: Store<State>,
        deadline: Duration,
        clock: &Clock,
        health: Arc<Health>,
    ) -> Session {
        let ticks = deadline
            .as_millis()
            .div_ceil(limits::EPOCH_TICK.as_millis());
        Session {
            store,
            deadline,
            // One more: the first tick may come at once.
            ticks: u64::try_from(ticks).unwrap_or(u64::MAX - 1) + 1,
            call: clock.watch(),
            health,
            _clock: clock.clone(),
        }
    }

    /// The longest call.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// What belongs to the instance on the host's side.
    pub(super) fn state(&self) -> &State {
        self.store.data()
    }

    /// One call, watched by the clock. An error is a trap, or what the caller makes one.
    pub(super) fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Store<State>) -> wasmtime::Result<T>,
    ) -> wasmtime::Result<T> {
        self.store.set_epoch_deadline(self.ticks);
        let running = self.call.begin();
        let unwound = GiveUpOnPanic(&self.health);
        let outcome = call(&mut self.store);
        drop((running, unwound));
        outcome
    }
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
