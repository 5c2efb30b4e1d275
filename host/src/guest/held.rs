//! A request in the hands of a guest of the contract `ring`.

use crate::block::{Checked, Op};

/// A place for a request that the guest may have: half a line of the processor's caches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The request, where there is one.
    request: Checked,
    is_held: bool,
    /// Transfers of its data.
    pub(super) transfers: u32,
    /// In which period it came.
    pub(super) period: u32,
}

impl Held {
    /// There is none.
    pub(super) const NOTHING: Held = Held {
        request: Checked::FLUSH,
        is_held: false,
        transfers: 0,
        period: 0,
    };

    /// A request that came in a period.
    pub(super) fn new(request: Checked, period: u32) -> Held {
        Held {
            request,
            is_held: true,
            transfers: 0,
            period,
        }
    }

    /// The request, where there is one.
    pub(super) fn request(&self) -> Option<&Checked> {
        self.is_held.then_some(&self.request)
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    /// The guest has it no more.
    pub(super) fn give_back(&mut self) {
        self.is_held = false;
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
