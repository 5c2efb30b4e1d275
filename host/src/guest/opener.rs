//! How instances of a guest begin: the first, and those that take its place.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::Instance as ComponentInstance;

use super::bindings::exports::wasmblk::block::ring as bindings_ring;
use super::bindings::wasmblk::block::types::{self, OpenError};
use super::calls::Calls;
use super::clock::Clock;
use super::fault::{Fault, Health};
use super::imports::State;
use super::instance::{Functions, Instance};
use super::loaded::{DeviceIndices, Exports, Guest};
use super::ring;
use super::session::Session;
use super::supervisor::{Running, Supervisor};
use crate::block::{Claims, Geometry, Target, TrimClaims};
use crate::error::{Context, Result};
use crate::sys::{Place, Slots};

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

/// A guest with everything that its instances need.
#[derive(Clone, Debug)]
pub struct Opener {
    /// The guest.
    pub guest: Arc<Guest>,
    /// What watches its calls.
    pub clock: Clock,
    /// How the device's instances are.
    pub health: Arc<Health>,
    /// The operator's options.
    pub options: Arc<[(String, String)]>,
    /// Requests in flight.
    pub tags: Tags,
}

/// A guest that serves: its device, what takes requests, and where their data lies.
pub struct Opened {
    /// Size and shape of the device.
    pub geometry: Geometry,
    /// What takes requests.
    pub target: Box<dyn Target + Send>,
    /// What its transfers are between.
    pub place: Place,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

/// An instance that has begun.
pub(super) struct Begun {
    pub(super) geometry: Geometry,
    pub(super) running: Box<dyn Running + Send>,
    pub(super) place: Place,
}

impl Opener {
    /// Makes an instance and opens it.
    ///
    /// # Errors
    ///
    /// The guest's own words where it refuses an option; what happened where it traps; what is wrong
    /// with its geometry or layout; or that the system has no memory for the slots.
    pub fn open(&self) -> Result<Opened> {
        self.guest.prepare()?;
        let begun = match &self.guest.exports {
            Exports::Device(device) => self.begin_device(device, None)?,
            Exports::Ring(indices) => {
                let (queues, depth) = (u32::from(self.tags.queues), u32::from(self.tags.depth));
                let begun = self.begin_ring(indices, depth, None)?;
                if queues == 1 || begun.geometry.replicated {
                    begun
                } else {
                    // Only now it is known that this one instance gets the requests of all queues.
                    drop(begun);
                    self.begin_ring(indices, queues * depth, None)?
                }
            }
        };
        Ok(Opened {
            geometry: begun.geometry,
            place: begun.place.clone(),
            target: Box::new(Supervisor::new(self.clone(), begun)),
        })
    }

    /// Makes an instance that takes the place of another, with the same memory for requests' data.
    pub(super) fn begin_again(
        &self,
        geometry: &Geometry,
        place: &Place,
    ) -> std::result::Result<Box<dyn Running + Send>, Fault> {
        let begun = match &self.guest.exports {
            Exports::Device(device) => self.begin_device(device, Some(place)),
            Exports::Ring(indices) => self.begin_ring(indices, place.slots.count(), Some(place)),
        };
        let begun = begun.map_err(|error| Fault::in_open(error.chain()))?;
        if begun.geometry != *geometry || !begun.place.is_like(place) {
            return Err(Fault::in_open("it is another device than before".into()));
        }
        Ok(begun.running)
    }

    fn new_session(&self) -> Result<Session> {
        Session::new(&self.guest, &self.clock, self.health.clone())
    }

    fn begin_device(&self, indices: &DeviceIndices, before: Option<&Place>) -> Result<Begun> {
        let guest = &self.guest;
        let mut session = self.new_session()?;
        let opened = session.call(|store| {
            let instance = guest.linked.instantiate(&mut *store)?;
            open_device(store, &instance, indices, &self.options)
        });
        let opened = guest.accept(opened);
        let (functions, claimed) = opened.map_err(|error| session.explain(error))?;
        let geometry = guest.geometry(&claimed)?;
        let slots = self.slots(&geometry, before)?;
        let instance = Instance::new(session, functions);
        Ok(Begun {
            geometry,
            running: Box::new(Calls::new(instance, slots.clone())),
            // It uses stores by calls.
            place: Place::new(slots),
        })
    }

    fn begin_ring(
        &self,
        indices: &bindings_ring::GuestIndices,
        depth: u32,
        before: Option<&Place>,
    ) -> Result<Begun> {
        let guest = &self.guest;
        let arena = before.and_then(|place| place.arena.clone());
        let mut session = self.new_session()?;
        let opened = session.call(|store| {
            let instance = guest.linked.instantiate(&mut *store)?;
            let shape = ring::shape(depth, guest.limits.transfer_bytes);
            ring::open(store, &instance, indices, &self.options, (shape, arena))
        });
        // It uses stores by transfers now.
        session.give_back_memory(guest.room.for_stores);
        let opened = guest.accept(opened);
        let opening = opened.map_err(|error| session.explain(error))?;
        let geometry = guest.geometry(&opening.claimed(guest.limits.transfer_bytes))?;
        let broken = |why| guest.broken("its layout or first poll", &why);
        let in_arena = opening.slots(depth, &geometry).map_err(broken)?;
        let hidden = in_arena.is_none();
        let place = Place {
            slots: match in_arena {
                Some(slots) => slots,
                None => self.slots(&geometry, before)?,
            },
            arena: Some(opening.arena().clone()),
            stores: guest.granted.stores.clone(),
            // Those that answer requests have no token of the guest's.
            transfers_max: opening.ops_max() + if hidden { depth } else { 0 },
            hidden,
        };
        let ring = opening.begin(session, depth, &geometry, &guest.granted.stores);
        Ok(Begun {
            geometry,
            running: Box::new(ring.map_err(broken)?),
            place,
        })
    }

    /// The host's memory for requests' data: that of the instance before, or fresh.
    fn slots(&self, geometry: &Geometry, before: Option<&Place>) -> Result<Slots> {
        if let Some(place) = before {
            return Ok(place.slots.clone());
        }
        Slots::new(self.tags.of_one(geometry), geometry.max_transfer_bytes).doing(no_memory)
    }
}

fn no_memory() -> String {
    "the system has no memory for the data of the requests in flight; with 'add', a smaller --depth needs less"
        .into()
}

/// What the contract `device` opens to: its functions, and what the guest says of the device.
type OpenedDevice = (Functions, Claims);

/// Calls `device.open`. The outer error is a trap, the inner one the guest's own.
fn open_device(
    store: &mut Store<State>,
    instance: &ComponentInstance,
    indices: &DeviceIndices,
    options: &[(String, String)],
) -> wasmtime::Result<std::result::Result<OpenedDevice, OpenError>> {
    let device = indices.device.load(&mut *store, instance)?;
    let read = instance.get_typed_func(&mut *store, indices.read)?;
    let trim = (indices.trim.as_ref())
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
    let claims = claims(&geometry, limits);
    Ok(Ok((Functions { device, read, trim }, claims)))
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
        restartable: has(types::Features::RESTARTABLE),
        trim: trim.map(|trim| TrimClaims {
            granularity_bytes: trim.granularity_bytes,
            max_discard_bytes: trim.max_discard_bytes,
            max_write_zeroes_bytes: trim.max_write_zeroes_bytes,
        }),
    }
}
