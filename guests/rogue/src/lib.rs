//! `rogue`: a disk of the contract `ring` that breaks its rules on request. Without `lie` it keeps them: reads
//! give zeros, writes are forgotten. It is written against the bare WIT, without the SDK.
//!
//! Options: `size` (64M); `lie` = one of those below, told in `open` or in the first `poll` with a read; `data` =
//! `host` leaves the data of requests there; `restartable`. Store `data`, where a lie uses one.

wit_bindgen::generate!({ world: "ring-disk", path: "../../wit" });

mod transfers;

use std::cell::RefCell;

use exports::wasmblk::block::ring::{Data, Disk, Guest, Layout, Shape};
use wasmblk::block::host::{lend, log};
use wasmblk::block::store;
use wasmblk::block::types::{Features, Geometry, OpenError};
use wasmblk_guest::parse_size;

const RECORD_BYTES: usize = 32;
const PAGE_BYTES: usize = 4096;
const TRANSFER_BYTES: usize = 64 << 10;
const OPS_MAX: usize = 128;
const MORE: u32 = 1 << 31;
/// In the place of a tag: the memory is the arena's.
const NO_TAG: u32 = u32::MAX;

/// What `poll` works with. Offsets count from the begin of `memory`, which has the arena in it.
#[derive(Default)]
struct State {
    memory: Vec<u8>,
    events: usize,
    actions: usize,
    slots: usize,
    /// Where the arena begins, and how long it is.
    begin: usize,
    arena_bytes: usize,
    has_store: bool,
    /// Which tag's read a token belongs to.
    tags: Vec<u32>,
    depth: usize,
    actions_count: usize,
    lie: String,
    /// The data of requests is with the host.
    hidden: bool,
    /// Reads that it keeps.
    kept: Vec<u32>,
    polls: u32,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

impl State {
    fn event(&self, index: usize) -> (u32, u32, u32) {
        let record = &self.memory[self.events + index * RECORD_BYTES..][..RECORD_BYTES];
        let number = |at: usize| {
            u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
        };
        (number(0), number(4), number(16))
    }

    fn act(&mut self, kind: u32, tag: u32, time: u64, status: u32) {
        let record = &mut self.memory[self.actions + self.actions_count * RECORD_BYTES..];
        record[..4].copy_from_slice(&kind.to_le_bytes());
        record[4..8].copy_from_slice(&tag.to_le_bytes());
        record[8..16].copy_from_slice(&time.to_le_bytes());
        record[16..20].copy_from_slice(&status.to_le_bytes());
        self.actions_count += 1;
    }

    /// A transfer has ended: so does its request, and as the transfer did.
    fn ended(&mut self, token: u32, status: u32) {
        let tag = std::mem::replace(&mut self.tags[token as usize], NO_TAG);
        if tag != NO_TAG {
            self.act(0, tag, 0, status);
        }
    }

    fn complete(&mut self, tag: u32) {
        self.act(0, tag, 0, 0);
    }

    /// One request, by the rules or not. What is returned is added to what `poll` returns.
    fn request(&mut self, kind: u32, tag: u32, length: u32) -> u32 {
        if kind == 0 && self.lie.starts_with("answer") {
            self.answer_by_transfer(tag, length);
            return 0;
        }
        if kind == 0 && (self.hidden || self.has_store) {
            self.read_by_transfers(tag, length);
            return 0;
        }
        if kind == 0 {
            let slot = self.slots + tag as usize * (TRANSFER_BYTES + PAGE_BYTES);
            self.memory[slot..][..length as usize].fill(0);
        }
        match self.lie.clone().as_str() {
            _ if kind != 0 => self.complete(tag),
            "twice" => {
                self.complete(tag);
                self.complete(tag);
            }
            "another-tag" => self.complete((tag + 1) % self.depth as u32),
            "tag-beyond" => self.complete(self.depth as u32),
            "tag-max" => self.complete(u32::MAX),
            "kind" => self.act(99, tag, 0, 0),
            "store-kind" => self.act(1, tag, 0, 0),
            "status" => self.act(0, tag, 0, 9),
            "status-max" => self.act(0, tag, 0, u32::MAX),
            "never" => self.kept.push(tag),
            "timers-only" => {
                self.kept.push(tag);
                self.act(16, 0, 10, 0);
            }
            "long-timer" => {
                self.kept.push(tag);
                self.act(16, 0, 3_600_000, 0);
            }
            "more-only" => {
                self.kept.push(tag);
                return MORE;
            }
            "late" => {
                self.kept.push(tag);
                if self.kept.len() == 1 {
                    self.act(16, 1, 50, 0);
                }
            }
            "token-beyond" => self.act(16, OPS_MAX as u32, 1, 0),
            "token-twice" => {
                self.act(16, 1, 1000, 0);
                self.act(16, 1, 1000, 0);
            }
            "timer-for-ever" => {
                self.act(16, 2, u64::MAX, 0);
                self.complete(tag);
            }
            "count" => return self.depth as u32 + OPS_MAX as u32 + 1,
            "count-max" => return MORE - 1,
            "lend-again" => lend(&self.memory[..PAGE_BYTES]),
            "trap" => panic!("told to trap"),
            "spin" => loop {
                std::hint::black_box(());
            },
            "grow" => {
                // The memory grows while requests are under way; what was lent stays where it was.
                Vec::<u8>::with_capacity(1 << 20).leak();
                self.complete(tag);
            }
            "scribble" => {
                // Everything that it lent, but for its answer.
                self.memory.fill(0xa5);
                self.actions_count = 0;
                self.complete(tag);
            }
            _ => self.complete(tag),
        }
        0
    }

    fn timer(&mut self, token: u32) {
        match self.lie.as_str() {
            "timers-only" => self.act(16, token, 10, 0),
            _ => {
                for tag in std::mem::take(&mut self.kept) {
                    self.complete(tag);
                }
            }
        }
    }
}

struct Rogue;

impl Guest for Rogue {
    fn open(options: Vec<(String, String)>, shape: Shape) -> Result<Disk, OpenError> {
        std::panic::set_hook(Box::new(|panic| {
            log(wasmblk::block::host::Level::Error, &panic.to_string());
        }));
        let mut size_bytes = 64 << 20;
        let mut state = State::default();
        let mut features = Features::empty();
        for (key, value) in options {
            match key.as_str() {
                "size" => {
                    size_bytes = parse_size(&value)
                        .map_err(|why| OpenError::BadOption(format!("size={value}: {why}")))?;
                }
                "lie" => state.lie = value,
                "data" => state.hidden = value == "host",
                "restartable" => features = Features::RESTARTABLE,
                _ => return Err(OpenError::BadOption(format!("unknown option '{key}'"))),
            }
        }
        let depth = shape.depth as usize;
        let records = (depth + OPS_MAX) * RECORD_BYTES;
        let slots = (2 * records).next_multiple_of(PAGE_BYTES);
        let arena_bytes = slots + depth * (TRANSFER_BYTES + PAGE_BYTES);
        state.memory = vec![0; arena_bytes + PAGE_BYTES];
        let begin = state.memory.as_ptr().align_offset(PAGE_BYTES);
        let arena = &state.memory[begin..][..arena_bytes];
        match state.lie.as_str() {
            "lend-nothing" => lend(&[]),
            "no-lend" => {}
            "lend-unaligned" => lend(&state.memory[begin + 8..][..arena_bytes]),
            "lend-twice" => {
                lend(arena);
                lend(arena);
            }
            _ => lend(arena),
        }
        let mut layout = Layout {
            version: 1,
            events_offset: 0,
            actions_offset: records as u32,
            actions_max: (depth + OPS_MAX) as u32,
            ops_max: OPS_MAX as u32,
            slots_offset: slots as u32,
            slot_stride: (TRANSFER_BYTES + PAGE_BYTES) as u32,
        };
        let arena_bytes = arena_bytes as u32;
        match state.lie.as_str() {
            "version" => layout.version = 2,
            "events-beyond" => layout.events_offset = arena_bytes - 32,
            "events-max" => layout.events_offset = u32::MAX - 7,
            "events-odd" => layout.events_offset = 4,
            "actions-beyond" => layout.actions_offset = arena_bytes,
            "actions-odd" => layout.actions_offset = 1,
            "actions-none" => layout.actions_max = 0,
            "actions-many" => layout.actions_max = u32::MAX,
            "ops-many" => layout.ops_max = u32::MAX,
            "slots-beyond" => layout.slots_offset += 2 * PAGE_BYTES as u32,
            "slots-max" => layout.slots_offset = u32::MAX - 4095,
            "slots-odd" => layout.slots_offset += 512,
            "stride-short" => layout.slot_stride = PAGE_BYTES as u32,
            "stride-none" => layout.slot_stride = 0,
            "stride-max" => layout.slot_stride = u32::MAX - 4095,
            _ => {}
        }
        state.events = begin;
        state.actions = begin + records;
        state.slots = begin + slots;
        state.depth = depth;
        (state.begin, state.arena_bytes) = (begin, arena_bytes as usize);
        state.has_store = store::find("data").is_some();
        state.tags = vec![NO_TAG; OPS_MAX];
        let data = if state.hidden {
            Data::Host
        } else {
            Data::Arena
        };
        STATE.set(state);
        Ok(Disk {
            geometry: Geometry {
                size_bytes,
                logical_block_bytes: 0,
                physical_block_bytes: 0,
                max_transfer_bytes: TRANSFER_BYTES as u32,
                features,
            },
            trim: None,
            layout,
            data,
        })
    }

    fn poll(events: u32) -> u32 {
        STATE.with_borrow_mut(|state| {
            state.actions_count = 0;
            state.polls += 1;
            let mut more = 0;
            // All events first: to scribble must not change what was asked.
            let events: Vec<_> = (0..events as usize)
                .map(|index| state.event(index))
                .collect();
            for (kind, tag, length) in events {
                if kind == 16 {
                    state.timer(tag);
                } else if kind == 17 {
                    state.ended(tag, length);
                } else {
                    more += state.request(kind, tag, length);
                }
            }
            if state.lie == "more-only" && !state.kept.is_empty() || state.lie == "more-always" {
                more = MORE;
            }
            if state.lie == "open-trap" && state.polls == 1 {
                panic!("told to trap in the first poll");
            }
            more.wrapping_add(state.actions_count as u32)
        })
    }
}

export!(Rogue);
