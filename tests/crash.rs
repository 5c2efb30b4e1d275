//! Power cuts: random requests, several at a time, and what a cut at any moment leaves of the stores. Whatever it
//! is, the guest opens, and has what was made durable; of the rest, it has what it was or what it became.

mod carrier;
mod medium;
mod oracle;
mod random;
mod rig;
mod stream;
mod watcher;

use std::thread;
use std::time::Duration;

use tests::backing::Backing;
use wasmblk::block::{Errno, Op};

use oracle::{Oracle, fill};
use random::Random;
use rig::{Case, Life, Rig, send};
use watcher::Watcher;

/// A guest with its stores, whose base, where it has one, is filled.
fn rig(case: &Case, stores_fail: bool) -> Rig {
    let mut rig = Rig::new(case);
    if case.first_stamp != 0 {
        let mut base = rig.files[0].content();
        fill(&mut base, 0, case.first_stamp);
        rig.files[0].write(&base);
    }
    rig.stores_fail = stores_fail;
    rig
}

/// Cuts the power of some guests, with stores that work, and with stores that fail now and then.
fn cut(cases: &[(Case, u32)], stores_fail: bool) {
    for (case, cuts) in cases {
        rig(case, stores_fail).cut_at_random(11 + u64::from(*cuts), *cuts);
    }
}

/// The same while several requests are always under way.
fn cut_streams(case: &Case, cuts: u32) {
    for stores_fail in [false, true] {
        rig(case, stores_fail).cut_streams(23, cuts);
    }
}

const COW: Case = Case {
    name: "cow",
    options: &[("chunk", "4K")],
    // There is not room for all.
    stores: &[("base", 96 << 10), ("overlay", 100 << 10)],
    size_bytes: 96 << 10,
    first_stamp: 1,
    legs: 0,
};

/// With a map of two sectors.
const LONG_COW: Case = Case {
    stores: &[("base", 320 << 10), ("overlay", 300 << 10)],
    size_bytes: 320 << 10,
    ..COW
};

#[test]
fn cow_survives_power_cuts() {
    cut(&[(COW, 1500), (LONG_COW, 500)], false);
}

#[test]
fn cow_survives_power_cuts_while_stores_fail() {
    cut(&[(COW, 500), (LONG_COW, 250)], true);
}

/// With room for half of it: what a chunk gives up, the next one takes at once.
const CROWDED_COW: Case = Case {
    stores: &[("base", 64 << 10), ("overlay", 44 << 10)],
    size_bytes: 64 << 10,
    ..COW
};

#[test]
fn cow_keeps_requests_apart_through_power_cuts() {
    cut_streams(&CROWDED_COW, 400);
    cut_streams(&LONG_COW, 150);
}

const THIN: Case = Case {
    name: "thin",
    options: &[("volume", "1"), ("size", "96K"), ("chunk", "4K")],
    stores: &[("pool", 100 << 10)],
    size_bytes: 96 << 10,
    first_stamp: 0,
    legs: 0,
};

/// With a table of two sectors.
const LONG_THIN: Case = Case {
    options: &[("volume", "1"), ("size", "320K"), ("chunk", "4K")],
    stores: &[("pool", 500 << 10)],
    size_bytes: 320 << 10,
    ..THIN
};

#[test]
fn thin_survives_power_cuts() {
    cut(&[(THIN, 1500), (LONG_THIN, 500)], false);
}

#[test]
fn thin_survives_power_cuts_while_stores_fail() {
    cut(&[(THIN, 500), (LONG_THIN, 250)], true);
}

/// With room for half of it.
const CROWDED_THIN: Case = Case {
    options: &[("volume", "1"), ("size", "64K"), ("chunk", "4K")],
    stores: &[("pool", 44 << 10)],
    size_bytes: 64 << 10,
    ..THIN
};

#[test]
fn thin_keeps_requests_apart_through_power_cuts() {
    cut_streams(&CROWDED_THIN, 400);
    cut_streams(&LONG_THIN, 150);
}

/// Numbers in a sector of the pool's table.
const PLACES: u64 = 63;

#[test]
fn a_chunk_that_is_written_again_has_one_place() {
    let mut rig = Rig::new(&LONG_THIN);
    let mut random = Random(31);
    let mut oracle = Oracle::new(LONG_THIN.size_bytes / 512, 0);
    let mut life = rig.open(1);
    let mut cuts = 0;
    let flush = (Op::Flush, (0, 0));
    // All places of one sector of the table are taken: any other place would be in the next one, and a cut can
    // leave the one without the other.
    let mut rounds = vec![vec![(Op::Write, (0, 8 * PLACES))], vec![flush]];
    for chunk in 0..24 {
        let range = (8 * chunk, 8);
        rounds.push(vec![(Op::Discard, range)]);
        rounds.push(vec![(Op::Write, range)]);
        rounds.push(vec![flush]);
    }
    for round in rounds {
        let ask = |(op, range)| rig.ask(op, range, &mut random);
        let mut asked: Vec<_> = round.into_iter().map(ask).collect();
        let mut watcher = Watcher {
            rig: &mut rig,
            oracle: &mut oracle,
            random: &mut random,
            begun: Vec::new(),
            cuts: Some((&mut cuts, 1)),
        };
        send(&mut life, &mut watcher, &mut asked);
    }
}

/// Where the data of a leg begins.
const LEG_DATA: usize = 64 << 10;

const MIRROR: Case = Case {
    name: "mirror",
    options: &[
        ("legs", "a,b"),
        ("region", "8K"),
        ("rate", "1G"),
        ("calm-ms", "1"),
        ("retry-ms", "1"),
    ],
    stores: &[("a", 160 << 10), ("b", 160 << 10)],
    size_bytes: 96 << 10,
    first_stamp: 0,
    legs: 2,
};

#[test]
fn mirror_survives_power_cuts() {
    cut(&[(MIRROR, 1500)], false);
}

#[test]
fn mirror_keeps_requests_apart_through_power_cuts() {
    cut_streams(&MIRROR, 300);
}

#[test]
fn mirror_survives_power_cuts_while_legs_fail() {
    let three = Case {
        options: &[
            ("legs", "a,b,c"),
            ("region", "4K"),
            ("rate", "1G"),
            ("calm-ms", "1"),
            ("retry-ms", "1"),
        ],
        stores: &[("a", 160 << 10), ("b", 160 << 10), ("c", 160 << 10)],
        legs: 3,
        ..MIRROR
    };
    cut(&[(MIRROR, 750), (three, 1500)], true);
}

#[test]
fn a_leg_that_failed_comes_back_with_all_data() {
    let mut rig = Rig::new(&MIRROR);
    let mut random = Random(16);
    let mut oracle = Oracle::new(MIRROR.size_bytes / 512, 0);
    let mut life = rig.open(1);
    for round in 0..6 {
        let failing = round % 2;
        for fails in [1, 0] {
            life.carrier.media[failing].fails = fails;
            for _ in 0..40 {
                // What fails is a panic here: the other leg has all data.
                rig.batch(&mut life, &mut oracle, &mut random, None);
            }
        }
        rig.wait_until_equal(&mut life);
    }
    rig.look(&mut life, &mut oracle);
}

#[test]
fn a_write_is_answered_when_the_other_leg_knows_who_lacks_it() {
    let case = Case {
        options: &[
            ("legs", "a,b"),
            ("region", "8K"),
            ("rate", "1G"),
            ("calm-ms", "1000000"),
            ("retry-ms", "0"),
        ],
        ..MIRROR
    };
    let rig = Rig::new(&case);
    let mut random = Random(17);
    for round in 0..40 {
        let mut life = rig.open(round);
        // Until nothing goes on in the background; and all regions are known as dirty: a write needs no record
        // for that.
        for _ in 0..100 {
            rig.content(&mut life);
        }
        life.carrier.media[usize::from(round % 2 == 1)].fails = 1;
        let mut data = [0; 4096];
        fill(&mut data, 8 * round % 192, 1000 + round);
        let at = 4096 * round % case.size_bytes;
        rig.write(&mut life, (at, true), &mut data);
        life.cut(&mut random);
        let mut life = rig.open(round);
        let content = rig.content(&mut life);
        let at = usize::try_from(at).expect("short");
        assert!(content[at..at + 4096] == data, "round {round}");
    }
}

#[test]
fn a_mirror_tells_what_a_flush_of_its_own_lost() {
    let mut random = Random(18);
    for round in 0..20 {
        let rig = Rig::new(&MIRROR);
        let mut life = rig.open(round);
        rig.wait_until_equal(&mut life);
        let mut data = [0; 4096];
        fill(&mut data, 0, 1 + round);
        rig.write(&mut life, (0, false), &mut data);
        let failed = |life: &Life| -> u64 {
            let media = &life.carrier.media;
            media.iter().map(|medium| medium.failed_flushes).sum()
        };
        set_flushes_in_vain(&mut life, true);
        while failed(&life) < 2 {
            // It flushes when nobody has written for a while.
            rig.content(&mut life);
            thread::sleep(Duration::from_millis(1));
        }
        rig.content(&mut life);
        set_flushes_in_vain(&mut life, false);
        let flushed = rig.flush(&mut life);
        life.cut(&mut random);
        let mut life = rig.open(round);
        let kept = rig.content(&mut life)[..4096] == data;
        assert!(kept || flushed == Err(Errno::EIO), "round {round}");
    }
}

fn set_flushes_in_vain(life: &mut Life, vain: bool) {
    for medium in &mut life.carrier.media {
        medium.flushes_in_vain = vain;
    }
}

/// A file's content, replaced.
trait Write {
    fn write(&self, content: &[u8]);
}

impl Write for Backing {
    fn write(&self, content: &[u8]) {
        use std::os::unix::fs::FileExt;
        self.file().write_all_at(content, 0).expect("it is written");
    }
}
