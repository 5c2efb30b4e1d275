//! Where the bytes of transfers lie, by address.

use std::ptr::{NonNull, copy_nonoverlapping};
use std::sync::Arc;

use super::arena::Arena;
use super::slots::Slots;
use crate::block::{Memory, Transfer, Work, ZEROS_BYTES};
use crate::store::Stores;

/// What the transfers of one target are between. Clones name the same memory and files.
#[derive(Clone, Debug)]
pub struct Place {
    /// The data of requests.
    pub slots: Slots,
    /// What the guest lent.
    pub arena: Option<Arena>,
    /// The stores that it was granted.
    pub stores: Arc<Stores>,
    /// Transfers at a time.
    pub transfers_max: u32,
    /// The guest does not see the data of requests.
    pub hidden: bool,
}

/// What is written where there is nothing; on a page, as stores may want it that pass by the system's cache.
static ZEROS: OnPages = OnPages([0; ZEROS_BYTES as usize]);

#[repr(align(4096))]
struct OnPages([u8; ZEROS_BYTES as usize]);

impl Place {
    /// That of a target without an arena or stores.
    #[must_use]
    pub fn new(slots: Slots) -> Place {
        Place {
            slots,
            arena: None,
            stores: Arc::default(),
            transfers_max: 0,
            hidden: false,
        }
    }

    /// Whether a frontend would see no difference.
    #[must_use]
    pub fn is_like(&self, other: &Place) -> bool {
        self.slots.is_same(&other.slots)
            && self.transfers_max == other.transfers_max
            && self.hidden == other.hidden
    }

    /// The address of a transfer's memory. It can be read; and, but for zeros, which are only ever written
    /// to stores, written. Who uses it keeps this value, or what is in it, meanwhile.
    ///
    /// # Panics
    ///
    /// Where the memory is not all there: only a mistake in checking the transfer can cause that.
    pub(super) fn address(&self, transfer: &Transfer) -> NonNull<u8> {
        let length = transfer.length as usize;
        match transfer.memory {
            Memory::Nowhere => NonNull::dangling(),
            Memory::Arena(at) => self.in_arena(at as usize, length),
            Memory::Request(tag, at) => self.slots.at(tag, at as usize, length),
            Memory::Zeros => {
                assert!(length <= ZEROS.0.len(), "a part of zeros is short");
                NonNull::from_ref(&ZEROS).cast()
            }
        }
    }

    fn in_arena(&self, offset: usize, length: usize) -> NonNull<u8> {
        let arena = self.arena.as_ref();
        arena
            .expect("only a guest with an arena names it")
            .at(offset, length)
    }

    /// Carries out a transfer between a request's data and the arena, or zeros.
    ///
    /// # Panics
    ///
    /// Where the memory is not all there: only a mistake in checking the transfer can cause that.
    pub fn copy(&self, transfer: &Transfer) {
        let length = transfer.length as usize;
        let data = self.address(transfer);
        let (from, to) = match transfer.work {
            Work::Fill => return self.fill(transfer),
            Work::CopyOut => (data, self.in_arena(arena_offset(transfer), length)),
            _ => (self.in_arena(arena_offset(transfer), length), data),
        };
        // SAFETY: both ranges are inside mappings that self keeps. Slots that a guest does not see are in a
        // mapping of their own, so the two do not overlap. The guest, which does not run in this thread's
        // meanwhile, may in no other; bytes that change are bytes.
        unsafe { copy_nonoverlapping(from.as_ptr(), to.as_ptr(), length) }
    }

    /// The memory that a copy is from or to, beside a request's data: the arena's, or zeros.
    ///
    /// # Panics
    ///
    /// Where the memory is not all there: only a mistake in checking the transfer can cause that.
    pub(super) fn other_side(&self, transfer: &Transfer) -> NonNull<u8> {
        match transfer.work {
            Work::Fill => NonNull::from_ref(&ZEROS).cast(),
            _ => self.in_arena(arena_offset(transfer), transfer.length as usize),
        }
    }

    /// How much of a copy is done at a time, in bytes.
    pub(super) fn other_bytes(&self, transfer: &Transfer) -> u32 {
        match transfer.work {
            Work::Fill => transfer.length.min(ZEROS_BYTES),
            _ => transfer.length,
        }
    }

    fn fill(&self, transfer: &Transfer) {
        if let Memory::Request(tag, at) = transfer.memory {
            self.slots.zero(tag, at as usize, transfer.length as usize);
        }
    }
}

/// Where in the arena a copy begins; what was checked to be inside it fits.
fn arena_offset(transfer: &Transfer) -> usize {
    usize::try_from(transfer.offset).unwrap_or(usize::MAX)
}
