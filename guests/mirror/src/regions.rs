//! What is known of each region of the disk.

use std::cell::Cell;
use std::ops::Range;

/// The next record says that it is dirty.
const DIRTY: u8 = 1;
/// The record on the legs says so.
const SAVED: u8 = 2;
/// The record that is being written says so.
const SAVING: u8 = 4;
/// Legs may differ there: it is read from one only.
const UNSYNCED: u8 = 8;
/// It is made equal, and nothing came between.
const COPYING: u8 = 16;
/// It was written to since somebody looked last.
const TOUCHED: u8 = 32;
/// It was not, and is about to be clean.
const IDLE: u8 = 64;

/// The regions, by number.
#[derive(Debug)]
pub(crate) struct Regions {
    region_bytes: u64,
    flags: Vec<Cell<u8>>,
    writers: Vec<Cell<u32>>,
}

/// Regions that are written to until this is dropped.
pub(crate) struct Writing<'a> {
    all: &'a Regions,
    regions: Range<usize>,
}

impl Regions {
    /// All of them dirty and unsynced where a bit says so.
    pub(crate) fn new(size_bytes: u64, region_bytes: u64, dirty: &[u8]) -> Regions {
        let count = size_bytes.div_ceil(region_bytes) as usize;
        let flags = (0..count).map(|region| {
            let is_dirty = dirty[region / 8] >> (region % 8) & 1 == 1;
            Cell::new(if is_dirty { DIRTY | UNSYNCED } else { 0 })
        });
        Regions {
            region_bytes,
            flags: flags.collect(),
            writers: vec![Cell::new(0); count],
        }
    }

    /// The regions that a range touches.
    pub(crate) fn of(&self, offset: u64, length: u32) -> Range<usize> {
        let end = (offset + u64::from(length)).div_ceil(self.region_bytes);
        (offset / self.region_bytes) as usize..end as usize
    }

    fn has(&self, region: usize, flags: u8) -> bool {
        self.flags[region].get() & flags == flags
    }

    fn change(&self, region: usize, clear: u8, set: u8) {
        let flags = &self.flags[region];
        flags.set(flags.get() & !clear | set);
    }

    fn all(&self) -> Range<usize> {
        0..self.flags.len()
    }

    /// They are written to.
    pub(crate) fn begin(&self, regions: Range<usize>) -> Writing<'_> {
        for region in regions.clone() {
            let writers = &self.writers[region];
            writers.set(writers.get() + 1);
        }
        Writing { all: self, regions }
    }

    /// Whether the legs know that they are dirty.
    pub(crate) fn are_saved(&self, regions: Range<usize>) -> bool {
        regions.into_iter().all(|region| self.has(region, SAVED))
    }

    /// The next record says that they are dirty.
    pub(crate) fn want(&self, regions: Range<usize>) {
        for region in regions {
            self.change(region, 0, DIRTY);
        }
    }

    /// Legs may differ there.
    pub(crate) fn unsync(&self, regions: Range<usize>) {
        for region in regions {
            self.change(region, COPYING, UNSYNCED);
        }
    }

    /// The same for all that are dirty: a leg is back that may have missed what was written there.
    pub(crate) fn unsync_dirty(&self) {
        for region in self.all() {
            if self.has(region, DIRTY) {
                self.change(region, COPYING, UNSYNCED);
            }
        }
    }

    /// Whether legs may differ there.
    pub(crate) fn are_unsynced(&self, mut regions: Range<usize>) -> bool {
        regions.any(|region| self.has(region, UNSYNCED))
    }

    /// A region where legs may differ.
    pub(crate) fn next_unsynced(&self) -> Option<usize> {
        self.all().find(|region| self.has(*region, UNSYNCED))
    }

    /// Where a region lies in the disk.
    pub(crate) fn range(&self, region: usize, size_bytes: u64) -> Range<u64> {
        let begin = region as u64 * self.region_bytes;
        begin..(begin + self.region_bytes).min(size_bytes)
    }

    /// A region is made equal from here on.
    pub(crate) fn begin_copy(&self, region: usize) {
        self.change(region, 0, COPYING);
    }

    /// It is equal, unless something came between.
    pub(crate) fn end_copy(&self, region: usize) {
        if self.has(region, COPYING) {
            self.change(region, COPYING | UNSYNCED, 0);
        }
    }

    /// Whether there is a dirty one.
    pub(crate) fn any_dirty(&self) -> bool {
        self.all().any(|region| self.has(region, DIRTY))
    }

    /// The bits of a record that is written now.
    pub(crate) fn begin_save(&self) -> Vec<u8> {
        let mut bits = vec![0; self.flags.len().div_ceil(8)];
        for region in self.all() {
            if self.has(region, DIRTY) {
                self.change(region, 0, SAVING);
                bits[region / 8] |= 1 << (region % 8);
            }
        }
        bits
    }

    /// It is written, or could not be.
    pub(crate) fn end_save(&self, done: bool) {
        for region in self.all() {
            if self.has(region, SAVING) {
                self.change(region, SAVING, if done { SAVED } else { 0 });
            }
        }
    }

    fn is_quiet(&self, region: usize) -> bool {
        let flags = self.flags[region].get();
        flags & DIRTY != 0 && flags & (UNSYNCED | TOUCHED) == 0 && self.writers[region].get() == 0
    }

    /// Finds those to which nobody wrote since the last call: when the legs are flushed, they are clean.
    pub(crate) fn find_idle(&self) -> bool {
        let mut found = false;
        for region in self.all() {
            let quiet = self.is_quiet(region);
            found |= quiet;
            self.change(region, IDLE | TOUCHED, if quiet { IDLE } else { 0 });
        }
        found
    }

    /// They are clean, where nobody wrote meanwhile.
    pub(crate) fn clean_idle(&self) {
        for region in self.all() {
            if self.has(region, IDLE) && self.is_quiet(region) {
                self.change(region, DIRTY | SAVED, 0);
            }
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        for region in self.regions.clone() {
            let writers = &self.all.writers[region];
            writers.set(writers.get() - 1);
            self.all.change(region, 0, TOUCHED);
        }
    }
}
