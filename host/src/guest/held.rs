//! A request in the hands of a guest of the contract `ring`.

use crate::block::Op;

/// A request that the guest may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Its length, or [`NOT_HELD`].
    pub(super) length: u32,
    pub(super) op: Op,
    /// Transfers of its data.
    pub(super) transfers: u32,
    /// In which period it came.
    pub(super) period: u32,
}

/// No request is so long.
pub(super) const NOT_HELD: u32 = u32::MAX;

pub(super) const NOTHING: Held = Held {
    length: NOT_HELD,
    op: Op::Flush,
    transfers: 0,
    period: 0,
};
