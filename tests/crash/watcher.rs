//! Tells the oracle of what happens to requests, and cuts the power meanwhile.

use wasmblk::block::{Errno, Op, Request};

use crate::direct::{Sent, Watch};

use super::carrier::Power;
use super::oracle::{Begun, Oracle};
use super::random::Random;
use super::rig::Rig;

/// How often the power was cut, and of how many moments it is at one.
pub(super) type Cuts<'a> = Option<(&'a mut u32, u64)>;

/// Tells the oracle of a request.
pub(super) fn begin(oracle: &mut Oracle, request: &Request, data: &[u8]) -> Begun {
    let begun = oracle.begin(request.offset / 512, u64::from(request.length) / 512);
    match request.op {
        Op::Write => {
            let stamp = u64::from_le_bytes(data[..8].try_into().expect("8 bytes"));
            oracle.changes(begun, stamp, true);
        }
        Op::Discard => oracle.changes(begun, 0, false),
        Op::WriteZeroes => oracle.changes(begun, 0, true),
        Op::Read | Op::Flush => {}
    }
    begun
}

/// Tells the oracle of answers, and cuts the power now and then.
pub(super) struct Watcher<'a> {
    pub(super) rig: &'a mut Rig,
    pub(super) oracle: &'a mut Oracle,
    pub(super) random: &'a mut Random,
    /// The request of each slot.
    pub(super) begun: Vec<Option<Begun>>,
    pub(super) cuts: Cuts<'a>,
}

impl Watch<Power> for Watcher<'_> {
    fn answered(&mut self, slot: usize, sent: &Sent<'_>) {
        let begun = self.begun[slot].take().expect("it began");
        let done = sent.result == Some(Ok(()));
        match sent.request.op {
            Op::Read if done => self.oracle.read(begun, sent.data),
            Op::Flush if done => self.oracle.flushed(begun),
            Op::Flush if self.rig.legs > 0 => self.oracle.flushed_in_vain(),
            Op::Read | Op::Flush if self.rig.stores_fail => {}
            _ if !done && !self.may_fail(sent) => panic!("{:?}: {:?}", sent.request, sent.result),
            _ => self.oracle.changed(begun, done, sent.request.fua),
        }
    }

    fn waited(&mut self, carrier: &mut Power) {
        if let Some((cuts, moments)) = &mut self.cuts
            && self.random.one_in(*moments)
        {
            self.rig.check_cut(carrier, self.oracle, self.random);
            **cuts += 1;
        }
    }
}

impl Watcher<'_> {
    fn may_fail(&self, sent: &Sent<'_>) -> bool {
        self.rig.stores_fail || sent.result == Some(Err(Errno::ENOSPC))
    }
}

/// Sees nothing.
pub(super) struct Blind;

impl Watch<Power> for Blind {
    fn answered(&mut self, _: usize, _: &Sent<'_>) {}
    fn waited(&mut self, _: &mut Power) {}
}
