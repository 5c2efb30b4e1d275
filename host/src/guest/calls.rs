//! The contract `device` as a target: one call for each request, one after the other.

use std::collections::VecDeque;

use super::fault::Fault;
use super::instance::Instance;
use super::supervisor::Running;
use crate::block::{Answer, Backend, Checked, Ended, Errno, Next, Op, Output, Request, Target};
use crate::limits;
use crate::sys::Slots;

/// A guest that is called, with slots in the host's memory: data is copied once each way.
#[derive(Debug)]
pub struct Calls<B = Instance> {
    backend: B,
    slots: Slots,
    waiting: VecDeque<(u32, Checked)>,
    copied_bytes: u64,
}

impl<B: Backend> Calls<B> {
    /// Puts slots beside a guest.
    pub fn new(backend: B, slots: Slots) -> Calls<B> {
        let waiting = VecDeque::with_capacity(slots.count() as usize);
        Calls {
            backend,
            slots,
            waiting,
            copied_bytes: 0,
        }
    }

    fn call(&mut self, slot: u32, request: &Request) -> Result<u32, Errno> {
        let Request {
            offset,
            length,
            fua,
            may_discard,
            ..
        } = *request;
        // A slot that is too short is refused, not trusted. Discards and zeros use nothing of theirs.
        let bytes = match request.op {
            Op::Read | Op::Write => length as usize,
            _ => 0,
        };
        self.copied_bytes += bytes as u64;
        let data = self.slots.lend(slot, bytes);
        let data = data.ok_or(Errno::EINVAL)?;
        match request.op {
            Op::Read => self.backend.read(offset, data)?,
            Op::Write => self.backend.write(offset, data, fua)?,
            Op::Flush => self.backend.flush()?,
            Op::Discard => self.backend.discard(offset, length)?,
            Op::WriteZeroes => self.backend.write_zeroes(offset, length, may_discard)?,
        }
        Ok(length)
    }
}

impl<B: Backend> Target for Calls<B> {
    fn submit(&mut self, slot: u32, request: &Checked) {
        self.waiting.push_back((slot, *request));
    }

    /// It asks for none.
    fn ended(&mut self, _token: u32, _ended: Ended, _output: &mut Output) {}

    /// A few calls at a time, so that a slow one delays few answers.
    fn poll(&mut self, output: &mut Output) -> Next {
        let begun = self.backend.ticks();
        for _ in 0..limits::ANSWERS_HELD_MAX {
            let Some((slot, request)) = self.waiting.pop_front() else {
                break;
            };
            let result = self.call(slot, request.request());
            if self.backend.has_ended() {
                self.waiting.push_front((slot, request));
                break;
            }
            output.answers.push(Answer { slot, result });
            if self.backend.ticks() != begun {
                break;
            }
        }
        if self.waiting.is_empty() {
            Next::Submitted
        } else {
            Next::Again
        }
    }

    fn take_copied_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.copied_bytes)
    }
}

impl Running for Calls<Instance> {
    fn take_fault(&mut self) -> Option<Fault> {
        self.backend.take_fault()
    }

    fn take_requests(&mut self, take: &mut dyn FnMut(u32, &Checked)) {
        for (slot, request) in self.waiting.drain(..) {
            take(slot, &request);
        }
    }
}
