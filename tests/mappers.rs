//! Guests that map: each makes the same disk as a plain array, and says what is wrong with options and stores.

mod kept;
mod large;
mod legs;
mod scattered;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, proptest};
use tests::backing::Backing;
use wasmblk::block::{Backend, Errno};

use crate::direct::Direct;
use crate::model::{BLOCKS, Step, run_all, size, step};

/// A guest with what it needs for a disk of as many blocks as the model has.
struct Case {
    name: &'static str,
    options: &'static [(&'static str, &'static str)],
    /// Names and sizes.
    stores: &'static [(&'static str, u64)],
}

const CASES: &[Case] = &[
    Case {
        name: "linear",
        options: &[("map", "a,4K,20K"), ("map", "b"), ("map", "a,32K,76K")],
        stores: &[("a", 128 << 10), ("b", 32 << 10)],
    },
    Case {
        name: "stripe",
        options: &[("stores", "a,b"), ("chunk", "4K")],
        stores: &[("a", 64 << 10), ("b", (64 << 10) + 700)],
    },
    Case {
        name: "mirror",
        options: &[("legs", "a,b"), ("region", "16K"), ("calm-ms", "1")],
        stores: &[("a", 192 << 10), ("b", 193 << 10)],
    },
    Case {
        name: "cow",
        options: &[("chunk", "4K")],
        stores: &[("base", (128 << 10) + 100), ("overlay", 200 << 10)],
    },
    Case {
        name: "thin",
        options: &[("volume", "3"), ("size", "128K"), ("chunk", "8K")],
        stores: &[("pool", 160 << 10)],
    },
];

/// The stores of a case, as files and as words.
fn stores_of(case: &Case) -> (Vec<Backing>, Vec<String>) {
    let made = case.stores.iter().map(|(name, bytes)| {
        let backing = Backing::in_memory(name, *bytes);
        let grant = backing.grant(name, "");
        (backing, grant)
    });
    made.unzip()
}

fn open(name: &str, options: &[(&str, &str)], grants: &[String]) -> Direct {
    Direct::open_with(name, options, grants).unwrap_or_else(|why| panic!("{name}: {}", why.chain()))
}

/// A disk of which a discard need not make zeros.
struct Discards(Direct);

impl Backend for Discards {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0.read(offset, data)
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        self.0.write(offset, data, fua)
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.0.flush()
    }

    fn discard(&mut self, offset: u64, length: u32) -> Result<(), Errno> {
        let mut before = vec![1; length as usize];
        let mut after = before.clone();
        self.0.read(offset, &mut before)?;
        self.0.discard(offset, length)?;
        self.0.read(offset, &mut after)?;
        for (old, new) in before.chunks(512).zip(after.chunks(512)) {
            assert!(new == old || new == [0; 512], "old content, or zeros");
        }
        self.0.write_zeroes(offset, length, true)
    }

    fn write_zeroes(&mut self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        self.0.write_zeroes(offset, length, may_discard)
    }
}

/// One disk is used for all steps; half of the way it is closed and opened again.
fn check(case: &Case, steps: &[Step]) {
    let (_files, grants) = stores_of(case);
    let mut disk = Discards(open(case.name, case.options, &grants));
    assert_eq!(disk.0.geometry.size_bytes, BLOCKS * 512, "{}", case.name);
    run_all(&mut disk, steps);
    let mut content = vec![0; size(BLOCKS)];
    disk.read(0, &mut content).expect("read");
    disk.flush().expect("flush");
    drop(disk);
    let mut disk = Discards(open(case.name, case.options, &grants));
    let mut again = vec![0; size(BLOCKS)];
    disk.read(0, &mut again).expect("read");
    assert!(content == again, "{}: another content", case.name);
    run_all(&mut disk, steps);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn mappers_make_the_disks_that_they_say(steps in vec(step(), 1..60)) {
        for case in CASES {
            check(case, &steps);
        }
    }
}

#[test]
fn data_lies_where_the_options_say() {
    let (a, b) = (Backing::new("a", 1 << 20), Backing::new("b", 1 << 20));
    let grants = [a.grant("a", ""), b.grant("b", "")];
    let data: Vec<u8> = (0..=250).cycle().take(16 << 10).collect();
    let mut disk = open("linear", &[("map", "b,8K,8K"), ("map", "a,512")], &grants);
    assert_eq!(disk.geometry.size_bytes, (8 << 10) + (1 << 20) - 512);
    disk.write(4 << 10, &data[..8 << 10], true).expect("write");
    assert!(b.content()[12 << 10..][..4 << 10] == data[..4 << 10]);
    assert!(a.content()[512..][..4 << 10] == data[4 << 10..8 << 10]);
    drop(disk);
    let mut disk = open("stripe", &[("stores", "b,a"), ("chunk", "4K")], &grants);
    disk.write(0, &data, false).expect("write");
    for (place, store) in [&b, &a, &b, &a].into_iter().enumerate() {
        let at = place / 2 * (4 << 10);
        let part = &data[place * (4 << 10)..][..4 << 10];
        assert!(store.content()[at..][..4 << 10] == *part, "{place}");
    }
    // On each store a range of many stripes is one piece.
    disk.discard(6 << 10, 7 << 10).expect("discard");
    let mut back = vec![1; data.len()];
    disk.read(0, &mut back).expect("read");
    assert!(back[..6 << 10] == data[..6 << 10] && back[13 << 10..] == data[13 << 10..]);
    assert!(back[6 << 10..13 << 10].iter().all(|byte| *byte == 0));
}

/// What a guest says of options or stores that are wrong.
fn refusals(name: &str, grants: &[String], wrong: &[(&[(&str, &str)], &str)]) {
    for (options, says) in wrong {
        let opened = Direct::open_with(name, options, grants).err();
        let chain = opened
            .unwrap_or_else(|| panic!("{name} takes {options:?}"))
            .chain();
        assert!(chain.contains(says), "{name} {options:?}: {chain}");
    }
}

#[test]
fn linear_and_stripe_refuse_with_the_remedy() {
    let (a, b) = (Backing::new("a", 1 << 20), Backing::new("b", 1 << 20));
    let grants = [a.grant("a", ""), b.grant("b", ":ro")];
    refusals(
        "linear",
        &grants,
        &[
            (&[("size", "1G")], "linear knows: map, block"),
            (&[], "give --store data=PATH"),
            (&[("map", "c")], "give --store c=PATH"),
            (&[("map", "a,0,1M,1")], "expected STORE[,OFFSET[,LENGTH]]"),
            (&[("map", "a,x")], "expected a number of bytes"),
            (&[("map", "a,100")], "multiples of 512"),
            (&[("map", "a,1M")], "it must lie inside"),
            (&[("map", "a,0,2M")], "it must lie inside"),
            (&[("map", "a,0,64K"), ("map", "a,32K")], "overlap"),
            (&[("map", "a"), ("block", "1000")], "expected 512, 1K"),
        ],
    );
    refusals(
        "stripe",
        &grants,
        &[
            (&[("map", "a")], "stripe knows: stores, chunk, block"),
            (&[], "give --set stores=A,B"),
            (&[("stores", "a,c")], "give --store c=PATH"),
            (&[("stores", "a,b,a")], "named twice"),
            (&[("stores", "a,b"), ("chunk", "5K")], "a power of two"),
            (
                &[("stores", "a,b"), ("chunk", "2M")],
                "give a smaller chunk",
            ),
        ],
    );
    let mut disk = open("stripe", &[("stores", "a,b")], &grants);
    assert!(disk.geometry.read_only, "as one of its stores is");
    assert_eq!(disk.write(0, &[1; 512], false), Err(Errno::EROFS));
}
