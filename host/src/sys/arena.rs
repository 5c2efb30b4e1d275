//! Memory that the host shares with a guest.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

use super::memory::{Mapping, PAGE_BYTES, Shared};
use super::passed::Passed;

/// Memory of the host, of which a guest sees the same pages in its own linear memory.
///
/// It is ours: it stays where it is as long as anything of us names it, whatever becomes of the guest's
/// instance, and the next instance can be given the same. So the kernel may be told of it. The guest may
/// write to it at any time, and the kernel may; so no Rust reference into it is ever made: records are
/// copied in and out through raw pointers, and whatever is read is checked after it was copied.
#[derive(Clone, Debug)]
pub struct Arena {
    mapping: Arc<Mapping>,
    shared: Arc<Shared>,
    bytes: usize,
}

/// How far below the guest's view of an arena ours is to be. By the low 28 bits of an address, AMD's processors (Zen)
/// guess where in their first cache a line is: where both views agree in them, neither drives the other out.
const VIEWS_APART: usize = 1 << 36;

/// The part of a guest's linear memory that an arena takes the place of.
#[derive(Clone, Copy, Debug)]
pub struct Lent {
    address: NonNull<u8>,
    bytes: usize,
}

impl Lent {
    /// The memory of a list that a guest passes; `None` where it is not whole pages.
    #[must_use]
    pub fn new(list: &Passed) -> Option<Lent> {
        let (address, bytes) = (list.address(), list.bytes());
        let on_pages = address.addr().get().is_multiple_of(PAGE_BYTES);
        let whole = on_pages && bytes.is_multiple_of(PAGE_BYTES) && bytes > 0;
        whole.then_some(Lent { address, bytes })
    }

    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Arena {
    /// Fresh memory, which takes pages only as they are touched, as long as what a guest lent.
    ///
    /// # Errors
    ///
    /// Where the system has no memory or no descriptor for it.
    pub fn new(lent: Lent) -> io::Result<Arena> {
        let bytes = lent.bytes;
        let shared = Shared::new(bytes)?;
        let hint = lent.address.addr().get().wrapping_sub(VIEWS_APART);
        Ok(Arena {
            mapping: Arc::new(Mapping::shared(&shared, bytes, hint)?),
            shared: Arc::new(shared),
            bytes,
        })
    }

    /// Lets a guest see this memory in the place of what it lent, which must be of the same length and is
    /// lost. Called while the guest waits in `host.lend`, with what it passed there.
    ///
    /// # Errors
    ///
    /// `InvalidInput` where the lengths differ; otherwise the system's, which has then left the place as it
    /// was, or without memory: the guest must not go on.
    pub fn show(&self, lent: Lent) -> io::Result<()> {
        if lent.bytes != self.bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: these are whole pages of the guest's linear memory that it can read and write: the list's
        // place was checked by wasmtime when the guest passed it, and memories neither move nor shrink.
        // wasmtime reads and writes them by raw address only, and unmaps them with the rest of that memory.
        unsafe { self.shared.map_over(lent.address, lent.bytes) }
    }

    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What keeps it mapped.
    pub(super) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// The address `offset` bytes in.
    ///
    /// # Panics
    ///
    /// Where `length` bytes from there are not inside: only a mistake of the caller can cause that.
    pub(super) fn at(&self, offset: usize, length: usize) -> NonNull<u8> {
        self.mapping.at(offset, length)
    }

    /// The place of records of `N` words of 8 bytes each, from `offset` on; `None` where they are not all inside,
    /// or `offset` is no multiple of 8.
    #[must_use]
    pub fn records<const N: usize>(&self, offset: usize, count: u32) -> Option<Records<N>> {
        let bytes = (count as usize).checked_mul(N * 8)?;
        let inside = offset.checked_add(bytes)? <= self.bytes;
        (inside && offset.is_multiple_of(8)).then(|| Records {
            first: self.at(offset, bytes).cast(),
            count,
            _mapping: Arc::clone(&self.mapping),
        })
    }
}

/// Records in an arena, one after the other.
#[derive(Debug)]
pub struct Records<const N: usize> {
    first: NonNull<[u64; N]>,
    count: u32,
    /// Keeps them mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: what is mapped belongs to the process, not to a thread; `first` is never used without `&self`.
unsafe impl<const N: usize> Send for Records<N> {}

impl<const N: usize> Records<N> {
    /// How many there is room for.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Copies the first of them out.
    ///
    /// # Panics
    ///
    /// Where there are not so many.
    pub fn first(&self, count: u32) -> impl Iterator<Item = [u64; N]> + use<'_, N> {
        assert!(count <= self.count, "there is room for them");
        (0..count as usize).map(|index| {
            let words = self.first.as_ptr().wrapping_add(index).cast::<u64>();
            std::array::from_fn(|word| {
                // SAFETY: all words of the first `count` records are in the mapping, as `Arena::records` checked,
                // and it lives as long as self. The guest does not run meanwhile; the kernel, which may write
                // what a hostile layout lets overlap, writes bytes, and any bytes are a word.
                unsafe { words.wrapping_add(word).read_volatile() }
            })
        })
    }

    /// Copies one in.
    ///
    /// # Panics
    ///
    /// Where there is no room for it.
    #[inline]
    pub fn put(&self, index: u32, record: &[u64; N]) {
        assert!(index < self.count, "there is room for it");
        let words = self
            .first
            .as_ptr()
            .wrapping_add(index as usize)
            .cast::<u64>();
        for (place, word) in record.iter().enumerate() {
            // SAFETY: as above; the mapping is writable, and there are no references into it.
            unsafe { words.wrapping_add(place).write_volatile(*word) }
        }
    }
}
