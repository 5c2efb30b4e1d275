//! What a disk of chunks asks about them.

use wasmblk_guest::Errno;

/// Where a chunk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the store, from this byte on.
    Store(u64),
    /// In the base, where it lies in the disk.
    Base,
    /// Nowhere: it reads as zeros.
    Zeros,
}

/// Knows where chunks lie, and what is free. Chunks are known by number.
#[expect(
    async_fn_in_trait,
    reason = "one thread; nobody needs to name these futures"
)]
pub trait Map {
    /// Where a chunk lies.
    fn place(&self, chunk: u64) -> Place;

    /// Takes room in the store for a chunk that does not lie there.
    ///
    /// # Errors
    ///
    /// `NoSpace` where there is none; perhaps there is after a commit.
    fn take(&self, chunk: u64) -> Result<u64, Errno>;

    /// Gives back what was taken, and not used.
    fn give_back(&self, chunk: u64, at: u64);

    /// A chunk lies in the store from here on: all of it was written there.
    fn publish(&self, chunk: u64, at: u64);

    /// A chunk is zeros from here on. Where it lay becomes free with the next commit.
    fn forget(&self, chunk: u64);

    /// Whether so much changed that a commit is due.
    fn is_due(&self) -> bool;

    /// Makes everything durable.
    ///
    /// # Errors
    ///
    /// The store's.
    async fn commit(&self) -> Result<(), Errno>;
}
