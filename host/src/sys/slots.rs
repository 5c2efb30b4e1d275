//! Data slots: one buffer for each request in flight, known by number to everybody and by address to
//! the kernel.

use std::io;
use std::ptr::{NonNull, copy, copy_nonoverlapping, write_bytes};
use std::slice::from_raw_parts_mut;
use std::sync::Arc;

use super::arena::Arena;
use super::memory::{Mapping, PAGE_BYTES};

/// Buffers of equal length at equal distances. A copy of this value names the same memory.
///
/// Who may touch a slot changes with the request in it, and never two do at a time: the frontend (and
/// through it the kernel) from the begin until the request is submitted, and again when it is answered;
/// the target in between.
#[derive(Clone, Debug)]
pub struct Slots {
    first: NonNull<u8>,
    stride: usize,
    bytes: usize,
    count: u32,
    /// What they lie in.
    #[expect(dead_code, reason = "it keeps them mapped")]
    memory: Arc<Mapping>,
    /// Whether a guest sees them too.
    in_arena: bool,
}

// SAFETY: the memory belongs to the process, not to a thread; who may touch a slot at a time is the rule
// above, which frontends and targets of one thread keep between them.
unsafe impl Send for Slots {}

impl Slots {
    /// Slots in fresh memory, which takes pages only as they are touched.
    ///
    /// # Errors
    ///
    /// Where there is not so much.
    pub fn new(count: u32, bytes: u32) -> io::Result<Slots> {
        let bytes = bytes as usize;
        // Starts that are all a power of two apart would share cache sets.
        let stride = bytes.next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let mapping = Mapping::anonymous(stride * count as usize)?;
        Ok(Slots {
            first: mapping.at(0, stride * count as usize),
            stride,
            bytes,
            count,
            memory: Arc::new(mapping),
            in_arena: false,
        })
    }

    /// Slots in a guest's arena: the first at `offset`, the others `stride` bytes apart; `None` where they
    /// are not all inside it and on pages.
    #[must_use]
    pub fn in_arena(
        arena: &Arena,
        offset: usize,
        stride: usize,
        (count, bytes): (u32, u32),
    ) -> Option<Slots> {
        let bytes = bytes as usize;
        let last = stride.checked_mul(count.checked_sub(1)? as usize)?;
        let all = last.checked_add(bytes)?;
        let on_pages = offset.is_multiple_of(PAGE_BYTES) && stride.is_multiple_of(PAGE_BYTES);
        let inside = offset.checked_add(all)? <= arena.bytes();
        (on_pages && inside && stride >= bytes).then(|| Slots {
            first: arena.at(offset, all),
            stride,
            bytes,
            count,
            memory: Arc::clone(arena.mapping()),
            in_arena: true,
        })
    }

    /// Whether these are the same slots.
    #[must_use]
    pub fn is_same(&self, other: &Slots) -> bool {
        self.first == other.first
            && self.stride == other.stride
            && (self.count, self.bytes) == (other.count, other.bytes)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of each.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address `offset` bytes into a slot.
    ///
    /// # Panics
    ///
    /// Where `length` bytes from there are not inside: only a mistake of the caller can cause that.
    pub(super) fn at(&self, slot: u32, offset: usize, length: usize) -> NonNull<u8> {
        assert!(
            slot < self.count && offset <= self.bytes && length <= self.bytes - offset,
            "outside of the slot"
        );
        // SAFETY: the line above keeps the result inside the memory, which `memory` keeps mapped.
        unsafe { self.first.add(slot as usize * self.stride + offset) }
    }

    /// Copies bytes into a slot.
    ///
    /// # Panics
    ///
    /// Where they do not fit.
    pub fn put(&self, slot: u32, offset: usize, data: &[u8]) {
        let to = self.at(slot, offset, data.len());
        // SAFETY: `to` has room for all of `data`, which, a reference, is no slot's memory.
        unsafe { copy_nonoverlapping(data.as_ptr(), to.as_ptr(), data.len()) }
    }

    /// Copies bytes out of a slot.
    ///
    /// # Panics
    ///
    /// Where there are not so many.
    pub fn get(&self, slot: u32, offset: usize, data: &mut [u8]) {
        let from = self.at(slot, offset, data.len());
        // SAFETY: all bytes read are in the slot; `data`, a reference, is no slot's memory. A guest that
        // breaks the rule above may see its bytes copied half changed: they are bytes all the same.
        unsafe { copy(from.as_ptr(), data.as_mut_ptr(), data.len()) }
    }

    /// Makes bytes of a slot zeros.
    ///
    /// # Panics
    ///
    /// Where there are not so many.
    pub fn zero(&self, slot: u32, offset: usize, bytes: usize) {
        let to = self.at(slot, offset, bytes);
        // SAFETY: all bytes written are in the slot.
        unsafe { write_bytes(to.as_ptr(), 0, bytes) }
    }

    /// The first bytes of a slot that no guest sees, for a target to work on between `submit` and its answer.
    /// `None` where there are not so many.
    pub fn lend(&mut self, slot: u32, bytes: usize) -> Option<&mut [u8]> {
        if self.in_arena || slot >= self.count || bytes > self.bytes {
            return None;
        }
        let data = self.at(slot, 0, bytes);
        // SAFETY: our own mapping, kept by `memory`. A target calls this for a submitted slot only, which
        // nobody else touches until the answer, and a target has one such value, borrowed meanwhile.
        Some(unsafe { from_raw_parts_mut(data.as_ptr(), bytes) })
    }
}
