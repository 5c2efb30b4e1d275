//! What is agreed on with a guest of the contract `ring`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::breach::Breach;
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
    /// Whether so many bytes of the arena are there.
    pub(super) fn check_arena(&self, offset: u64, length: u32) -> Result<(), Breach> {
        let end = offset.checked_add(length.into());
        let inside = end.is_some_and(|end| end <= self.arena_bytes);
        inside
            .then_some(())
            .ok_or(Breach::OutsideArena { offset, length })
    }
}
