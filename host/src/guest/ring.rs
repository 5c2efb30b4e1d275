//! The contract `ring` as a target: records in memory that the guest lent, one call for all of them.

use wasmtime::component::Instance as ComponentInstance;
use wasmtime::{Result, Store, bail, ensure};

use super::account::Account;
use super::bindings::exports::wasmblk::block::ring;
use super::fault::Fault;
use super::imports::{Lent, State, Waiting};
use super::limiter::Limiter;
use super::opener::claims;
use super::records::{self, RECORD_BYTES, Record};
use super::session::Session;
use super::supervisor::Running;
use super::terms::Terms;
use crate::block::{Checked, Claims, Ended, Geometry, Next, Output, Target};
use crate::limits;
use crate::store::Stores;
use crate::sys::{self, Arena, Slots};

/// Events or actions in the arena.
type Records = sys::Records<{ RECORD_BYTES / 8 }>;

/// A guest that shares its memory: no data is copied by the host.
pub(super) struct Ring {
    events: Records,
    actions: Records,
    session: Session,
    guest: ring::Guest,
    account: Account,
    arena_bytes: usize,
    /// Events that are written and not polled.
    written: u32,
    again: bool,
    /// What the first poll asked for.
    first: Output,
    fault: Option<Fault>,
}

/// What `ring.open` gave, with the arena that it lent.
pub(super) struct Opening {
    guest: ring::Guest,
    disk: ring::Disk,
    arena: Arena,
}

/// What the host offers a guest.
pub(super) fn shape(depth: u32, max_transfer_bytes: u32) -> ring::Shape {
    ring::Shape {
        depth,
        max_transfer_bytes,
    }
}

/// Calls `ring.open`. The outer error is a trap or a breach of the contract, the inner one the guest's own.
/// `before` is the arena of the instance that came before this one.
pub(super) fn open(
    store: &mut Store<State>,
    instance: &ComponentInstance,
    indices: &ring::GuestIndices,
    options: &[(String, String)],
    (shape, before): (ring::Shape, Option<Arena>),
) -> Result<std::result::Result<Opening, ring::OpenError>> {
    let guest = indices.load(&mut *store, instance)?;
    store.data_mut().lent = Lent::Open(before);
    let opened = guest.call_open(&mut *store, options, shape)?;
    let lent = std::mem::replace(&mut store.data_mut().lent, Lent::Closed);
    store.data_mut().waiting = Waiting::Refused;
    let disk = match opened {
        Ok(disk) => disk,
        Err(error) => return Ok(Err(error)),
    };
    let Lent::Arena(arena) = lent else {
        bail!("it lent no memory: ring.open calls host.lend");
    };
    Ok(Ok(Opening { guest, disk, arena }))
}

impl Opening {
    /// What the guest says of its device, which was offered transfers of so many bytes.
    pub(super) fn claimed(&self, offered_bytes: u32) -> Claims {
        let mut geometry = self.disk.geometry;
        if geometry.max_transfer_bytes == 0 {
            geometry.max_transfer_bytes = offered_bytes;
        }
        claims(&geometry, self.disk.trim)
    }

    /// What it lent.
    pub(super) fn arena(&self) -> &Arena {
        &self.arena
    }

    /// How many operations it may have under way.
    pub(super) fn ops_max(&self) -> u32 {
        self.disk.layout.ops_max
    }

    /// The slots of its arena; `None` where requests' data stays with the host.
    pub(super) fn slots(&self, depth: u32, geometry: &Geometry) -> Result<Option<Slots>> {
        if self.disk.data == ring::Data::Host {
            return Ok(None);
        }
        let ring::Layout {
            slots_offset,
            slot_stride,
            ..
        } = self.disk.layout;
        let slots = Slots::in_arena(
            &self.arena,
            slots_offset as usize,
            slot_stride as usize,
            (depth, geometry.max_transfer_bytes),
        );
        let Some(slots) = slots else {
            bail!(
                "its slots do not fit: {depth} of {} bytes, {slot_stride} apart, from {slots_offset} on, \
                 all multiples of 4096, in {} bytes",
                geometry.max_transfer_bytes,
                self.arena.bytes()
            );
        };
        Ok(Some(slots))
    }

    /// Checks the layout, and polls for the first time.
    pub(super) fn begin(
        self,
        mut session: Session,
        depth: u32,
        geometry: &Geometry,
        stores: &Stores,
    ) -> Result<Ring> {
        let (events, actions) = check(&self.disk.layout, &self.arena, depth)?;
        let ops_max = self.ops_max();
        let ops_bytes = ops_max as usize * limits::RING_OP_BYTES;
        ensure!(
            session.take_memory(ops_bytes),
            "its ops-max of {ops_max} takes {} KiB, more than is left of its memory; give it more with --memory-mib",
            ops_bytes.div_ceil(1024)
        );
        let hidden = self.disk.data == ring::Data::Host;
        let terms = Terms {
            depth,
            ops_max,
            arena_bytes: self.arena.bytes() as u64,
            hidden_bytes_max: hidden.then_some(geometry.max_transfer_bytes),
            stores: stores.shapes().into(),
            deadline: session.deadline(),
            ticks: session.ticks(),
        };
        let mut ring = Ring {
            events,
            actions,
            session,
            guest: self.guest,
            account: Account::new(terms),
            arena_bytes: self.arena.bytes(),
            written: 0,
            again: true,
            first: Output::default(),
            fault: None,
        };
        let mut first = Output::default();
        ring.turn(&mut first)?;
        ring.first = first;
        Ok(ring)
    }
}

/// The places of events and actions, where all that the guest said of its arena is right.
fn check(layout: &ring::Layout, arena: &Arena, depth: u32) -> Result<(Records, Records)> {
    let ring::Layout {
        version,
        events_offset,
        actions_offset,
        actions_max,
        ops_max,
        ..
    } = *layout;
    ensure!(
        version == records::VERSION,
        "its layout has version {version}; this wasmblk knows version {}: rebuild the guest",
        records::VERSION
    );
    ensure!(
        (1..=limits::RING_ACTIONS_MAX).contains(&actions_max) && ops_max <= limits::RING_OPS_MAX,
        "actions-max is {actions_max} and ops-max {ops_max}; the most are {} and {}",
        limits::RING_ACTIONS_MAX,
        limits::RING_OPS_MAX
    );
    let events = arena.records(events_offset as usize, depth + ops_max);
    let actions = arena.records(actions_offset as usize, actions_max);
    let (Some(events), Some(actions)) = (events, actions) else {
        bail!(
            "events-offset is {events_offset} and actions-offset {actions_offset}; they must be multiples of 8 \
             with room for {} and {actions_max} records of 32 bytes in the {} bytes that it lent",
            depth + ops_max,
            arena.bytes()
        );
    };
    Ok((events, actions))
}

impl Ring {
    /// One call of the guest, and what it wants. An error is a trap or a breach of the contract.
    fn turn(&mut self, output: &mut Output) -> Result<()> {
        let events = std::mem::take(&mut self.written);
        let guest = &self.guest;
        let returned = (self.session).call(|store| guest.call_poll(store, events))?;
        self.again = returned & records::MORE != 0;
        let actions = returned & !records::MORE;
        let most = self.actions.count();
        ensure!(
            actions <= most,
            "it says {actions} actions, and has room for {most}"
        );
        for record in self.actions.first(actions) {
            self.account.act(&record, output)?;
        }
        Ok(())
    }

    fn work(&mut self, output: &mut Output) -> Result<()> {
        let Ring {
            events,
            written,
            account,
            ..
        } = self;
        account.take_events(|record| put_event(events, written, record));
        let idle = self.written == 0 && !self.again;
        if !idle {
            self.turn(output)?;
        }
        Ok(self.account.check_kept(self.again, idle)?)
    }
}

/// There are at most depth requests and ops-max operations, each with one event at a time.
fn put_event(events: &Records, written: &mut u32, record: &Record) {
    events.put(*written, record);
    *written += 1;
}

impl Target for Ring {
    fn submit(&mut self, slot: u32, request: &Checked) {
        let event = records::request_event(slot, request.request());
        put_event(&self.events, &mut self.written, &event);
        self.account.begin(slot, request);
    }

    fn ended(&mut self, token: u32, ended: Ended, output: &mut Output) {
        self.account.ended(token, ended, output);
        if self.account.has_lost() {
            self.session.health().lose();
        }
    }

    fn poll(&mut self, output: &mut Output) -> Next {
        output.transfers.append(&mut self.first.transfers);
        if let Err(why) = self.work(output) {
            self.account.close();
            self.fault = Some(Fault::new("poll", why));
        }
        if self.again {
            Next::Again
        } else {
            self.account.next()
        }
    }

    /// The kernel and the guest have the data in the same place; the rest is what the guest asked for.
    fn take_copied_bytes(&mut self) -> u64 {
        self.account.take_copied_bytes()
    }
}

impl Running for Ring {
    fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    fn take_requests(&mut self, take: &mut dyn FnMut(u32, &Checked)) {
        self.account.take_requests(take);
    }

    fn keep_arena(&mut self) -> Option<Limiter> {
        Some(self.session.part_of_memory(self.arena_bytes))
    }

    fn under_way(&self) -> u32 {
        self.account.under_way()
    }

    fn is_under_way(&self, slot: u32) -> bool {
        self.account.is_under_way(slot)
    }
}
