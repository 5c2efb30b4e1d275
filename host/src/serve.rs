//! The seam between every frontend and every target: one request, one answer. Nothing goes round it.

use std::time::{Duration, Instant};

use tracing::trace;

use crate::block::{
    Answer, Carrier, Checked, Ended, Errno, Geometry, Next, Op, Output, Request, Target, Transfer,
};
use crate::limits;
use crate::stats::Stats;

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing.
    Free,
    /// The target has it; its answer is the request's.
    Last,
    /// The target has it, and a flush has to follow: the request is FUA.
    BeforeFlush,
    /// The target flushes; then a request of so many bytes is done.
    Flush(u32),
}

/// Lets requests in, keeps account of them, and makes what a target lacks, once for all frontends: FUA
/// becomes a flush behind the request.
pub struct Engine<'a> {
    geometry: Geometry,
    target: &'a mut dyn Target,
    stats: &'a Stats,
    stages: Box<[Stage]>,
    in_flight: u32,
    /// A mistake of ours left the target in the middle of something: it is not used any more.
    abandoned: bool,
    output: Output,
    patience: Option<Patience<'a>>,
}

/// How long requests may wait.
struct Patience<'a> {
    longest: Duration,
    /// When each slot's request began.
    since: Box<[Instant]>,
    looked: Instant,
    give_up: &'a dyn Fn(),
}

impl Patience<'_> {
    /// Looks, once in a while, whether one has waited too long.
    fn check(&mut self, stages: &[Stage]) {
        let now = Instant::now();
        if now.duration_since(self.looked) < limits::BUSY_WAIT_MAX {
            return;
        }
        self.looked = now;
        let mut waiting = stages.iter().zip(&self.since);
        let is_old = |(stage, since): (&Stage, &Instant)| {
            *stage != Stage::Free && now.duration_since(*since) > self.longest
        };
        if waiting.any(is_old) {
            (self.give_up)();
        }
    }
}

impl std::fmt::Debug for Engine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl<'a> Engine<'a> {
    /// `slots` is the number of the target's slots.
    pub fn new(
        geometry: Geometry,
        target: &'a mut dyn Target,
        slots: u32,
        stats: &'a Stats,
    ) -> Engine<'a> {
        Engine {
            geometry,
            target,
            stats,
            stages: vec![Stage::Free; slots as usize].into(),
            in_flight: 0,
            abandoned: false,
            output: Output {
                answers: Vec::with_capacity(slots as usize),
                transfers: Vec::with_capacity(slots as usize),
            },
            patience: None,
        }
    }

    /// Has `give_up` called when a request has waited for longer than that: it makes the target fail, which then
    /// answers.
    pub fn wait_at_most(&mut self, longest: Duration, give_up: &'a dyn Fn()) {
        let now = Instant::now();
        self.patience = Some(Patience {
            longest,
            since: vec![now; self.stages.len()].into(),
            looked: now,
            give_up,
        });
    }

    /// Size and shape of the device.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The device's counters.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        self.stats
    }

    /// Lets a request in and hands it to the target, with a slot that holds a write's data, or is to hold
    /// a read's.
    ///
    /// # Errors
    ///
    /// Where the request does not fit the device ([`Request::check`]): then the slot stays free.
    pub fn begin(&mut self, slot: u32, request: Request) -> Result<(), Errno> {
        let checked = request.check(&self.geometry)?;
        if self.abandoned {
            return Err(Errno::EIO);
        }
        trace!(slot, ?request, "begin");
        self.stats.count(&request);
        let stage = self.stages.get_mut(slot as usize).ok_or(Errno::EINVAL)?;
        debug_assert_eq!(*stage, Stage::Free, "a slot has one request");
        *stage = if needs_flush(&request, &self.geometry) {
            Stage::BeforeFlush
        } else {
            Stage::Last
        };
        self.in_flight += 1;
        if let Some(patience) = &mut self.patience {
            patience.since[slot as usize] = Instant::now();
        }
        let fua = request.fua && request.op == Op::Write && self.geometry.fua_native;
        self.target.submit(slot, &checked.with_fua(fua));
        Ok(())
    }

    /// Lets the target work, and passes each answer on: `done` is called once for each request that
    /// began. Says when to come back.
    pub fn poll(&mut self, mut done: impl FnMut(u32, Result<u32, Errno>)) -> Next {
        if self.abandoned {
            return Next::Submitted;
        }
        if let Some(patience) = &mut self.patience {
            patience.check(&self.stages);
        }
        let mut next = self.target.poll(&mut self.output);
        self.stats.count_copied(self.target.take_copied_bytes());
        for Answer { slot, result } in self.output.answers.drain(..) {
            let Some(stage) = self.stages.get_mut(slot as usize) else {
                continue;
            };
            debug_assert_ne!(*stage, Stage::Free, "one answer");
            *stage = match (*stage, result) {
                (Stage::Free, _) => continue,
                (Stage::BeforeFlush, Ok(bytes)) => {
                    self.target.submit(slot, &Checked::FLUSH);
                    next = Next::Again;
                    Stage::Flush(bytes)
                }
                (stage, result) => {
                    let result = match (stage, result) {
                        (Stage::Flush(bytes), Ok(_)) => Ok(bytes),
                        (_, result) => result,
                    };
                    if result.is_err() {
                        self.stats.count_error();
                    }
                    self.in_flight -= 1;
                    done(slot, result);
                    Stage::Free
                }
            };
        }
        next
    }

    /// Transfers that the target asked for, with their tokens: as many as are begun in one turn. Where that is
    /// not all, [`Engine::has_transfers`].
    pub fn transfers(&mut self) -> impl ExactSizeIterator<Item = (u32, Transfer)> {
        let (mut count, mut bytes) = (0, 0);
        for (_, transfer) in &self.output.transfers {
            bytes += u64::from(transfer.moved_bytes());
            if count > 0 && bytes > limits::TURN_BYTES_MAX {
                break;
            }
            count += 1;
        }
        self.output.transfers.drain(..count)
    }

    /// Whether there are transfers that are not begun.
    #[must_use]
    pub fn has_transfers(&self) -> bool {
        !self.output.transfers.is_empty()
    }

    /// Whether requests are under way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0
    }

    /// A transfer, or a part of one, has ended.
    pub fn ended(&mut self, token: u32, ended: Ended) {
        if !self.abandoned {
            self.target.ended(token, ended, &mut self.output);
        }
    }

    /// The target's last call: finishes what is under way, then makes everything durable.
    ///
    /// # Errors
    ///
    /// The target's; `ETIMEDOUT` where it does not answer in time; `EIO` where transfers end no more.
    pub fn flush(&mut self, carrier: &mut dyn Carrier) -> Result<(), Errno> {
        let deadline = Instant::now() + limits::LAST_FLUSH_TIMEOUT;
        let (mut begun, mut outcome) = (false, None);
        loop {
            if self.in_flight == 0 {
                self.begin(0, *Checked::FLUSH.request())?;
                begun = true;
            }
            let next = self.poll(|_, result| {
                if begun {
                    outcome = Some(result.map(drop));
                }
            });
            if let Some(outcome) = outcome {
                return outcome;
            }
            for (token, transfer) in self.transfers() {
                let begun = carrier.begin(token, &transfer);
                begun.map_err(|_| Errno::EIO)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            let wait = if self.in_flight == 0 || self.has_transfers() {
                Duration::ZERO
            } else {
                next.wait().map_or(left, |time| time.min(left))
            };
            let mut ended = |token, ended| self.target.ended(token, ended, &mut self.output);
            carrier.wait(wait, &mut ended).map_err(|_| Errno::EIO)?;
        }
    }

    /// Answers everything that is under way with EIO, and all that follows, after a mistake of ours.
    pub fn abandon(&mut self, mut done: impl FnMut(u32, Result<u32, Errno>)) {
        self.abandoned = true;
        self.output.answers.clear();
        self.output.transfers.clear();
        for (slot, stage) in (0..).zip(self.stages.iter_mut()) {
            if std::mem::replace(stage, Stage::Free) != Stage::Free {
                self.stats.count_error();
                done(slot, Err(Errno::EIO));
            }
        }
        self.in_flight = 0;
    }
}

/// Whether the target's own answer does not make a FUA request durable. The contracts have FUA for writes
/// only.
fn needs_flush(request: &Request, geometry: &Geometry) -> bool {
    let durable = match request.op {
        Op::Read | Op::Flush => true,
        Op::Write => geometry.fua_native,
        Op::Discard | Op::WriteZeroes => false,
    };
    request.fua && geometry.volatile_cache && !durable
}
