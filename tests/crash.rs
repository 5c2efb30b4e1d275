//! Power cuts: random requests, several at a time, and what a cut at any moment leaves of the stores. Whatever it
//! is, the guest opens, and has what was made durable; of the rest, it has what it was or what it became.

mod carrier;
mod medium;
mod oracle;
mod random;
mod rig;

use tests::backing::Backing;

use oracle::{Oracle, fill};
use random::Random;
use rig::{Case, Rig};

#[test]
fn cow_survives_power_cuts() {
    // The overlay has not room for all; the map of the second is of two sectors.
    for (case, cuts) in [
        (
            cow(96 << 10, &[("base", 96 << 10), ("overlay", 100 << 10)]),
            1500,
        ),
        (
            cow(320 << 10, &[("base", 320 << 10), ("overlay", 300 << 10)]),
            500,
        ),
    ] {
        let mut rig = Rig::new(&case);
        let mut base = rig.files[0].content();
        fill(&mut base, 0, 1);
        rig.files[0].write(&base);
        rig.cut_at_random(11, cuts);
    }
}

fn cow(size_bytes: u64, stores: &'static [(&'static str, u64)]) -> Case {
    Case {
        name: "cow",
        options: &[("chunk", "4K")],
        stores,
        size_bytes,
        first_stamp: 1,
        legs: 0,
    }
}

#[test]
fn thin_survives_power_cuts() {
    let case = Case {
        name: "thin",
        options: &[("volume", "1"), ("size", "96K"), ("chunk", "4K")],
        stores: &[("pool", 100 << 10)],
        size_bytes: 96 << 10,
        first_stamp: 0,
        legs: 0,
    };
    Rig::new(&case).cut_at_random(12, 1500);
    // A table of two sectors.
    let case = Case {
        options: &[("volume", "1"), ("size", "320K"), ("chunk", "4K")],
        stores: &[("pool", 500 << 10)],
        size_bytes: 320 << 10,
        ..case
    };
    Rig::new(&case).cut_at_random(13, 500);
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
    Rig::new(&MIRROR).cut_at_random(14, 1500);
}

#[test]
fn mirror_survives_power_cuts_while_legs_fail() {
    let case = Case {
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
    let mut rig = Rig::new(&case);
    rig.legs_fail = true;
    rig.cut_at_random(15, 1500);
}

#[test]
fn a_leg_that_failed_comes_back_with_all_data() {
    let mut rig = Rig::new(&MIRROR);
    let mut random = Random(16);
    let mut oracle = Oracle::new(MIRROR.size_bytes / 512, 0);
    let mut life = rig.open(1);
    for round in 0..6 {
        let failing = round % 2;
        for fails in [true, false] {
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
        life.carrier.media[usize::from(round % 2 == 1)].fails = true;
        let mut data = [0; 4096];
        fill(&mut data, 8 * round % 192, 1000 + round);
        let at = 4096 * round % case.size_bytes;
        rig.write_durable(&mut life, at, &mut data);
        life.cut(&mut random);
        let mut life = rig.open(round);
        let content = rig.content(&mut life);
        let at = usize::try_from(at).expect("short");
        assert!(content[at..at + 4096] == data, "round {round}");
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
