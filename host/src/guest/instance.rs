//! A guest that is loaded, and one running copy of it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use wasmtime::component::{InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::bindings::exports::wasmblk::block::{device, trim};
use super::bindings::wasmblk::block::types::Errno as GuestErrno;
use super::calls::Calls;
use super::contract;
use super::engine::{Call, Clock};
use super::fault::{self, Health};
use super::imports::{self, LogGate, State};
use super::limiter::Budget;
use crate::block::{Backend, Claims, Errno, Geometry, Target, TrimClaims};
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::{Artefact, Slots};

/// What a guest may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All linear memories and tables of all its instances together, in bytes.
    pub memory_bytes: u64,
    /// The longest call. It interrupts wasm code, not one bulk memory instruction in it.
    pub deadline: Duration,
}

/// Requests in flight on one device.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    /// Hardware queues.
    pub queues: u16,
    /// Requests in flight on each.
    pub depth: u16,
}

impl Tags {
    /// Those of one instance: of all queues, or of its own where each queue has an instance.
    fn of_one(self, geometry: &Geometry) -> u32 {
        let queues = if geometry.replicated { 1 } else { self.queues };
        u32::from(queues) * u32::from(self.depth)
    }
}

/// A guest, compiled, checked and linked: ready for instances.
pub struct Guest {
    name: String,
    deadline: Duration,
    budget: Budget,
    log: Arc<LogGate>,
    linked: InstancePre<State>,
    device: device::GuestIndices,
    trim: Option<trim::GuestIndices>,
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// Loads what [`compile`](super::compile) made. `name` is for messages.
    ///
    /// # Errors
    ///
    /// Says what of the contract the guest does not keep, or which import it may not have.
    pub fn load(engine: &Engine, artefact: &Artefact, name: &str, limits: Limits) -> Result<Guest> {
        let component = artefact.load(engine).map_err(|why| {
            Error::failed(format!(
                "cannot load the compiled {name}; try an empty --cache-dir"
            ))
            .because(why)
        })?;
        let contract = contract::check(engine, &component, name)?;
        let misfit = |why: wasmtime::Error| {
            Error::usage(format!(
                "{name} does not fit this wasmblk's WIT; rebuild it with its wit folder"
            ))
            .because(why)
        };
        let mut linker = Linker::new(engine);
        imports::add_to_linker(&mut linker).map_err(misfit)?;
        let linked = linker.instantiate_pre(&component).map_err(misfit)?;
        let device = device::GuestIndices::new(&linked).map_err(misfit)?;
        let trim = contract
            .trim
            .then(|| trim::GuestIndices::new(&linked))
            .transpose();
        let trim = trim.map_err(misfit)?;
        Ok(Guest {
            name: name.to_owned(),
            deadline: limits.deadline,
            budget: Budget::new(limits.memory_bytes),
            log: Arc::new(LogGate::new()),
            linked,
            device,
            trim,
        })
    }

    /// Makes an instance and opens it, for so many requests in flight.
    ///
    /// # Errors
    ///
    /// The guest's own words where it refuses an option; what happened where it traps; what is wrong
    /// with its geometry; or that the system has no memory for the slots.
    pub fn open(
        &self,
        clock: &Clock,
        health: Arc<Health>,
        options: &[(String, String)],
        tags: Tags,
    ) -> Result<Opened> {
        let (instance, geometry) = self.open_device(clock, health, options)?;
        let slots = Slots::new(tags.of_one(&geometry), geometry.max_transfer_bytes)
            .doing(|| "no memory for the data; a smaller --depth needs less".into())?;
        Ok(Opened {
            target: Box::new(Calls::new(instance, slots.clone())),
            slots,
            geometry,
        })
    }

    fn open_device(
        &self,
        clock: &Clock,
        health: Arc<Health>,
        options: &[(String, String)],
    ) -> Result<(Instance, Geometry)> {
        let engine = self.linked.engine();
        let mut store = Store::new(engine, State::new(self.budget.clone(), self.log.clone()));
        store.limiter(|state| &mut state.limiter);
        store.set_max_component_handles(limits::GUEST_RESOURCES_MAX);
        store.set_hostcall_fuel(2 * limits::TRANSFER_BYTES_MAX as usize);
        let ticks = self
            .deadline
            .as_millis()
            .div_ceil(limits::EPOCH_TICK.as_millis());
        // One more: the first tick may come at once.
        let ticks = u64::try_from(ticks).unwrap_or(u64::MAX - 1) + 1;
        store.set_epoch_deadline(ticks);
        let call = clock.watch();
        let running = call.begin();
        let broken = |what: &str, why: &wasmtime::Error| {
            let text = fault::describe(why);
            Error::failed(format!("the guest {} failed in {what}: {text}", self.name))
        };
        let result = (|| {
            let instance = self
                .linked
                .instantiate(&mut store)
                .map_err(|why| broken("its start", &why))?;
            let load = |why: wasmtime::Error| broken("its start", &why);
            let device = self.device.load(&mut store, &instance).map_err(load)?;
            let trim = self
                .trim
                .as_ref()
                .map(|trim| trim.load(&mut store, &instance))
                .transpose();
            let trim = trim.map_err(load)?;
            let geometry = device
                .call_open(&mut store, options)
                .map_err(|why| broken("open", &why))?
                .map_err(|error| self.refusal(error))?;
            let trim_limits = trim
                .as_ref()
                .map(|trim| trim.call_limits(&mut store))
                .transpose()
                .map_err(|why| broken("limits", &why))?;
            Ok((device, trim, claims(&geometry, trim_limits)))
        })();
        drop(running);
        let (device, trim, claims) = result?;
        let geometry = Geometry::new(&claims).map_err(|why| {
            let name = &self.name;
            Error::usage(format!(
                "the guest {name} describes a device that cannot be"
            ))
            .because(why)
        })?;
        Ok((
            Instance {
                store,
                device,
                trim,
                ticks,
                call,
                health,
                _clock: clock.clone(),
            },
            geometry,
        ))
    }

    fn refusal(&self, error: device::OpenError) -> Error {
        let name = &self.name;
        match error {
            device::OpenError::BadOption(text) => {
                let text = fault::word(&text);
                Error::usage(format!(
                    "the guest {name} does not take these options: {text}"
                ))
            }
            device::OpenError::Other(text) => {
                let text = fault::word(&text);
                Error::failed(format!("the guest {name} cannot open: {text}"))
            }
        }
    }
}

/// A guest that serves: its device, what takes requests, and where their data lies.
pub struct Opened {
    /// Size and shape of the device.
    pub geometry: Geometry,
    /// What takes requests.
    pub target: Box<dyn Target + Send>,
    /// Their data.
    pub slots: Slots,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

fn claims(geometry: &device::Geometry, trim: Option<trim::TrimLimits>) -> Claims {
    let has = |feature| geometry.features.contains(feature);
    Claims {
        size_bytes: geometry.size_bytes,
        logical_block_bytes: geometry.logical_block_bytes,
        physical_block_bytes: geometry.physical_block_bytes,
        max_transfer_bytes: geometry.max_transfer_bytes,
        read_only: has(device::Features::READ_ONLY),
        write_through: has(device::Features::WRITE_THROUGH),
        fua: has(device::Features::FUA),
        rotational: has(device::Features::ROTATIONAL),
        replicated: has(device::Features::REPLICATED),
        trim: trim.map(|trim| TrimClaims {
            granularity_bytes: trim.granularity_bytes,
            max_discard_bytes: trim.max_discard_bytes,
            max_write_zeroes_bytes: trim.max_write_zeroes_bytes,
        }),
    }
}

/// One running copy of a guest, with a store of its own: a trap ends it, and nothing else.
pub struct Instance {
    store: Store<State>,
    device: device::Guest,
    trim: Option<trim::Guest>,
    ticks: u64,
    call: Arc<Call>,
    health: Arc<Health>,
    /// Keeps the deadline alive.
    _clock: Clock,
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// What a call into wasm comes to: a value, the guest's own error, or a trap.
type Outcome<T> = wasmtime::Result<std::result::Result<T, GuestErrno>>;

impl Instance {
    /// One call: not at all after a failure, watched by the clock, and a trap is the last.
    fn guarded<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&device::Guest, Option<&trim::Guest>, &mut Store<State>) -> Outcome<T>,
    ) -> std::result::Result<T, Errno> {
        if self.health.has_failed() {
            return Err(Errno::EIO);
        }
        self.store.set_epoch_deadline(self.ticks);
        let running = self.call.begin();
        let unwound = GiveUpOnPanic(&self.health);
        let outcome = call(&self.device, self.trim.as_ref(), &mut self.store);
        drop((running, unwound));
        match outcome {
            Ok(result) => result.map_err(fault::errno),
            Err(trap) => {
                self.health.fail(name, &trap);
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
            self.health.fail("read", &breach);
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
