//! The legs of a mirror, and what they know of each other.

use std::cell::Cell;
use std::ops::Range;

use wasmblk_durable::Twin;
use wasmblk_guest::{Data, Errno, Level, Ranges, Store, each, log};

use crate::bell::Bell;
use crate::record::{LEGS_MAX, Record, Shape, State};
use crate::regions::Regions;

/// Where data begins on each leg: before it lies the record.
pub(crate) const DATA_BEGIN: u64 = 64 << 10;

/// One leg. One that is not granted has no disk, and is out.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) name: String,
    pub(crate) disk: Option<(Store, Twin)>,
    pub(crate) state: Cell<State>,
    pub(crate) left: Cell<u64>,
    pub(crate) sent: Cell<u64>,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Legs {
    pub(crate) legs: Vec<Leg>,
    pub(crate) shape: Shape,
    pub(crate) regions: Regions,
    /// Who writes where.
    pub(crate) ranges: Ranges,
    /// Who writes the record.
    pub(crate) turn: Ranges,
    /// There is something to do in the background.
    pub(crate) bell: Bell,
    pub(crate) generation: Cell<u64>,
    /// How often a leg changed its state.
    pub(crate) changes: Cell<u64>,
    /// How many of these changes the legs know of.
    pub(crate) saved: Cell<u64>,
    /// The leg that was read last.
    pub(crate) reader: Cell<usize>,
    /// Who flushes.
    pub(crate) flushing: Ranges,
    /// A flush in the background failed, which the stores say once: the next who asks is told.
    pub(crate) has_lost: Cell<bool>,
}

/// How something ended on each leg that it was done on.
pub(crate) type Outcomes = [Option<Result<(), Errno>>; LEGS_MAX];

impl Leg {
    fn is(&self, state: State) -> bool {
        self.state.get() == state
    }
}

impl Legs {
    /// The store of a leg that is written to.
    pub(crate) fn active(&self, place: usize) -> Option<Store> {
        let leg = self.legs.get(place).filter(|leg| !leg.is(State::Out))?;
        leg.disk.as_ref().map(|(store, _)| *store)
    }

    /// The first leg that has all data.
    pub(crate) fn first_in(&self) -> Option<usize> {
        self.legs.iter().position(|leg| leg.is(State::In))
    }

    /// Whether there is a leg in this state.
    pub(crate) fn any(&self, state: State) -> bool {
        self.legs.iter().any(|leg| leg.is(state))
    }

    /// The leg to read from.
    fn to_read(&self, regions: Range<usize>) -> Option<usize> {
        let first = self.first_in()?;
        if self.regions.are_unsynced(regions) {
            return Some(first);
        }
        let after = (1..=self.legs.len()).map(|step| (self.reader.get() + step) % self.legs.len());
        let next = after
            .into_iter()
            .find(|place| self.legs[*place].is(State::In))?;
        self.reader.set(next);
        Some(next)
    }

    /// A leg is left out from here on, if another has all data. Nothing may be answered that it lacks before
    /// the others know ([`Legs::settle`]).
    pub(crate) fn leave_out(&self, place: usize, errno: Errno) -> bool {
        let mut others = (0..self.legs.len()).filter(|other| *other != place);
        if !others.any(|other| self.legs[other].is(State::In)) {
            return false;
        }
        let leg = &self.legs[place];
        if !leg.is(State::Out) {
            leg.state.set(State::Out);
            let generation = leg.disk.as_ref().map(|(_, twin)| twin.generation());
            leg.left.set(generation.unwrap_or(0));
            self.changes.set(self.changes.get() + 1);
            let text = format!("leg '{}' is left out of the mirror: {errno:?}", leg.name);
            log(Level::Error, &text);
            self.bell.ring();
        }
        true
    }

    /// Does something with all legs that are written to.
    pub(crate) async fn on_all(
        &self,
        work: impl AsyncFn(usize, Store) -> Result<(), Errno>,
    ) -> Outcomes {
        let one = async |place| match self.active(place) {
            Some(store) => Some(work(place, store).await),
            None => None,
        };
        let ((a, b), (c, d)) = each(each(one(0), one(1)), each(one(2), one(3))).await;
        [a, b, c, d]
    }

    /// Legs on which it failed are left out, where one that has all data did it; else it failed.
    pub(crate) fn judge(&self, outcomes: &Outcomes) -> Result<(), Errno> {
        let done = |place: usize| self.legs[place].is(State::In) && outcomes[place] == Some(Ok(()));
        let any_done = (0..self.legs.len()).any(done);
        let mut first = Errno::Io;
        for (place, outcome) in outcomes.iter().enumerate().rev() {
            if let Some(Err(errno)) = *outcome {
                first = errno;
                if any_done {
                    self.leave_out(place, errno);
                }
            }
        }
        if any_done { Ok(()) } else { Err(first) }
    }

    /// Before anything is answered: those legs that are in know who is out.
    pub(crate) async fn settle(&self) -> Result<(), Errno> {
        while self.saved.get() < self.changes.get() {
            let _turn = self.turn.turn().await;
            if self.saved.get() < self.changes.get() {
                self.save().await?;
            }
        }
        Ok(())
    }

    /// Writes the record to all legs that are written to. Whoever calls has the turn.
    pub(crate) async fn save(&self) -> Result<(), Errno> {
        loop {
            let changes = self.changes.get();
            let record = self.record();
            let generation = self.generation.get() + 1;
            self.generation.set(generation);
            // First to those that have all data: so one of these has the newest, wherever the power goes.
            let mut judged = self.write(State::In, generation, &record).await;
            if judged.is_ok() && self.any(State::Rebuilding) {
                judged = self.write(State::Rebuilding, generation, &record).await;
            }
            // Who did not write it is out, and is to be said so in the next.
            let done = judged.is_ok() && self.changes.get() == changes;
            self.regions.end_save(done);
            if done {
                self.saved.set(changes);
            }
            if done || judged.is_err() {
                return judged;
            }
        }
    }

    /// Writes a record to the legs in one state.
    async fn write(&self, state: State, generation: u64, record: &Record) -> Result<(), Errno> {
        let outcomes = self
            .on_all(async |place, _| match &self.legs[place].disk {
                Some((_, twin)) if record.states[place] == state => {
                    self.legs[place].sent.set(generation);
                    twin.write(generation, &record.encode(place)).await
                }
                _ => Ok(()),
            })
            .await;
        self.judge(&outcomes)
    }

    /// The record as it is to be written now.
    pub(crate) fn record(&self) -> Record {
        let of = |place: usize| self.legs.get(place);
        Record {
            shape: self.shape,
            states: std::array::from_fn(|place| {
                of(place).map_or(State::Out, |leg| leg.state.get())
            }),
            left: std::array::from_fn(|place| of(place).map_or(0, |leg| leg.left.get())),
            sent: std::array::from_fn(|place| of(place).map_or(0, |leg| leg.sent.get())),
            dirty: self.regions.begin_save(),
        }
    }

    /// Before regions are written to: the legs know that they are dirty.
    async fn mark(&self, regions: Range<usize>) -> Result<(), Errno> {
        while !self.regions.are_saved(regions.clone()) {
            self.regions.want(regions.clone());
            self.bell.ring();
            let _turn = self.turn.turn().await;
            if !self.regions.are_saved(regions.clone()) {
                self.save().await?;
            }
        }
        Ok(())
    }

    /// Changes a range on all legs.
    pub(crate) async fn change(
        &self,
        offset: u64,
        length: u32,
        work: impl AsyncFn(Store) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        // Alone, so that two of the same place come in the same order everywhere.
        let range = offset..offset + u64::from(length);
        let _held = self.ranges.hold(range, true).await;
        let regions = self.regions.of(offset, length);
        let _writing = self.regions.begin(regions.clone());
        self.mark(regions.clone()).await?;
        let outcomes = self.on_all(async |_, store| work(store).await).await;
        let judged = self.judge(&outcomes);
        if judged.is_err() {
            // What is there now is not known, but it is to be the same everywhere.
            self.regions.unsync(regions);
            self.bell.ring();
        }
        self.settle().await?;
        judged
    }

    /// Has data filled from a leg that has it.
    pub(crate) async fn read(&self, offset: u64, data: Data) -> Result<(), Errno> {
        loop {
            let regions = self.regions.of(offset, data.bytes());
            let place = self.to_read(regions).ok_or(Errno::Io)?;
            let store = self.active(place).ok_or(Errno::Io)?;
            match store.read_to(DATA_BEGIN + offset, data).await {
                Ok(()) => return self.settle().await,
                // It is the request that is wrong.
                Err(Errno::Invalid) => return Err(Errno::Invalid),
                Err(errno) if self.leave_out(place, errno) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Makes everything durable on all legs, for somebody.
    pub(crate) async fn flush(&self) -> Result<(), Errno> {
        let _turn = self.flushing.turn().await;
        let flushed = self.flush_all().await;
        if self.has_lost.take() {
            return Err(Errno::Io);
        }
        flushed
    }

    /// The same in the background.
    pub(crate) async fn flush_unasked(&self) -> Result<(), Errno> {
        let _turn = self.flushing.turn().await;
        let flushed = self.flush_all().await;
        if flushed.is_err() {
            self.has_lost.set(true);
        }
        flushed
    }

    async fn flush_all(&self) -> Result<(), Errno> {
        let outcomes = self.on_all(async |_, store| store.flush().await).await;
        let judged = self.judge(&outcomes);
        self.settle().await?;
        judged
    }
}
