//! What goes on in the background: legs are made equal, regions become clean, legs come back.

use std::rc::Rc;
use std::time::Duration;

use wasmblk_guest::{Errno, Level, Scratch, log, sleep};

use crate::legs::{DATA_BEGIN, Leg, Legs};
use crate::record::State;

/// Bytes that are copied at a time, and held meanwhile.
pub(crate) const PIECE_BYTES: u64 = 64 << 10;

/// How fast the background is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Bytes a second that are copied at most.
    pub(crate) rate: u64,
    /// How long nobody writes to a region before it is clean.
    pub(crate) calm: Duration,
    /// After which time a leg that is out is tried again; never where it is zero.
    pub(crate) retry: Duration,
}

/// Runs for as long as the mirror.
pub(crate) async fn run(legs: Rc<Legs>, pace: Pace, mut buffer: Scratch) {
    loop {
        if let Some(region) = legs.regions.next_unsynced() {
            if legs.sync(region, pace, &mut buffer).await.is_err() {
                sleep(pace.calm).await;
            }
        } else if legs.any(State::Rebuilding) {
            if legs.finish().await.is_err() {
                sleep(pace.calm).await;
            }
        } else if legs.any(State::Out) {
            // What is dirty stays so: it tells what the leg that is out lacks.
            if pace.retry.is_zero() || !legs.any_to_retry() {
                legs.bell.wait().await;
            } else {
                sleep(pace.retry).await;
                legs.rejoin().await;
            }
        } else if legs.regions.any_dirty() {
            sleep(pace.calm).await;
            legs.clean().await;
        } else {
            legs.bell.wait().await;
        }
    }
}

impl Legs {
    /// Makes a region equal on all legs that are written to.
    async fn sync(&self, region: usize, pace: Pace, buffer: &mut Scratch) -> Result<(), Errno> {
        let range = self.regions.range(region, self.shape.size_bytes);
        self.regions.begin_copy(region);
        let mut at = range.start;
        while at < range.end {
            let end = (at + PIECE_BYTES).min(range.end);
            let held = self.ranges.hold(at..end, true).await;
            let copied = self.copy(at, (end - at) as usize, buffer).await;
            drop(held);
            self.settle().await?;
            if !copied? {
                break;
            }
            sleep(Duration::from_micros((end - at) * 1_000_000 / pace.rate)).await;
            at = end;
        }
        if at < range.end && self.others(self.first_in()) > 0 {
            // The leg that it was copied from is gone: from the next, all of it.
            return Ok(());
        }
        self.regions.end_copy(region);
        Ok(())
    }

    /// Legs that are written to, but for this one.
    fn others(&self, place: Option<usize>) -> usize {
        let others = (0..self.legs.len()).filter(|other| Some(*other) != place);
        others.filter(|other| self.active(*other).is_some()).count()
    }

    /// Copies a piece, which is held, from the first leg that has it to all others. False where there is nothing
    /// more to copy from or to.
    async fn copy(&self, at: u64, length: usize, buffer: &mut Scratch) -> Result<bool, Errno> {
        let first = self.first_in().ok_or(Errno::Io)?;
        if self.others(Some(first)) == 0 {
            return Ok(false);
        }
        let from = self.active(first).ok_or(Errno::Io)?;
        let at = DATA_BEGIN + at;
        if let Err(errno) = from.read(at, &mut buffer.bytes_mut()[..length]).await {
            return if self.leave_out(first, errno) {
                Ok(false)
            } else {
                Err(errno)
            };
        }
        let data = &buffer.bytes()[..length];
        let is_zero = data.iter().all(|byte| *byte == 0);
        let outcomes = self
            .on_all(async |place, store| {
                if place == first {
                    Ok(())
                } else if is_zero {
                    // So that what nobody wrote to takes no room.
                    store.write_zeroes(at, length as u32, true).await
                } else {
                    store.write(at, data).await
                }
            })
            .await;
        self.judge(&outcomes)?;
        Ok(true)
    }

    /// All regions are equal: legs that were rebuilt have all data.
    async fn finish(&self) -> Result<(), Errno> {
        self.flush_unasked().await?;
        let _turn = self.turn.turn().await;
        if self.regions.next_unsynced().is_some() {
            return Ok(());
        }
        for leg in &self.legs {
            if leg.state.get() == State::Rebuilding {
                leg.state.set(State::In);
                self.changes.set(self.changes.get() + 1);
                log(Level::Info, &format!("leg '{}' is complete", leg.name));
            }
        }
        self.save().await
    }

    fn any_to_retry(&self) -> bool {
        let out = |leg: &Leg| leg.state.get() == State::Out && leg.disk.is_some();
        self.legs.iter().any(out)
    }

    /// Tries legs that are out once more.
    async fn rejoin(&self) {
        let _turn = self.turn.turn().await;
        for leg in &self.legs {
            if leg.state.get() == State::Out && leg.disk.is_some() {
                leg.state.set(State::Rebuilding);
                self.changes.set(self.changes.get() + 1);
            }
        }
        // It has missed what was written to these, and nothing else.
        self.regions.unsync_dirty();
        // Where that fails, it is tried again before the next answer.
        let _ = self.save().await;
    }

    /// Regions to which nobody writes become clean.
    async fn clean(&self) {
        if !self.regions.find_idle() || self.flush_unasked().await.is_err() {
            return;
        }
        let _turn = self.turn.turn().await;
        if self.any(State::Out) {
            return;
        }
        self.regions.clean_idle();
        let _ = self.save().await;
    }
}
