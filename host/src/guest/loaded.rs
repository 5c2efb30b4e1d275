//! A guest that is loaded, and how its instances begin.

use std::sync::Arc;

use wasmtime::component::{ComponentExportIndex, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::bindings::exports::wasmblk::block::{device, ring as bindings_ring, trim};
use super::bindings::wasmblk::block::types::OpenError;
use super::contract::{self, Contract};
use super::fault::{self, Health};
use super::imports::{self, Granted, State};
use super::limiter::Budget;
use super::log::LogGate;
use super::pace::Allowance;
use super::room::Room;
use super::state_size;
use super::usage::{Limits, Meter, Usage};
use super::wasi;
use crate::block::{Claims, Geometry};
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::{Artefact, image};

/// A guest, compiled, checked and linked: ready for instances.
pub struct Guest {
    name: String,
    pub(super) limits: Limits,
    pub(super) meter: Arc<Meter>,
    pub(super) budget: Budget,
    /// What each of its instances takes of that beside memories and tables.
    pub(super) room: Room,
    /// Where its computing time has a limit.
    pub(super) allowance: Option<Arc<Allowance>>,
    log: Arc<LogGate>,
    pub(super) granted: Granted,
    pub(super) linked: InstancePre<State>,
    pub(super) exports: Exports,
}

/// The contract that a guest fulfils.
pub(super) enum Exports {
    Device(DeviceIndices),
    Ring(bindings_ring::GuestIndices),
}

/// Where the functions of the contract `device` are.
pub(super) struct DeviceIndices {
    pub(super) device: device::GuestIndices,
    pub(super) read: ComponentExportIndex,
    pub(super) trim: Option<trim::GuestIndices>,
}

impl DeviceIndices {
    fn new(linked: &InstancePre<State>, has_trim: bool) -> wasmtime::Result<DeviceIndices> {
        let component = linked.component();
        let interface = component.get_export_index(None, DEVICE);
        let read = interface.and_then(|it| component.get_export_index(Some(&it), "read"));
        let trim = has_trim.then(|| trim::GuestIndices::new(linked));
        Ok(DeviceIndices {
            device: device::GuestIndices::new(linked)?,
            read: read.ok_or_else(|| wasmtime::Error::msg("there is no function `read`"))?,
            trim: trim.transpose()?,
        })
    }
}

const DEVICE: &str = "wasmblk:block/device@0.1.0";

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
    pub fn load(
        engine: &Engine,
        artefact: &Artefact,
        name: &str,
        limits: Limits,
        granted: Granted,
    ) -> Result<Guest> {
        let broken = |why: wasmtime::Error| {
            Error::failed(format!(
                "cannot load the compiled {name}; try an empty --cache-dir"
            ))
            .because(why)
        };
        let component = artefact.load(engine).map_err(broken)?;
        let artefacts = state_size::artefacts(image(&component)).map_err(broken)?;
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
        let exports = match contract {
            Contract::Ring => bindings_ring::GuestIndices::new(&linked).map(Exports::Ring),
            Contract::Device => DeviceIndices::new(&linked, false).map(Exports::Device),
            Contract::DeviceWithTrim => DeviceIndices::new(&linked, true).map(Exports::Device),
        };
        let room = Room::new(&artefacts, contract, &granted);
        let meter = Arc::new(Meter::default());
        Ok(Guest {
            name: name.to_owned(),
            limits,
            budget: Budget::new(limits.memory_bytes),
            room,
            allowance: Allowance::new(&limits),
            log: Arc::new(LogGate::new(limits.log_lines, meter.clone())),
            meter,
            granted,
            exports: exports.map_err(misfit)?,
            linked,
        })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the contract that the guest fulfils.
    #[must_use]
    pub fn contract(&self) -> &'static str {
        match self.exports {
            Exports::Device(_) => "device",
            Exports::Ring(_) => "ring",
        }
    }

    /// Where the guest has a budget of computing time, this thread and those that it starts from here on give way to
    /// others.
    pub fn give_way(&self) {
        if let Some(allowance) = &self.allowance {
            allowance.give_way();
        }
    }

    /// What the host has to have ready, in a process that starts no further threads later.
    pub(super) fn prepare(&self) -> Result<()> {
        wasi::prepare(&self.granted.remotes).doing(|| "cannot make what WASI runs in".into())
    }

    /// What its instances use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.meter.usage(self.budget.used_bytes() as u64)
    }

    /// A store for one instance, which has the memory for what that takes by itself.
    pub(super) fn new_store(&self, health: Arc<Health>) -> Result<Store<State>> {
        let (budget, log) = (self.budget.clone(), self.log.clone());
        let state = State::new(budget, log, health, &self.granted);
        let mut store = Store::new(self.linked.engine(), state);
        if !store.data_mut().limiter.take(0, self.room.bytes(), 1) {
            return Err(self.no_room());
        }
        store.limiter(|state| &mut state.limiter);
        store.set_max_component_handles(limits::GUEST_RESOURCES_MAX);
        store.set_hostcall_fuel(limits::GUEST_PASSED_BYTES_MAX);
        Ok(store)
    }

    fn no_room(&self) -> Error {
        let (name, needed) = (&self.name, self.room.bytes().div_ceil(1024));
        let (most, used) = (self.budget.bytes_max(), self.budget.used_bytes());
        let free = most.saturating_sub(used) / 1024;
        Error::failed(format!(
            "each instance of the guest {name} takes {needed} KiB of memory for its globals, functions and imports, \
             and for what it passes, and {free} KiB are left of its {} MiB; give it more with --memory-mib",
            most >> 20
        ))
    }

    /// What `open` came to: a trap, the guest's own error, or what is wanted.
    pub(super) fn accept<T>(
        &self,
        opened: wasmtime::Result<std::result::Result<T, OpenError>>,
    ) -> Result<T> {
        opened
            .map_err(|why| self.broken("open", &why))?
            .map_err(|error| self.refusal(error))
    }

    pub(super) fn broken(&self, what: &str, why: &wasmtime::Error) -> Error {
        let text = fault::describe(why);
        Error::failed(format!("the guest {} failed in {what}: {text}", self.name))
    }

    /// The device that it claims to be, with transfers no longer than the operator wants them.
    pub(super) fn geometry(&self, claimed: &Claims) -> Result<Geometry> {
        let mut geometry = Geometry::new(claimed).map_err(|why| {
            let name = &self.name;
            Error::usage(format!(
                "the guest {name} describes a device that cannot be"
            ))
            .because(why)
        })?;
        let most = self.limits.transfer_bytes;
        geometry.max_transfer_bytes = geometry.max_transfer_bytes.min(most);
        Ok(geometry)
    }

    fn refusal(&self, error: OpenError) -> Error {
        let name = &self.name;
        match error {
            OpenError::BadOption(text) => {
                let text = fault::word(&text);
                Error::usage(format!(
                    "the guest {name} does not take these options: {text}"
                ))
            }
            OpenError::Other(text) => {
                let text = fault::word(&text);
                Error::failed(format!("the guest {name} cannot open: {text}"))
            }
        }
    }
}
