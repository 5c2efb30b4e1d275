//! One running copy of a guest, and the contract `device`.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::Store;

use super::bindings::exports::wasmblk::block::{device, trim};
use super::bindings::wasmblk::block::types::Errno as GuestErrno;
use super::engine::{Call, Clock};
use super::fault::{self, Health};
use super::imports::State;
use crate::block::{Backend, Errno};
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

    /// The device's health, which all its instances share.
    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Whether the guest is not to be called any more.
    pub(super) fn has_failed(&self) -> bool {
        self.health.has_failed()
    }

    /// The guest has failed for good.
    pub(super) fn fail(&self, call: &str, fault: &wasmtime::Error) {
        self.health.fail(call, fault);
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

/// The contract `device`: a function for each kind of request.
pub struct Instance {
    session: Session,
    device: device::Guest,
    trim: Option<trim::Guest>,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").finish_non_exhaustive()
    }
}

/// What a call into wasm comes to: a value, the guest's own error, or a trap.
type Outcome<T> = wasmtime::Result<std::result::Result<T, GuestErrno>>;

impl Instance {
    pub(super) fn new(
        session: Session,
        device: device::Guest,
        trim: Option<trim::Guest>,
    ) -> Instance {
        Instance {
            session,
            device,
            trim,
        }
    }

    /// One call: not at all after a failure, watched by the clock, and a trap is the last.
    fn guarded<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&device::Guest, Option<&trim::Guest>, &mut Store<State>) -> Outcome<T>,
    ) -> std::result::Result<T, Errno> {
        if self.session.has_failed() {
            return Err(Errno::EIO);
        }
        let (device, trim) = (&self.device, self.trim.as_ref());
        match self.session.call(|store| call(device, trim, store)) {
            Ok(result) => result.map_err(fault::errno),
            Err(trap) => {
                self.session.fail(name, &trap);
                Err(Errno::EIO)
            }
        }
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

impl Backend for Instance {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> std::result::Result<(), Errno> {
        // Bounded by TRANSFER_BYTES_MAX.
        let length = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        let list = self.guarded("read", |device, _, store| {
            device.call_read(store, offset, length)
        })?;
        if list.len() != data.len() {
            let breach = wasmtime::Error::msg(format!(
                "it gave {} bytes where {length} were asked for",
                list.len()
            ));
            self.session.fail("read", &breach);
            return Err(Errno::EIO);
        }
        data.copy_from_slice(&list);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> std::result::Result<(), Errno> {
        self.guarded("write", |device, _, store| {
            device.call_write(store, offset, data, fua)
        })
    }

    fn flush(&mut self) -> std::result::Result<(), Errno> {
        self.guarded("flush", |device, _, store| device.call_flush(store))
    }

    fn discard(&mut self, offset: u64, length: u32) -> std::result::Result<(), Errno> {
        self.guarded("discard", |_, trim, store| match trim {
            Some(trim) => trim.call_discard(store, offset, length),
            None => Ok(Err(NOT_SUPPORTED)),
        })
    }

    fn write_zeroes(
        &mut self,
        offset: u64,
        length: u32,
        may_discard: bool,
    ) -> std::result::Result<(), Errno> {
        self.guarded("write-zeroes", |_, trim, store| match trim {
            Some(trim) => trim.call_write_zeroes(store, offset, length, may_discard),
            None => Ok(Err(NOT_SUPPORTED)),
        })
    }
}

/// The answer for an interface that a guest does not have; its geometry keeps such requests away.
const NOT_SUPPORTED: GuestErrno = GuestErrno::NotSupported;
