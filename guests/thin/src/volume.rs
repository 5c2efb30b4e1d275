//! Where the chunks of one volume lie in the pool.

use std::cell::RefCell;
use std::collections::BTreeMap;

use wasmblk_durable::{Map, Place, Space, Table, Twin};
use wasmblk_guest::{Errno, OpenError, Store};

use crate::pool::{Pool, Served};

/// A chunk that lies nowhere.
const NOWHERE: u32 = u32::MAX;

/// What stores with `direct` take at the least.
const BLOCK_BYTES: u64 = 4096;

/// The map of one volume.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Of each slot of the pool, whose it is: birth in the upper half, chunk in the lower.
    table: Table,
    /// Of each chunk of the volume, its slot.
    slots: RefCell<Vec<u32>>,
    space: RefCell<Space>,
    /// Chunks that were given back since the last commit, and where they lay.
    given_up: RefCell<BTreeMap<u64, u32>>,
    birth: u32,
    chunk_bytes: u64,
    data_begin: u64,
}

/// Whose a slot is.
fn owner(entry: u64) -> (u32, usize) {
    ((entry >> 32) as u32, entry as u32 as usize)
}

impl Volume {
    pub(crate) fn open(pool: &Pool, served: Served) -> Result<Volume, OpenError> {
        let Served {
            birth, size_bytes, ..
        } = served;
        let table = Table::open(pool.store, Twin::BYTES, pool.slots.into())?;
        let chunks = size_bytes.div_ceil(pool.chunk_bytes);
        let mut slots = Vec::new();
        let length = u32::try_from(chunks).ok().map(|chunks| chunks as usize);
        let room = length.and_then(|length| slots.try_reserve_exact(length).ok());
        room.ok_or_else(|| {
            OpenError::BadOption(format!(
                "size={size_bytes}: no memory for a map of {chunks} chunks; give more with --memory-mib, or make \
                 the pool with a larger chunk"
            ))
        })?;
        slots.resize(length.unwrap_or(0), NOWHERE);
        let mut space = Space::new(pool.slots);
        let mut wrong = None;
        table.retain(|slot, entry| {
            let (of, chunk) = owner(entry);
            if !pool.has_birth(of) {
                // Its volume was deleted.
                return false;
            }
            // There are fewer slots than 2^32.
            space.mark(slot as u32);
            if of == birth {
                match slots.get_mut(chunk) {
                    Some(place) if *place == NOWHERE => *place = slot as u32,
                    _ => wrong = Some(slot),
                }
            }
            true
        });
        if let Some(slot) = wrong {
            return Err(OpenError::Other(format!(
                "the pool's table is wrong about chunk {slot}: the store is damaged"
            )));
        }
        Ok(Volume {
            table,
            slots: RefCell::new(slots),
            space: RefCell::new(space),
            given_up: RefCell::default(),
            birth,
            chunk_bytes: pool.chunk_bytes,
            data_begin: pool.data_begin(),
        })
    }

    /// Before the volume becomes longer: what lies in its last chunk behind its `end`, and is perhaps of whom the
    /// chunk was before, becomes zeros.
    pub(crate) fn clear_behind(&self, store: Store, end: u64) -> Result<(), Errno> {
        let (chunk, inside) = (end / self.chunk_bytes, end % self.chunk_bytes);
        let Place::Store(at) = self.place(chunk) else {
            return Ok(());
        };
        if inside == 0 {
            return Ok(());
        }
        let begin = inside / BLOCK_BYTES * BLOCK_BYTES;
        // A chunk is shorter than 2^32.
        let mut rest = vec![0; (self.chunk_bytes - begin) as usize];
        store.read_now(at + begin, &mut rest)?;
        rest[(inside - begin) as usize..].fill(0);
        store.write_now(at + begin, &rest)?;
        store.flush_now()
    }

    fn at(&self, slot: u32) -> u64 {
        self.data_begin + u64::from(slot) * self.chunk_bytes
    }

    fn slot(&self, at: u64) -> u32 {
        ((at - self.data_begin) / self.chunk_bytes) as u32
    }
}

impl Map for Volume {
    fn place(&self, chunk: u64) -> Place {
        match self.slots.borrow()[chunk as usize] {
            NOWHERE => Place::Zeros,
            slot => Place::Store(self.at(slot)),
        }
    }

    fn take(&self, chunk: u64) -> Result<u64, Errno> {
        // Where it lay before it may lie again: so there is never more than one slot that is said to be its.
        let before = self.given_up.borrow_mut().remove(&chunk);
        let slot = before.or_else(|| self.space.borrow_mut().take());
        Ok(self.at(slot.ok_or(Errno::NoSpace)?))
    }

    fn give_back(&self, chunk: u64, at: u64) {
        let slot = self.slot(at);
        if self.table.is_settled(slot as usize) {
            self.space.borrow_mut().give_back(slot);
        } else {
            self.given_up.borrow_mut().insert(chunk, slot);
        }
    }

    fn publish(&self, chunk: u64, at: u64) {
        let slot = self.slot(at);
        self.slots.borrow_mut()[chunk as usize] = slot;
        self.table
            .set(slot as usize, u64::from(self.birth) << 32 | chunk);
    }

    fn forget(&self, chunk: u64) {
        let before = std::mem::replace(&mut self.slots.borrow_mut()[chunk as usize], NOWHERE);
        if before != NOWHERE {
            self.table.set(before as usize, 0);
            self.given_up.borrow_mut().insert(chunk, before);
        }
    }

    fn is_due(&self) -> bool {
        self.table.is_due()
    }

    async fn commit(&self) -> Result<(), Errno> {
        self.table.commit().await?;
        let mut space = self.space.borrow_mut();
        self.given_up.borrow_mut().retain(|_, slot| {
            let free = self.table.is_settled(*slot as usize);
            if free {
                space.give_back(*slot);
            }
            !free
        });
        Ok(())
    }
}
