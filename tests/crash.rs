//! Power cuts: random requests, several at a time, and what a cut at any moment leaves of the stores. Whatever it
//! is, the guest opens, and has what was made durable; of the rest, it has what it was or what it became.

mod carrier;
mod medium;
mod oracle;
mod random;
mod rig;

use tests::backing::Backing;

use oracle::fill;
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
