//! The slots of a device, shared by its clients.

use crate::sys::Slots;

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
}

impl Pool {
    pub(super) fn new(slots: Slots) -> Pool {
        let count = slots.count();
        Pool {
            slots,
            free: (0..count).rev().collect(),
            owners: vec![Owner::default(); count as usize],
        }
    }

    pub(super) fn take(&mut self, owner: Owner) -> Option<u32> {
        let slot = self.free.pop()?;
        self.owners[slot as usize] = owner;
        Some(slot)
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        debug_assert!(!self.free.contains(&slot), "a slot is given back once");
        self.free.push(slot);
    }

    pub(super) fn owner(&self, slot: u32) -> Owner {
        self.owners[slot as usize]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
}
