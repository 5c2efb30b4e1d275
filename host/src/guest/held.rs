//! A request in the hands of a guest of the contract `ring`.

use std::num::NonZeroU32;

use crate::block::{Checked, Op};

/// A place for a request that the guest may have: half a line of the processor's caches.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Held {
    /// The request, where there is one.
    request: Checked,
    /// In which period it came; `None` where there is none.
    since: Option<NonZeroU32>,
    /// Transfers of its data.
    pub(super) transfers: u32,
}

impl Held {
    /// There is none.
    pub(super) const NOTHING: Held = Held {
        request: Checked::FLUSH,
        since: None,
        transfers: 0,
    };

    /// A request comes, in a period. Of the one before no transfer is under way.
    pub(super) fn take(&mut self, request: Checked, period: NonZeroU32) {
        self.request = request;
        self.since = Some(period);
    }

    /// The request, where there is one.
    pub(super) fn request(&self) -> Option<&Checked> {
        self.is_held().then_some(&self.request)
    }

    pub(super) fn is_held(&self) -> bool {
        self.since.is_some()
    }

    /// How many periods ago the request came, where there is one.
    pub(super) fn age(&self, period: NonZeroU32) -> Option<u32> {
        self.since
            .map(|since| period.get().wrapping_sub(since.get()))
    }

    /// The guest has it no more.
    pub(super) fn give_back(&mut self) {
        self.since = None;
    }

    /// Whether the guest has a request that is done only when all of its data is there.
    pub(super) fn is_read(&self) -> bool {
        self.request.request().op == Op::Read
    }

    /// The length of the request in bytes.
    pub(super) fn length(&self) -> u32 {
        self.request.request().length
    }
}
