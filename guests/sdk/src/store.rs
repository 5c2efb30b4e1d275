//! Files and block devices that the operator granted.

use std::cell::Cell;

use crate::answer::Answer;
use crate::arena;
use crate::bindings::wasmblk::block::store;
use crate::data::Data;
use crate::operation::Operation;
use crate::{Errno, OpenError};

const READ: u64 = 1;
const WRITE: u64 = 2;
const FLUSH: u64 = 3;
const DISCARD: u64 = 4;
const WRITE_ZEROES: u64 = 5;

const DURABLE: u64 = 1 << 48;
const MAY_DISCARD: u64 = 2 << 48;
const ANSWERS: u64 = 4 << 48;

thread_local! {
    /// Whether waiting for a store means to call the host: in `open`, and always with `export_device!`.
    static CALLS: Cell<bool> = const { Cell::new(true) };
}

/// From here on stores are used beside other things.
pub(crate) fn no_calls() {
    CALLS.set(false);
}

/// A store. All offsets and lengths are in bytes, and must lie inside it.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    number: u32,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The unit that it is best used in, in bytes: a power of two from 512 to 4096.
    pub block_bytes: u32,
    /// What offsets, lengths and places in memory must be multiples of, in bytes: 1, or the block where it was
    /// granted with `direct`.
    pub align_bytes: u32,
    /// It may not be changed.
    pub read_only: bool,
}

impl Store {
    /// The store that the operator granted under this name, where there is one. Only in `open`.
    #[must_use]
    pub fn find(name: &str) -> Option<Store> {
        let shape = store::find(name)?;
        Some(Store {
            number: shape.number,
            size_bytes: shape.size_bytes,
            block_bytes: shape.block_bytes,
            align_bytes: shape.align_bytes,
            read_only: shape.read_only,
        })
    }

    /// The store that the operator granted under this name. Only in `open`.
    ///
    /// # Errors
    ///
    /// Tells the operator how to grant it.
    pub fn need(name: &str) -> Result<Store, OpenError> {
        Store::find(name).ok_or_else(|| {
            OpenError::BadOption(format!("it needs a store: give --store {name}=PATH"))
        })
    }

    /// Fills all of `data` from `offset` on, and waits for it. Only in `open`, or with `export_device!`.
    ///
    /// # Errors
    ///
    /// As `store.read` in the WIT.
    pub fn read_now(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        for (place, part) in (0..).zip(data.chunks_mut(CALL_BYTES_MAX)) {
            let at = offset + place * CALL_BYTES_MAX as u64;
            part.copy_from_slice(&store::read(self.number, at, part.len() as u32)?);
        }
        Ok(())
    }

    /// Writes all of `data` at `offset`, and waits for it. Only in `open`, or with `export_device!`.
    ///
    /// # Errors
    ///
    /// As `store.write` in the WIT.
    pub fn write_now(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        for (place, part) in (0..).zip(data.chunks(CALL_BYTES_MAX)) {
            store::write(self.number, offset + place * CALL_BYTES_MAX as u64, part)?;
        }
        Ok(())
    }

    /// Makes all that was written durable, and waits for it. Only in `open`, or with `export_device!`.
    ///
    /// # Errors
    ///
    /// As `store.flush` in the WIT.
    pub fn flush_now(&self) -> Result<(), Errno> {
        store::flush(self.number)
    }

    /// Fills all of `data`, which lies in the arena (the data of a request, or [`Scratch`](crate::Scratch)),
    /// from `offset` on.
    ///
    /// # Errors
    ///
    /// As `store.read` in the WIT; `Invalid` for other memory.
    pub async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        if CALLS.get() {
            return self.read_now(offset, data);
        }
        let place = arena::offset_of(data).ok_or(Errno::Invalid)?;
        self.transfer(READ, (offset, data.len()), 0, place | NO_TAG)
            .await
    }

    /// Writes all of `data`, which lies in the arena, at `offset`. Durable after a [`Store::flush`].
    ///
    /// # Errors
    ///
    /// As `store.write` in the WIT; `Invalid` for other memory.
    pub async fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if CALLS.get() {
            return self.write_now(offset, data);
        }
        let place = arena::offset_of(data).ok_or(Errno::Invalid)?;
        self.transfer(WRITE, (offset, data.len()), 0, place | NO_TAG)
            .await
    }

    /// The same; when it is done, these bytes are durable. Of other writes that says nothing.
    ///
    /// # Errors
    ///
    /// As [`Store::write`].
    pub async fn write_durable(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        if CALLS.get() {
            self.write_now(offset, data)?;
            return self.flush_now();
        }
        let place = arena::offset_of(data).ok_or(Errno::Invalid)?;
        self.transfer(WRITE, (offset, data.len()), DURABLE, place | NO_TAG)
            .await
    }

    /// Fills the data of a read from `offset` on. Only with `export_mapper!`.
    ///
    /// # Errors
    ///
    /// As `store.read` in the WIT.
    pub async fn read_to(&self, offset: u64, data: Data) -> Result<(), Errno> {
        self.transfer(READ, (offset, data.bytes() as usize), 0, data.place())
            .await
    }

    /// Writes the data of a write at `offset`; with `durable`, as [`Store::write_durable`]. Only with
    /// `export_mapper!`.
    ///
    /// # Errors
    ///
    /// As `store.write` in the WIT.
    pub async fn write_from(&self, offset: u64, data: Data, durable: bool) -> Result<(), Errno> {
        let flags = if durable { DURABLE } else { 0 };
        self.transfer(WRITE, (offset, data.bytes() as usize), flags, data.place())
            .await
    }

    /// The answer to a read all of whose data lies from `offset` on: whatever comes of reading that is what comes
    /// of the read. `data` is all of the read's. Only with `export_mapper!`.
    #[must_use]
    pub fn answer_read(&self, offset: u64, data: Data) -> Answer {
        self.answer(READ, offset, data, 0)
    }

    /// The answer to a write all of whose data belongs at `offset`, with `durable` as [`Store::write_durable`]:
    /// whatever comes of writing that is what comes of the write. `data` is all of the write's. Only with
    /// `export_mapper!`.
    #[must_use]
    pub fn answer_write(&self, offset: u64, data: Data, durable: bool) -> Answer {
        self.answer(WRITE, offset, data, if durable { DURABLE } else { 0 })
    }

    fn answer(&self, kind: u64, offset: u64, data: Data, flags: u64) -> Answer {
        let size = self.size(data.bytes(), flags | ANSWERS);
        Answer(Some([kind, offset, size, data.place()]))
    }

    /// Length, number and flags, as the third word of an action has them.
    fn size(&self, length: u32, flags: u64) -> u64 {
        u64::from(length) | u64::from(self.number) << 32 | flags
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    ///
    /// As `store.flush` in the WIT.
    pub async fn flush(&self) -> Result<(), Errno> {
        if CALLS.get() {
            return self.flush_now();
        }
        self.transfer(FLUSH, (0, 0), 0, 0).await
    }

    /// Forgets `length` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// As `store.discard` in the WIT.
    pub async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        if CALLS.get() {
            return store::discard(self.number, offset, length);
        }
        self.transfer(DISCARD, (offset, length as usize), 0, 0)
            .await
    }

    /// Makes `length` bytes at `offset` zeros; with `may_discard` their space may be given back.
    ///
    /// # Errors
    ///
    /// As `store.write` in the WIT.
    pub async fn write_zeroes(
        &self,
        offset: u64,
        length: u32,
        may_discard: bool,
    ) -> Result<(), Errno> {
        if CALLS.get() {
            return store::write_zeroes(self.number, offset, length, may_discard);
        }
        let flags = if may_discard { MAY_DISCARD } else { 0 };
        self.transfer(WRITE_ZEROES, (offset, length as usize), flags, 0)
            .await
    }

    async fn transfer(
        &self,
        kind: u64,
        (offset, length): (u64, usize),
        flags: u64,
        place: u64,
    ) -> Result<(), Errno> {
        let length = u32::try_from(length).map_err(|_| Errno::Invalid)?;
        let size = self.size(length, flags);
        let borrows = kind == READ || kind == WRITE;
        result(Operation::new([kind, offset, size, place], borrows).await)
    }
}

/// Bytes that one call moves at most.
const CALL_BYTES_MAX: usize = 1 << 20;

/// In the place of a tag: the memory is the arena's.
const NO_TAG: u64 = (u32::MAX as u64) << 32;

/// What a status says.
pub(crate) fn result(status: u32) -> Result<(), Errno> {
    Err(match status {
        0 => return Ok(()),
        2 => Errno::NoSpace,
        3 => Errno::Invalid,
        4 => Errno::NotSupported,
        5 => Errno::ReadOnly,
        6 => Errno::TimedOut,
        7 => Errno::Medium,
        8 => Errno::Corrupt,
        _ => Errno::Io,
    })
}
