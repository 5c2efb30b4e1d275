//! A guest that is loaded, and how its instances begin.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Instance as ComponentInstance, InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::bindings::exports::wasmblk::block::{device, ring as bindings_ring, trim};
use super::bindings::wasmblk::block::types::{self, OpenError};
use super::calls::Calls;
use super::contract::{self, Contract};
use super::engine::Clock;
use super::fault::{self, Health};
use super::imports::{self, LogGate, State};
use super::instance::{Instance, Session};
use super::limiter::Budget;
use super::ring;
use crate::block::{Claims, Geometry, Target, TrimClaims};
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::sys::{Artefact, Slots};

/// Data that a guest may pass to the host, or be given, in one call: a longest transfer and room.
const HOSTCALL_BYTES_MAX: usize = 2 * limits::TRANSFER_BYTES_MAX as usize;

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
    exports: Exports,
}

/// The contract that a guest fulfils.
enum Exports {
    Device(device::GuestIndices, Option<trim::GuestIndices>),
    Ring(bindings_ring::GuestIndices),
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
        let trim = || trim::GuestIndices::new(&linked);
        let exports = match contract {
            Contract::Ring => bindings_ring::GuestIndices::new(&linked).map(Exports::Ring),
            Contract::Device => {
                device::GuestIndices::new(&linked).map(|device| Exports::Device(device, None))
            }
            Contract::DeviceWithTrim => device::GuestIndices::new(&linked)
                .and_then(|device| Ok(Exports::Device(device, Some(trim()?)))),
        };
        Ok(Guest {
            name: name.to_owned(),
            deadline: limits.deadline,
            budget: Budget::new(limits.memory_bytes),
            log: Arc::new(LogGate::new()),
            exports: exports.map_err(misfit)?,
            linked,
        })
    }

    /// The name of the contract that the guest fulfils.
    #[must_use]
    pub fn contract(&self) -> &'static str {
        match self.exports {
            Exports::Device(..) => "device",
            Exports::Ring(_) => "ring",
        }
    }

    /// Makes an instance and opens it, for so many requests in flight.
    ///
    /// # Errors
    ///
    /// The guest's own words where it refuses an option; what happened where it traps; what is wrong
    /// with its geometry or layout; or that the system has no memory for the slots.
    pub fn open(
        &self,
        clock: &Clock,
        health: Arc<Health>,
        options: &[(String, String)],
        tags: Tags,
    ) -> Result<Opened> {
        let mut session = Session::new(self.new_store(), self.deadline, clock, health);
        match &self.exports {
            Exports::Device(device, trim) => {
                let opened = session.call(|store| {
                    let instance = self.linked.instantiate(&mut *store)?;
                    open_device(store, &instance, (device, trim.as_ref()), options)
                });
                let (device, trim, claimed) = self.accept(opened)?;
                let geometry = self.geometry(&claimed)?;
                let slots = Slots::new(tags.of_one(&geometry), geometry.max_transfer_bytes)
                    .doing(no_memory)?;
                let instance = Instance::new(session, device, trim);
                Ok(Opened {
                    target: Box::new(Calls::new(instance, slots.clone())),
                    slots,
                    geometry,
                })
            }
            Exports::Ring(indices) => {
                let (queues, depth) = (u32::from(tags.queues), u32::from(tags.depth));
                let health = session.health().clone();
                let opened = self.open_ring(session, indices, options, depth)?;
                if queues == 1 || opened.geometry.replicated {
                    return Ok(opened);
                }
                // Only now it is known that this one instance gets the requests of all queues.
                drop(opened);
                let session = Session::new(self.new_store(), self.deadline, clock, health);
                self.open_ring(session, indices, options, queues * depth)
            }
        }
    }

    fn open_ring(
        &self,
        mut session: Session,
        indices: &bindings_ring::GuestIndices,
        options: &[(String, String)],
        depth: u32,
    ) -> Result<Opened> {
        let opened = session.call(|store| {
            let instance = self.linked.instantiate(&mut *store)?;
            // The arena counts as data that is passed, although it is not copied.
            store.set_hostcall_fuel(self.budget.bytes_max());
            let opened = ring::open(store, &instance, indices, options, depth);
            store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
            opened
        });
        let opening = self.accept(opened)?;
        let geometry = self.geometry(&opening.claimed())?;
        let ring = opening
            .begin(session, depth, &geometry)
            .map_err(|why| self.broken("its layout or first poll", &why))?;
        Ok(Opened {
            slots: ring.slots().clone(),
            target: Box::new(ring),
            geometry,
        })
    }

    fn new_store(&self) -> Store<State> {
        let engine = self.linked.engine();
        let mut store = Store::new(engine, State::new(self.budget.clone(), self.log.clone()));
        store.limiter(|state| &mut state.limiter);
        store.set_max_component_handles(limits::GUEST_RESOURCES_MAX);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store
    }

    /// What `open` came to: a trap, the guest's own error, or what is wanted.
    fn accept<T>(&self, opened: wasmtime::Result<std::result::Result<T, OpenError>>) -> Result<T> {
        opened
            .map_err(|why| self.broken("open", &why))?
            .map_err(|error| self.refusal(error))
    }

    fn broken(&self, what: &str, why: &wasmtime::Error) -> Error {
        let text = fault::describe(why);
        Error::failed(format!("the guest {} failed in {what}: {text}", self.name))
    }

    fn geometry(&self, claimed: &Claims) -> Result<Geometry> {
        Geometry::new(claimed).map_err(|why| {
            let name = &self.name;
            Error::usage(format!(
                "the guest {name} describes a device that cannot be"
            ))
            .because(why)
        })
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

fn no_memory() -> String {
    "the system has no memory for the data of the requests in flight; with 'add', a smaller --depth needs less"
        .into()
}

/// What the contract `device` opens to: its functions, and what the guest says of the device.
type OpenedDevice = (device::Guest, Option<trim::Guest>, Claims);

/// Calls `device.open`. The outer error is a trap, the inner one the guest's own.
fn open_device(
    store: &mut Store<State>,
    instance: &ComponentInstance,
    (device, trim): (&device::GuestIndices, Option<&trim::GuestIndices>),
    options: &[(String, String)],
) -> wasmtime::Result<std::result::Result<OpenedDevice, OpenError>> {
    let device = device.load(&mut *store, instance)?;
    let trim = trim
        .map(|trim| trim.load(&mut *store, instance))
        .transpose()?;
    let geometry = match device.call_open(&mut *store, options)? {
        Ok(geometry) => geometry,
        Err(error) => return Ok(Err(error)),
    };
    let limits = trim
        .as_ref()
        .map(|trim| trim.call_limits(&mut *store))
        .transpose()?;
    Ok(Ok((device, trim, claims(&geometry, limits))))
}

/// What a guest says of its device, in the host's words.
pub(super) fn claims(geometry: &types::Geometry, trim: Option<types::TrimLimits>) -> Claims {
    let has = |feature| geometry.features.contains(feature);
    Claims {
        size_bytes: geometry.size_bytes,
        logical_block_bytes: geometry.logical_block_bytes,
        physical_block_bytes: geometry.physical_block_bytes,
        max_transfer_bytes: geometry.max_transfer_bytes,
        read_only: has(types::Features::READ_ONLY),
        write_through: has(types::Features::WRITE_THROUGH),
        fua: has(types::Features::FUA),
        rotational: has(types::Features::ROTATIONAL),
        replicated: has(types::Features::REPLICATED),
        trim: trim.map(|trim| TrimClaims {
            granularity_bytes: trim.granularity_bytes,
            max_discard_bytes: trim.max_discard_bytes,
            max_write_zeroes_bytes: trim.max_write_zeroes_bytes,
        }),
    }
}
