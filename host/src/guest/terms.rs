//! What is agreed on with a guest of the contract `ring`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::breach::Breach;
use super::coverage::Coverage;
use crate::block::{Checked, Errno, Memory, Op, Transfer, Work};
use crate::store::Shape;

/// What is fixed when a guest opens.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Requests at a time.
    pub depth: u32,
    /// Tokens at a time.
    pub ops_max: u32,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Longest read or write, where requests' data stays with the host: then the guest sees none of it.
    pub hidden_bytes_max: Option<u32>,
    /// The stores it was granted, by number.
    pub stores: Arc<[Shape]>,
    /// How long it may keep a request.
    pub deadline: Duration,
    /// A number that changes now and then: when the time is worth a look.
    pub ticks: Arc<AtomicU64>,
}

impl Terms {
    /// Whether the memory that a transfer names is the guest's to name; `held` gives the requests that it has.
    pub(super) fn check_memory<'a>(
        &self,
        asked: &Transfer,
        held: impl FnOnce(u32) -> Option<&'a Checked>,
    ) -> Result<(), Breach> {
        let in_arena = |offset| self.check_arena(offset, asked.length);
        let (tag, at) = match asked.memory {
            Memory::Nowhere | Memory::Zeros => return Ok(()),
            Memory::Arena(_) if asked.work.is_copy() => {
                return Err(Breach::OutsideRequest(u32::MAX));
            }
            Memory::Arena(at) => return in_arena(at.into()),
            Memory::Request(tag, at) => (tag, at),
        };
        if self.hidden_bytes_max.is_none() {
            return Err(Breach::OwnSlots);
        }
        let request = held(tag).ok_or(Breach::OutsideRequest(tag))?.request();
        let end = at.checked_add(asked.length);
        if end.is_none_or(|end| end > request.length) {
            return Err(Breach::OutsideRequest(tag));
        }
        let direction = match asked.work {
            Work::Read | Work::Fill | Work::CopyIn => Op::Read,
            _ => Op::Write,
        };
        if request.op != direction {
            return Err(Breach::Direction(tag));
        }
        if matches!(asked.work, Work::CopyIn | Work::CopyOut) {
            in_arena(asked.offset)?;
        }
        Ok(())
    }

    /// Whether the store that a transfer names is the guest's to name; and then, with which errno it ends
    /// without having begun.
    pub(super) fn check_store(&self, asked: &Transfer) -> Result<Option<Errno>, Breach> {
        // Data of requests is of whole sectors, as is what is known of it.
        let sectors = match asked.memory {
            Memory::Request(_, at) => Coverage::is_whole_sectors(at, asked.length),
            _ => true,
        };
        if asked.work.is_copy() {
            return Ok((!sectors || asked.length == 0).then_some(Errno::EINVAL));
        }
        let shape = self.stores.get(usize::from(asked.store));
        let shape = shape.ok_or(Breach::Store(asked.store))?;
        Ok(shape
            .check(asked)
            .err()
            .or((!sectors).then_some(Errno::EINVAL)))
    }

    /// Whether a transfer's store can do it, by itself.
    pub(super) fn has_way(&self, asked: &Transfer) -> bool {
        let by_range = matches!(asked.work, Work::Discard | Work::WriteZeroes { .. });
        let shape = self.stores.get(usize::from(asked.store));
        !by_range || shape.is_some_and(|shape| shape.has_range(asked.offset, asked.length))
    }

    /// Whether so many bytes of the arena are there.
    fn check_arena(&self, offset: u64, length: u32) -> Result<(), Breach> {
        let end = offset.checked_add(length.into());
        let inside = end.is_some_and(|end| end <= self.arena_bytes);
        inside
            .then_some(())
            .ok_or(Breach::OutsideArena { offset, length })
    }
}
