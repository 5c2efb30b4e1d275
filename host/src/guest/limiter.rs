//! How much memory a guest may have: everything together, however it divides it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use wasmtime::{ResourceLimiter, Result};

use crate::limits;

/// What all instances of a guest may have together.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    free_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(bytes_max: u64) -> Budget {
        let bytes = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Budget {
            free_bytes: Arc::new(AtomicUsize::new(bytes)),
            bytes_max: bytes,
        }
    }

    /// All of it, used or not.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What is used.
    pub(super) fn used_bytes(&self) -> usize {
        self.bytes_max.saturating_sub(self.free_bytes.load(Relaxed))
    }
}

/// Counts what one instance takes, its linear memories, tables and room in the host; all goes back when it ends.
#[derive(Debug)]
pub(super) struct Limiter {
    budget: Budget,
    bytes: usize,
}

impl Limiter {
    pub(super) fn new(budget: Budget) -> Limiter {
        Limiter { budget, bytes: 0 }
    }

    /// Whether there is room for a growth, which is then taken.
    pub(super) fn take(&mut self, current: usize, desired: usize, unit_bytes: usize) -> bool {
        let more = desired.saturating_sub(current).saturating_mul(unit_bytes);
        let free = &self.budget.free_bytes;
        let taken = free
            .fetch_update(Relaxed, Relaxed, |free| free.checked_sub(more))
            .is_ok();
        if taken {
            self.bytes = self.bytes.saturating_add(more);
        }
        taken
    }

    /// So much more of the same budget, until the end of what is returned; `None` where there is no room.
    pub(super) fn another(&self, bytes: usize) -> Option<Limiter> {
        let mut other = Limiter::new(self.budget.clone());
        other.take(0, bytes, 1).then_some(other)
    }

    /// So much of what was taken, which is there until the end of what is returned.
    pub(super) fn part(&mut self, bytes: usize) -> Limiter {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let budget = self.budget.clone();
        Limiter { budget, bytes }
    }

    /// Gives back some of what was taken.
    pub(super) fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.budget.free_bytes.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.budget.free_bytes.fetch_add(self.bytes, Relaxed);
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        // Growth beyond the memory's own maximum fails afterwards, and must not be counted.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.take(current, desired, 1))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let allowed = maximum.is_none_or(|maximum| desired <= maximum);
        Ok(allowed && self.take(current, desired, limits::TABLE_ELEMENT_BYTES))
    }

    fn instances(&self) -> usize {
        limits::GUEST_PARTS_MAX
    }

    fn tables(&self) -> usize {
        limits::GUEST_PARTS_MAX
    }

    fn memories(&self) -> usize {
        limits::GUEST_MEMORIES_MAX
    }
}
