//! The part of a guest's own memory that it lends to the host.

use std::ptr::{NonNull, with_exposed_provenance_mut};

use super::memory::PAGE_BYTES;

/// A range of a guest's linear memory, by its address in this process.
///
/// The guest runs while the host and the kernel hold such addresses, so no Rust reference into an arena is
/// ever made: records are copied in and out through raw pointers, and whatever is read is checked after it
/// was copied. What the arena's bytes are is the guest's business; that they stay mapped is ours: linear
/// memories are configured never to move, and whoever makes an `Arena` keeps the guest's store until no
/// copy of the arena is used any more, by us or by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Arena {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address and a length; what they name belongs to the process, not to a thread, and is only
// used by the worker that has the guest.
unsafe impl Send for Arena {}

impl Arena {
    /// The memory of a list that a guest passes, which begins on a page.
    #[must_use]
    pub fn lent(list: &[u8]) -> Option<Arena> {
        // The list's reference is given up here. What is used later is the address alone, with the
        // provenance of the mapping that wasmtime made and hands out as addresses to compiled code.
        let address = list.as_ptr().expose_provenance();
        let base = NonNull::new(with_exposed_provenance_mut::<u8>(address))?;
        let fits = address.is_multiple_of(PAGE_BYTES) && !list.is_empty();
        fits.then_some(Arena {
            base,
            bytes: list.len(),
        })
    }

    /// How long it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The address `offset` bytes in.
    ///
    /// # Panics
    ///
    /// Where `length` bytes from there are not inside: only a mistake of the caller can cause that.
    pub(super) fn at(&self, offset: usize, length: usize) -> NonNull<u8> {
        assert!(
            offset <= self.bytes && length <= self.bytes - offset,
            "outside of the arena"
        );
        // SAFETY: the line above keeps the result inside the guest's memory.
        unsafe { self.base.add(offset) }
    }

    /// Copies records of `N` words of 8 bytes out, one after the other.
    ///
    /// # Panics
    ///
    /// Where they are not all inside, or `offset` is no multiple of 8.
    pub fn records<const N: usize>(
        self,
        offset: usize,
        count: usize,
    ) -> impl Iterator<Item = [u64; N]> {
        let words = self.words(offset, N * count);
        (0..count).map(move |record| {
            std::array::from_fn(|index| {
                let word = words.wrapping_add(record * N + index);
                // SAFETY: `words` says that all words of these records are in the guest's memory, which is
                // mapped (see the type). The guest does not run meanwhile; the kernel, which may write
                // what a hostile layout lets overlap, writes bytes, and any bytes are a word.
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
            // SAFETY: `words` says that N words from there are in the guest's memory, which is mapped and
            // writable (see the type), and into which there are no references.
            unsafe { place.write_volatile(*word) }
        }
    }

    fn words(&self, offset: usize, count: usize) -> *mut u64 {
        assert!(offset.is_multiple_of(8), "words are aligned");
        self.at(offset, count * 8).cast().as_ptr()
    }
}
