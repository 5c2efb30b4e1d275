//! Which chunks are in the overlay, and where.

use std::cell::RefCell;

use wasmblk_durable::{Map, Place, Space, Table};
use wasmblk_guest::{Errno, OpenError, Store};

use crate::{Shape, Twin};

/// What a chunk is that is not in the overlay.
const AS_IN_BASE: u64 = 0;
const ZEROS: u64 = 1;
/// From here on: in this slot and those that follow.
const FIRST_SLOT: u64 = 2;

/// The map of the overlay.
#[derive(Debug)]
pub(crate) struct Overlay {
    table: Table,
    space: RefCell<Space>,
    /// Slots that no chunk has any more, and that are free when that is durable.
    given_up: RefCell<Vec<u32>>,
    chunk_bytes: u64,
    data_begin: u64,
}

impl Overlay {
    pub(crate) fn open(store: Store, shape: Shape) -> Result<Overlay, OpenError> {
        let data_begin = shape.data_begin();
        let table = Table::open(store, Twin::BYTES, shape.chunks())?;
        let room = store.size_bytes.saturating_sub(data_begin) / shape.chunk_bytes;
        // There are never more than chunks.
        let slots = u32::try_from(room.min(shape.chunks())).unwrap_or(u32::MAX);
        let mut space = Space::new(slots);
        let mut wrong = None;
        table.retain(|chunk, entry| {
            let slot = entry.checked_sub(FIRST_SLOT);
            let fits = slot.is_none_or(|slot| u32::try_from(slot).is_ok_and(|it| space.mark(it)));
            if !fits {
                wrong = Some(chunk);
            }
            true
        });
        if let Some(chunk) = wrong {
            return Err(OpenError::Other(format!(
                "the overlay's map is wrong about chunk {chunk}: the store has become smaller, or is damaged"
            )));
        }
        Ok(Overlay {
            table,
            space: RefCell::new(space),
            given_up: RefCell::default(),
            chunk_bytes: shape.chunk_bytes,
            data_begin,
        })
    }

    fn at(&self, slot: u64) -> u64 {
        self.data_begin + slot * self.chunk_bytes
    }

    fn slot(&self, at: u64) -> u64 {
        (at - self.data_begin) / self.chunk_bytes
    }
}

impl Map for Overlay {
    fn place(&self, chunk: u64) -> Place {
        match self.table.get(chunk as usize) {
            AS_IN_BASE => Place::Base,
            ZEROS => Place::Zeros,
            entry => Place::Store(self.at(entry - FIRST_SLOT)),
        }
    }

    fn take(&self, _chunk: u64) -> Result<u64, Errno> {
        let slot = self.space.borrow_mut().take().ok_or(Errno::NoSpace)?;
        Ok(self.at(slot.into()))
    }

    fn give_back(&self, _chunk: u64, at: u64) {
        self.space.borrow_mut().give_back(self.slot(at) as u32);
    }

    fn publish(&self, chunk: u64, at: u64) {
        self.table.set(chunk as usize, self.slot(at) + FIRST_SLOT);
    }

    fn forget(&self, chunk: u64) {
        let entry = self.table.get(chunk as usize);
        if entry == ZEROS {
            return;
        }
        self.table.set(chunk as usize, ZEROS);
        if let Some(slot) = entry.checked_sub(FIRST_SLOT) {
            self.given_up.borrow_mut().push(slot as u32);
        }
    }

    fn is_due(&self) -> bool {
        self.table.is_due()
    }

    async fn commit(&self) -> Result<(), Errno> {
        // All of these are without a chunk by now, and so they are in what is committed.
        let given_up = self.given_up.take();
        let committed = self.table.commit().await;
        if committed.is_err() {
            self.given_up.borrow_mut().extend(given_up);
            return committed;
        }
        let mut space = self.space.borrow_mut();
        for slot in given_up {
            space.give_back(slot);
        }
        Ok(())
    }
}
