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
    /// Fresh memory, which takes pages only as they are touched.
    ///
    /// # Errors
    ///
    /// Where the system has no memory or no descriptor for it.
    pub fn new(bytes: usize) -> io::Result<Arena> {
        let shared = Shared::new(bytes)?;
        Ok(Arena {
            mapping: Arc::new(Mapping::shared(&shared, bytes)?),
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

    /// Copies records of `N` words of 8 bytes out, one after the other.
    ///
    /// # Panics
    ///
    /// Where they are not all inside, or `offset` is no multiple of 8.
    pub fn records<const N: usize>(
        &self,
        offset: usize,
        count: usize,
    ) -> impl Iterator<Item = [u64; N]> + use<'_, N> {
        let words = self.words(offset, N * count);
        (0..count).map(move |record| {
            std::array::from_fn(|index| {
                let word = words.wrapping_add(record * N + index);
                // SAFETY: `words` says that all words of these records are in the mapping, which lives as
                // long as self. The guest does not run meanwhile; the kernel, which may write what a
                // hostile layout lets overlap, writes bytes, and any bytes are a word.
                unsafe { word.read_volatile() }
            })
        })
    }

    /// Copies words of 8 bytes in.
    ///
    /// # Panics
    ///
    /// Where they do not fit, or `offset` is no multiple of 8.
    pub fn put<const N: usize>(&self, offset: usize, record: &[u64; N]) {
        let words = self.words(offset, N);
        for (index, word) in record.iter().enumerate() {
            let place = words.wrapping_add(index);
            // SAFETY: `words` says that N words from there are in the mapping, which is writable, and into
            // which there are no references.
            unsafe { place.write_volatile(*word) }
        }
    }

    fn words(&self, offset: usize, count: usize) -> *mut u64 {
        assert!(offset.is_multiple_of(8), "words are aligned");
        self.at(offset, count * 8).cast().as_ptr()
    }
}
