//! The contract `ring` as a target: records in memory that the guest lent, one call for all of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use wasmtime::component::Instance as ComponentInstance;
use wasmtime::{Result, Store, bail, ensure};

use super::bindings::exports::wasmblk::block::ring;
use super::imports::{Lent, State};
use super::instance::Session;
use super::loaded::claims;
use super::records::{self, Action, RECORD_BYTES, Record};
use crate::block::{Answer, Checked, Claims, Errno, Geometry, Next, Target};
use crate::limits;
use crate::sys::{Arena, Slots};

/// What the guest said of its arena, checked: everything is inside it.
#[derive(Clone, Copy, Debug)]
struct Layout {
    events_offset: usize,
    actions_offset: usize,
    actions_max: u32,
    ops_max: u32,
}

/// No request is so long.
const NOT_HELD: u32 = u32::MAX;

/// A guest that shares its memory: no data is copied by the host.
pub(super) struct Ring {
    /// In the arena, whose memory the store has.
    slots: Slots,
    arena: Arena,
    layout: Layout,
    session: Option<Session>,
    guest: ring::Guest,
    /// Of each tag that the guest has, the length of the request; of others, [`NOT_HELD`].
    lengths: Box<[u32]>,
    /// Since when the guest has kept a request beyond the poll that brought it, and of how many tags that
    /// is known.
    since: Box<[Option<Instant>]>,
    kept: u32,
    held: u32,
    /// Events that are written and not polled.
    events: u32,
    again: bool,
    /// Timers that run: when they are due, and their tokens; and of each token, whether it is one of them.
    timers: BinaryHeap<Reverse<(Instant, u32)>>,
    running: Box<[bool]>,
    deadline: Duration,
}

/// What `ring.open` gave, with the arena that it lent.
pub(super) struct Opening {
    guest: ring::Guest,
    disk: ring::Disk,
    arena: Arena,
}

/// Calls `ring.open`. The outer error is a trap or a breach of the contract, the inner one the guest's own.
pub(super) fn open(
    store: &mut Store<State>,
    instance: &ComponentInstance,
    indices: &ring::GuestIndices,
    options: &[(String, String)],
    depth: u32,
) -> Result<std::result::Result<Opening, ring::OpenError>> {
    let guest = indices.load(&mut *store, instance)?;
    let shape = ring::Shape {
        depth,
        max_transfer_bytes: limits::TRANSFER_BYTES_MAX,
    };
    store.data_mut().lent = Lent::Open;
    let opened = guest.call_open(&mut *store, options, shape)?;
    let lent = std::mem::replace(&mut store.data_mut().lent, Lent::Closed);
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
    /// What the guest says of its device.
    pub(super) fn claimed(&self) -> Claims {
        let mut geometry = self.disk.geometry;
        if geometry.max_transfer_bytes == 0 {
            geometry.max_transfer_bytes = limits::TRANSFER_BYTES_MAX;
        }
        claims(&geometry, self.disk.trim)
    }

    /// Checks the layout, and polls for the first time.
    pub(super) fn begin(self, session: Session, depth: u32, geometry: &Geometry) -> Result<Ring> {
        let layout = check(&self.disk.layout, &self.arena, depth)?;
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
        let mut ring = Ring {
            slots,
            arena: self.arena,
            layout,
            deadline: session.deadline(),
            session: Some(session),
            guest: self.guest,
            lengths: vec![NOT_HELD; depth as usize].into(),
            since: vec![None; depth as usize].into(),
            kept: 0,
            held: 0,
            events: 0,
            again: true,
            timers: BinaryHeap::with_capacity(layout.ops_max as usize),
            running: vec![false; layout.ops_max as usize].into(),
        };
        ring.turn(&mut Vec::new())?;
        Ok(ring)
    }
}

fn check(layout: &ring::Layout, arena: &Arena, depth: u32) -> Result<Layout> {
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
    let fits = |offset: u32, records: u32| {
        let end = u64::from(offset) + u64::from(records) * RECORD_BYTES as u64;
        offset.is_multiple_of(8) && end <= arena.bytes() as u64
    };
    ensure!(
        fits(events_offset, depth + ops_max) && fits(actions_offset, actions_max),
        "events-offset is {events_offset} and actions-offset {actions_offset}; they must be multiples of 8 \
         with room for {} and {actions_max} records of 32 bytes in the {} bytes that it lent",
        depth + ops_max,
        arena.bytes()
    );
    Ok(Layout {
        events_offset: events_offset as usize,
        actions_offset: actions_offset as usize,
        actions_max,
        ops_max,
    })
}

impl Ring {
    /// The guest's slots.
    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    fn has_failed(&self) -> bool {
        self.session.as_ref().is_none_or(Session::has_failed)
    }

    fn push_event(&mut self, record: &Record) {
        // There are at most depth requests and ops-max timers, each with one event at a time.
        let place = self.events as usize * RECORD_BYTES;
        self.arena.put(self.layout.events_offset + place, record);
        self.events += 1;
    }

    /// One call of the guest, and what it wants. An error is a trap or a breach of the contract.
    fn turn(&mut self, answers: &mut Vec<Answer>) -> Result<()> {
        let events = std::mem::take(&mut self.events);
        let (guest, Some(session)) = (&self.guest, &mut self.session) else {
            bail!("it has ended");
        };
        let returned = session.call(|store| guest.call_poll(store, events))?;
        self.again = returned & records::MORE != 0;
        let actions = returned & !records::MORE;
        let most = self.layout.actions_max;
        ensure!(
            actions <= most,
            "it says {actions} actions, and has room for {most}"
        );
        let (arena, offset) = (self.arena, self.layout.actions_offset);
        for record in arena.records(offset, actions as usize) {
            match records::action(&record) {
                Ok(Action::Complete { tag, result }) => {
                    let length = match self.lengths.get_mut(tag as usize) {
                        Some(length) => std::mem::replace(length, NOT_HELD),
                        None => NOT_HELD,
                    };
                    ensure!(
                        length != NOT_HELD,
                        "it answers tag {tag}, which it does not have"
                    );
                    self.held -= 1;
                    if self.kept > 0 && self.since[tag as usize].take().is_some() {
                        self.kept -= 1;
                    }
                    answers.push(Answer {
                        slot: tag,
                        result: result.map(|()| length),
                    });
                }
                Ok(Action::Timer { token, after_ms }) => self.start_timer(token, after_ms)?,
                Err(why) => bail!("it asks for what is no action: {why}"),
            }
        }
        self.check_kept()
    }

    fn start_timer(&mut self, token: u32, after_ms: u64) -> Result<()> {
        match self.running.get_mut(token as usize) {
            Some(running) if !*running => *running = true,
            _ => {
                bail!("it starts a timer with token {token}, which is in use or not below ops-max")
            }
        }
        let after = Duration::from_millis(after_ms).min(limits::RING_TIMER_MAX);
        self.timers.push(Reverse((Instant::now() + after, token)));
        Ok(())
    }

    /// Makes events of timers that are due.
    fn take_due_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(Reverse((due, token))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            self.running[token as usize] = false;
            self.push_event(&records::timer_event(token));
        }
    }

    /// Requests that the guest keeps have a bound as well, and must wait for something.
    fn check_kept(&mut self) -> Result<()> {
        if self.held == 0 {
            return Ok(());
        }
        ensure!(
            self.again || !self.timers.is_empty(),
            "it keeps requests and waits for nothing"
        );
        let now = Instant::now();
        for (length, since) in self.lengths.iter().zip(&mut self.since) {
            if *length == NOT_HELD {
                continue;
            }
            if since.is_none() {
                self.kept += 1;
            }
            let kept = now.saturating_duration_since(*since.get_or_insert(now));
            ensure!(
                kept <= self.deadline,
                "it has kept a request for longer than its deadline"
            );
        }
        Ok(())
    }

    /// Answers everything that the guest has with EIO.
    fn give_up(&mut self, answers: &mut Vec<Answer>) {
        for (slot, length) in (0..).zip(&mut self.lengths) {
            if std::mem::replace(length, NOT_HELD) != NOT_HELD {
                let result = Err(Errno::EIO);
                answers.push(Answer { slot, result });
            }
        }
        self.held = 0;
        self.kept = 0;
        self.since.fill(None);
        self.events = 0;
        self.again = false;
        self.timers.clear();
        self.running.fill(false);
    }

    fn next(&self) -> Next {
        if self.again {
            return Next::Again;
        }
        let due = self.timers.peek().map(|Reverse((due, _))| *due);
        let mut bound = None;
        if self.kept > 0 {
            let oldest = self.since.iter().flatten().min();
            bound = oldest.map(|since| *since + self.deadline);
        }
        match due.into_iter().chain(bound).min() {
            Some(time) => Next::At(time),
            None => Next::Submitted,
        }
    }
}

impl Target for Ring {
    fn submit(&mut self, slot: u32, request: &Checked) {
        let request = request.request();
        // The engine has one request for each slot, and there are as many as slots.
        if let Some(length) = self.lengths.get_mut(slot as usize) {
            *length = request.length;
            self.held += 1;
            self.push_event(&records::request_event(slot, request));
        }
    }

    fn poll(&mut self, answers: &mut Vec<Answer>) -> Next {
        if !self.has_failed() {
            self.take_due_timers();
            // Nothing for the guest to do may be the end of what it keeps.
            let outcome = if self.events == 0 && !self.again {
                self.check_kept()
            } else {
                self.turn(answers)
            };
            if let Err(fault) = outcome
                && let Some(session) = &self.session
            {
                session.fail("poll", &fault);
            }
        }
        if self.has_failed() {
            self.give_up(answers);
        }
        self.next()
    }

    /// The kernel and the guest have the data in the same place.
    fn take_copied_bytes(&mut self) -> u64 {
        0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Where the kernel may still write to a slot, the guest's memory stays for ever.
        if self.slots.is_kept() {
            Box::leak(Box::new(self.session.take()));
        }
    }
}
