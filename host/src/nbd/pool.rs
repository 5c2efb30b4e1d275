//! The slots of a device, shared by its clients.

use std::fs::File;

use crate::limits;
use crate::sys::{Pages, Slots};

/// Whose request a slot carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owner {
    /// The client's place.
    pub(super) client: usize,
    /// Which client it was that had the place.
    pub(super) serial: u64,
    /// The client's operation.
    pub(super) operation: usize,
    /// Where in the device the slot's data lies, in bytes.
    pub(super) offset: u64,
    /// How much there is, in bytes.
    pub(super) bytes: u32,
}

/// Which slots are free, and whose the others are. The slot that became free last is used first: its
/// memory is still in the caches.
pub(super) struct Pool {
    pub(super) slots: Slots,
    free: Vec<u32>,
    owners: Vec<Owner>,
    /// Data of reads that does not lie in its slot: pages of a file.
    pages: Vec<Option<Pages>>,
}

impl Pool {
    pub(super) fn new(slots: Slots) -> Pool {
        let count = slots.count();
        Pool {
            slots,
            free: (0..count).rev().collect(),
            owners: vec![Owner::default(); count as usize],
            pages: (0..count).map(|_| None).collect(),
        }
    }

    pub(super) fn take(&mut self, owner: Owner) -> Option<u32> {
        let slot = self.free.pop()?;
        self.owners[slot as usize] = owner;
        Some(slot)
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        debug_assert!(!self.free.contains(&slot), "a slot is given back once");
        // Pages that are left are of no use, and would be in the way.
        let place = &mut self.pages[slot as usize];
        place.take_if(|pages| pages.bytes() > 0);
        self.free.push(slot);
    }

    /// Takes the data of a slot's request from a file, without copying it. Says whether that was possible.
    pub(super) fn take_pages(&mut self, slot: u32, file: &File, offset: u64) -> bool {
        let bytes = self.owner(slot).bytes;
        let place = &mut self.pages[slot as usize];
        if place.is_none() {
            *place = Pages::new(limits::NBD_PIECE_BYTES_MAX as usize).ok();
        }
        let taken = place
            .as_mut()
            .is_some_and(|pages| pages.take(file, offset, bytes));
        // Some of it may be there.
        place.take_if(|pages| !taken && pages.bytes() > 0);
        taken
    }

    /// The pages of a slot whose data are such.
    pub(super) fn pages(&mut self, slot: u32) -> Option<&mut Pages> {
        self.pages[slot as usize]
            .as_mut()
            .filter(|pages| pages.bytes() > 0)
    }

    /// Whether a slot's data are pages.
    pub(super) fn has_pages(&self, slot: u32) -> bool {
        let pages = self.pages[slot as usize].as_ref();
        pages.is_some_and(|pages| pages.bytes() > 0)
    }

    pub(super) fn owner(&self, slot: u32) -> Owner {
        self.owners[slot as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
}
