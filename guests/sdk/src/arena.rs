//! The memory that is lent to the host: events, actions and slots, by the layout in `wit/ring.wit`. The one
//! place with raw addresses.

use crate::bindings::exports::wasmblk::block::ring::{Layout, Shape};

/// Bytes of an event and of an action.
const RECORD_BYTES: usize = 32;

/// An event or action. This machine is little endian, as the layout is.
pub(crate) type Record = [u64; RECORD_BYTES / 8];

const PAGE_BYTES: usize = 4096;

/// A range of this guest's memory that nothing else uses.
#[derive(Clone, Copy)]
pub(crate) struct Arena {
    base: usize,
    bytes: usize,
    events: usize,
    actions: usize,
    slots: usize,
    stride: usize,
    slot_bytes: usize,
    depth: usize,
    ops_max: usize,
}

impl Arena {
    /// Takes fresh memory for this many requests, each with a slot of `slot_bytes`; `None` where there is
    /// not so much.
    pub(crate) fn new(shape: &Shape, slot_bytes: u32, ops_max: usize) -> Option<Arena> {
        let depth = shape.depth as usize;
        let slot_bytes = slot_bytes as usize;
        let records = depth.checked_add(ops_max)?.checked_mul(RECORD_BYTES)?;
        let slots = records
            .checked_mul(2)?
            .checked_next_multiple_of(PAGE_BYTES)?;
        // A page more, so that slots do not share cache sets.
        let stride = slot_bytes.checked_add(PAGE_BYTES)?;
        let bytes = stride.checked_mul(depth)?.checked_add(slots)?;
        Some(Arena {
            base: fresh(bytes)?,
            bytes,
            events: 0,
            actions: records,
            slots,
            stride,
            slot_bytes,
            depth,
            ops_max,
        })
    }

    pub(crate) fn layout(&self) -> Layout {
        // The memory of this guest has less than 2^32 bytes.
        Layout {
            version: 1,
            events_offset: self.events as u32,
            actions_offset: self.actions as u32,
            actions_max: (self.depth + self.ops_max) as u32,
            ops_max: self.ops_max as u32,
            slots_offset: self.slots as u32,
            slot_stride: self.stride as u32,
        }
    }

    /// All of it, to be lent.
    pub(crate) fn with_bytes<T>(&self, lend: impl FnOnce(&[u8]) -> T) -> T {
        // SAFETY: fresh memory of our own, which is zeros and lives for ever; nobody writes to it before
        // the host has it, which is after this call.
        lend(unsafe { std::slice::from_raw_parts(self.base as *const u8, self.bytes) })
    }

    pub(crate) fn event(&self, index: usize) -> Record {
        debug_assert!(index < self.depth + self.ops_max);
        let record = self.base + self.events + index * RECORD_BYTES;
        // SAFETY: inside the arena; the host does not write while this guest runs.
        unsafe { (record as *const Record).read() }
    }

    pub(crate) fn put_action(&self, index: usize, record: &Record) {
        assert!(index < self.depth + self.ops_max, "there is room");
        let place = self.base + self.actions + index * RECORD_BYTES;
        // SAFETY: inside the arena; the host does not look while this guest runs.
        unsafe { (place as *mut Record).write(*record) };
    }

    /// The data of a request.
    pub(crate) fn slot(&self, tag: usize, bytes: usize) -> &'static mut [u8] {
        assert!(
            tag < self.depth && bytes <= self.slot_bytes,
            "the host keeps its word"
        );
        let place = self.base + self.slots + tag * self.stride;
        // SAFETY: inside the arena. From the event of a request until its completion the slot is ours, the
        // executor asks for it once for each request, and the future that has it is gone by then.
        unsafe { std::slice::from_raw_parts_mut(place as *mut u8, bytes) }
    }
}

/// Memory that was never used: zeros, and on a page.
#[cfg(target_arch = "wasm32")]
fn fresh(bytes: usize) -> Option<usize> {
    const WASM_PAGE_BYTES: usize = 64 << 10;
    let before = std::arch::wasm32::memory_grow::<0>(bytes.div_ceil(WASM_PAGE_BYTES));
    (before != usize::MAX).then(|| before * WASM_PAGE_BYTES)
}

/// Elsewhere this crate is only looked at, by checks and documentation.
#[cfg(not(target_arch = "wasm32"))]
fn fresh(_bytes: usize) -> Option<usize> {
    None
}
