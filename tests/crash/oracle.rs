//! What each sector may hold. Every write has a stamp, which its sectors repeat together with their number.

const SECTOR: usize = 512;
const NOT_YET: u64 = u64::MAX;

/// Fills data with a stamp, from this sector on; 0 is zeros.
pub(super) fn fill(data: &mut [u8], sector: u64, stamp: u64) {
    for (sector, bytes) in (sector..).zip(data.chunks_mut(SECTOR)) {
        bytes.copy_from_slice(&whole(sector, stamp));
    }
}

fn whole(sector: u64, stamp: u64) -> Vec<u8> {
    let sector = if stamp == 0 { 0 } else { sector };
    let words = [stamp.to_le_bytes(), sector.to_le_bytes()];
    words.concat().repeat(SECTOR / 16)
}

/// The stamp of a sector.
fn stamp(bytes: &[u8], sector: u64) -> u64 {
    let stamp = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    let written = whole(sector, stamp);
    assert!(
        bytes == written,
        "sector {sector} holds what was not written to it"
    );
    stamp
}

/// A change of a sector: what it makes of it, and when.
#[derive(Clone, Copy, Debug)]
struct Change {
    request: u64,
    stamp: u64,
    begin: u64,
    end: u64,
    /// When it has ended, nothing older is there. Not so with discards, and what failed.
    replaces: bool,
    /// Since when no cut can bring it back. A read that began before may still see it.
    gone: u64,
    /// A flush has failed since: none that follows makes it durable.
    doubtful: bool,
}

/// A request of which the oracle knows.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    request: u64,
    begin: u64,
    sector: u64,
    count: u64,
}

/// Longer than any request takes: two for each request that begins meanwhile.
pub(super) const READ_TIME: u64 = 512;

/// No cut brings back what ended before this moment.
fn forget(sector: &mut Vec<Change>, moment: u64, now: u64) {
    sector.retain(|one| one.gone == NOT_YET || one.gone + READ_TIME > now);
    for one in sector {
        if one.end < moment && one.gone == NOT_YET {
            one.gone = now;
        }
    }
}

/// All sectors.
#[derive(Clone)]
pub(super) struct Oracle {
    sectors: Vec<Vec<Change>>,
    now: u64,
}

impl Oracle {
    pub(super) fn new(sectors: u64, stamp: u64) -> Oracle {
        let first = Change {
            request: 0,
            stamp,
            begin: 0,
            end: 0,
            replaces: true,
            gone: NOT_YET,
            doubtful: false,
        };
        Oracle {
            sectors: (0..sectors).map(|_| vec![first]).collect(),
            now: 0,
        }
    }

    fn range(&mut self, begun: Begun) -> &mut [Vec<Change>] {
        let index = |sector: u64| usize::try_from(sector).expect("short");
        &mut self.sectors[index(begun.sector)..index(begun.sector + begun.count)]
    }

    /// A request begins.
    pub(super) fn begin(&mut self, sector: u64, count: u64) -> Begun {
        self.now += 1;
        Begun {
            request: self.now,
            begin: self.now,
            sector,
            count,
        }
    }

    /// It will make its sectors this, or, where it does not replace them, leave them as they are.
    pub(super) fn changes(&mut self, begun: Begun, stamp: u64, replaces: bool) {
        for sector in self.range(begun) {
            sector.push(Change {
                request: begun.request,
                stamp,
                begin: begun.begin,
                end: NOT_YET,
                replaces,
                gone: NOT_YET,
                doubtful: false,
            });
        }
    }

    /// A change is answered.
    pub(super) fn changed(&mut self, begun: Begun, done: bool, durable: bool) {
        self.now += 1;
        let now = self.now;
        for sector in self.range(begun) {
            let Some(place) = sector.iter().position(|one| one.request == begun.request) else {
                continue;
            };
            sector[place].end = now;
            sector[place].replaces &= done;
            let change = sector[place];
            if durable && change.replaces {
                forget(sector, change.begin, now);
            }
        }
    }

    /// A flush is answered: all that was answered before it began is durable.
    pub(super) fn flushed(&mut self, begun: Begun) {
        self.now += 1;
        for sector in &mut self.sectors {
            let durable = sector
                .iter()
                .filter(|one| one.replaces && !one.doubtful && one.end < begun.begin);
            if let Some(last) = durable.map(|one| one.begin).max() {
                forget(sector, last, self.now);
            }
        }
    }

    /// A flush failed: nothing is promised of what was not durable.
    pub(super) fn flushed_in_vain(&mut self) {
        for change in self.sectors.iter_mut().flatten() {
            change.doubtful = true;
        }
    }

    /// Data is read.
    pub(super) fn read(&self, begun: Begun, data: &[u8]) {
        for (number, bytes) in (begun.sector..).zip(data.chunks(SECTOR)) {
            let found = stamp(bytes, number);
            let sector = &self.sectors[usize::try_from(number).expect("short")];
            let before = |one: &&Change| one.replaces && one.end < begun.begin;
            let last = sector.iter().filter(before).map(|one| one.begin).max();
            let may = |one: &Change| {
                one.stamp == found && one.end >= last.unwrap_or(0) && one.gone > begun.begin
            };
            assert!(
                sector.iter().any(may),
                "sector {number} reads as {found}, of {sector:?}"
            );
        }
    }

    /// What a power cut left. From here on, that is what there is.
    pub(super) fn after_cut(&mut self, data: &[u8]) {
        for (number, bytes) in (0..).zip(data.chunks(SECTOR)) {
            let found = stamp(bytes, number);
            let sector = &mut self.sectors[usize::try_from(number).expect("short")];
            assert!(
                sector
                    .iter()
                    .any(|one| one.stamp == found && one.gone == NOT_YET),
                "sector {number} is {found} after a cut, of {sector:?}"
            );
            *sector = vec![Change {
                request: 0,
                stamp: found,
                begin: 0,
                end: 0,
                replaces: true,
                gone: NOT_YET,
                doubtful: false,
            }];
        }
    }
}
