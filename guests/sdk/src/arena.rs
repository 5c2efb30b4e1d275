//! The memory that is lent to the host: events, actions, scratch and slots, by the layout in `wit/ring.wit`.
//! The one place with raw addresses.

use std::cell::Cell;

use crate::bindings::exports::wasmblk::block::ring::Layout;

/// Bytes of an event and of an action.
const RECORD_BYTES: usize = 32;

/// An event or action. This machine is little endian, as the layout is.
pub(crate) type Record = [u64; RECORD_BYTES / 8];

const PAGE_BYTES: usize = 4096;

thread_local! {
    /// Scratch that was asked for, in bytes.
    static SCRATCH_BYTES: Cell<usize> = const { Cell::new(0) };
    /// Where the scratch begins; 0 while there is none.
    static SCRATCH: Cell<usize> = const { Cell::new(0) };
    /// Begin and end of all that the host can use.
    static LENT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// What an arena is to hold.
pub(crate) struct Wanted {
    /// Requests at a time.
    pub(crate) depth: usize,
    /// Bytes of each slot; 0 where the data of requests stays with the host.
    pub(crate) slot_bytes: usize,
    /// Operations at a time.
    pub(crate) ops_max: usize,
}

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
    /// Takes fresh memory; `None` where there is not so much.
    pub(crate) fn new(wanted: &Wanted) -> Option<Arena> {
        let Wanted {
            depth,
            slot_bytes,
            ops_max,
        } = *wanted;
        let records = depth.checked_add(ops_max)?.checked_mul(RECORD_BYTES)?;
        let scratch = records
            .checked_mul(2)?
            .checked_next_multiple_of(PAGE_BYTES)?;
        let slots = scratch
            .checked_add(SCRATCH_BYTES.get())?
            .checked_next_multiple_of(PAGE_BYTES)?;
        // A page more, so that slots do not share cache sets.
        let stride = match slot_bytes {
            0 => 0,
            bytes => bytes.checked_add(PAGE_BYTES)?,
        };
        let bytes = stride
            .checked_mul(depth)?
            .checked_add(slots)?
            .checked_next_multiple_of(PAGE_BYTES)?;
        let base = fresh(bytes)?;
        SCRATCH.set(base + scratch);
        LENT.set((base, base + bytes));
        Some(Arena {
            base,
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

    /// The data of a request; nothing where it stays with the host.
    pub(crate) fn slot(&self, tag: usize, bytes: usize) -> &'static mut [u8] {
        let bytes = bytes.min(self.slot_bytes);
        assert!(tag < self.depth, "the host keeps its word");
        let place = self.base + self.slots + tag * self.stride;
        // SAFETY: inside the arena. From the event of a request until its completion the slot is ours, the
        // executor asks for it once for each request, and the future that has it is gone by then.
        unsafe { std::slice::from_raw_parts_mut(place as *mut u8, bytes) }
    }
}

/// Where in the arena some memory is, where it is there.
pub(crate) fn offset_of(memory: &[u8]) -> Option<u64> {
    let (begin, end) = LENT.get();
    let at = memory.as_ptr().addr();
    (begin <= at && at + memory.len() <= end).then(|| (at - begin) as u64)
}

/// Memory that the host can read and write for this guest, beside the data of requests: for maps, checksums, and
/// what is copied from one place to another. It is taken in `open` and used afterwards; it begins with anything,
/// on a page.
#[derive(Debug)]
pub struct Scratch {
    offset: usize,
    bytes: usize,
}

impl Scratch {
    /// Asks for so many bytes. Only in `open`.
    ///
    /// # Panics
    ///
    /// After `open`.
    #[must_use]
    pub fn new(bytes: usize) -> Scratch {
        assert!(SCRATCH.get() == 0, "scratch is asked for in open");
        let offset = SCRATCH_BYTES.get();
        let whole = bytes.next_multiple_of(PAGE_BYTES);
        SCRATCH_BYTES.set(offset + whole);
        Scratch { offset, bytes }
    }

    /// All of it.
    ///
    /// # Panics
    ///
    /// In `open`: it is there when that is done.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let place = self.place();
        // SAFETY: inside the arena; only this value names the range, and it is borrowed. What the host
        // moves there, it moves for whoever borrows it meanwhile.
        unsafe { std::slice::from_raw_parts_mut(place as *mut u8, self.bytes) }
    }

    /// All of it, to look at.
    ///
    /// # Panics
    ///
    /// As [`Scratch::bytes_mut`].
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let place = self.place();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(place as *const u8, self.bytes) }
    }

    fn place(&self) -> usize {
        let begin = SCRATCH.get();
        assert!(begin != 0, "scratch is used when open is done");
        begin + self.offset
    }
}

/// Scratch for a disk that is called, and lends nothing.
pub(crate) fn scratch_alone() -> Option<()> {
    SCRATCH.set(fresh(SCRATCH_BYTES.get().max(1))?);
    Some(())
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
