//! Which of the equal slots of a store are in use. One bit for each.

/// Slots by number.
#[derive(Debug)]
pub struct Space {
    used: Vec<u64>,
    slots: u32,
    free: u32,
    /// Where to look next: in the order of their numbers, so that what is written in order lies in order.
    next: u32,
}

impl Space {
    /// So many slots, all of them free.
    #[must_use]
    pub fn new(slots: u32) -> Space {
        Space {
            used: vec![0; slots.div_ceil(64) as usize],
            slots,
            free: slots,
            next: 0,
        }
    }

    /// Marks a slot as used; false where it is, or where there is no such slot.
    pub fn mark(&mut self, slot: u32) -> bool {
        if slot >= self.slots || self.is_used(slot) {
            return false;
        }
        self.used[slot as usize / 64] |= 1 << (slot % 64);
        self.free -= 1;
        true
    }

    /// Takes a free slot.
    pub fn take(&mut self) -> Option<u32> {
        if self.free == 0 {
            return None;
        }
        let slot = self.free_from(self.next).or_else(|| self.free_from(0))?;
        self.mark(slot);
        self.next = slot + 1;
        Some(slot)
    }

    /// Gives a slot back.
    pub fn give_back(&mut self, slot: u32) {
        if slot < self.slots && self.is_used(slot) {
            self.used[slot as usize / 64] &= !(1 << (slot % 64));
            self.free += 1;
        }
    }

    fn is_used(&self, slot: u32) -> bool {
        self.used[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    fn free_from(&self, begin: u32) -> Option<u32> {
        let mut slot = begin;
        while slot < self.slots {
            let free = !self.used[slot as usize / 64] >> (slot % 64);
            if free != 0 {
                let found = slot + free.trailing_zeros();
                return (found < self.slots).then_some(found);
            }
            slot = (slot / 64 + 1) * 64;
        }
        None
    }
}
