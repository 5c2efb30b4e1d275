//! A guest that breaks and is `restartable`: the next instance takes its place, and nothing is lost.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, fio};
use tests::null_blk;
use tests::uml::Machine;
use wasmblk::backoff::Backoff;
use wasmblk::block::{Backend, Errno};
use wasmblk::limits;

use crate::adversary::text;
use crate::cli::Folder;
use crate::direct::{self, Direct, Prepared};

/// The two stores of the guest `fragile`.
struct Stores(Backing, Backing);

impl Stores {
    fn new() -> Stores {
        Stores(Backing::new("data", 8 << 20), Backing::new("count", 4096))
    }

    fn grants(&self) -> [String; 2] {
        [self.0.grant("data", ""), self.1.grant("count", "")]
    }

    /// Instances that there were.
    fn count(&self) -> u8 {
        self.1.content()[0]
    }
}

#[test]
fn the_next_instance_is_sent_what_has_no_answer() {
    let stores = Stores::new();
    let mut disk = Direct::open_with("fragile", &[], &stores.grants()).expect("it opens");
    disk.write(4096, &[7; 4096], false).expect("write");
    let mut data = [0; 8192];
    disk.read(0, &mut data)
        .expect("the second instance reads it");
    assert_eq!(data[4096..], [7; 4096]);
    let faults = disk.health.faults();
    assert_eq!((faults.traps.count, disk.health.restarts()), (1, 1));
    let last = disk.health.last_fault().unwrap_or_default();
    assert!(last.contains("gave up"), "{last}");
    assert_eq!(disk.health.last_requests(), ["read@0+8192"]);
    assert_eq!(stores.count(), 2);
    disk.write(65536, &[9; 4096], false).expect("write");
    disk.flush().expect("flush");
    assert!(!disk.health.has_failed());
    assert_eq!(stores.0.content()[65536..][..4096], [9; 4096]);
}

#[test]
fn the_next_instance_has_the_memory_of_the_one_before() {
    // Direct gives 64 MiB: not enough for two of them.
    let stores = Stores::new();
    let options = [("panics", "3"), ("memory", "40M")];
    let mut disk = Direct::open_with("fragile", &options, &stores.grants()).expect("it opens");
    disk.read(4096, &mut [0; 512]).expect("the fourth reads it");
    assert_eq!(disk.health.restarts(), 3);
}

#[test]
fn the_arena_of_the_one_before_counts_until_the_next_one_has_it() {
    // Direct has 4 slots: 4 MiB of arena, beside 32 or 56 of the guest's 64 MiB.
    for (memory, restarts) in [("32M", 1), ("56M", 0)] {
        let stores = Stores::new();
        let options = [("transfer", "1M"), ("memory", memory)];
        let mut disk = Direct::open_with("fragile", &options, &stores.grants()).expect("it opens");
        let result = disk.read(4096, &mut [0; 512]);
        assert_eq!(result.is_ok(), restarts == 1, "{memory}: {result:?}");
        assert_eq!(disk.health.restarts(), restarts);
        assert_eq!(disk.health.has_failed(), restarts == 0);
        // Also where there is no next one.
        let guest = disk.guest.clone();
        let used = guest.usage().memory_bytes;
        assert!(used > 4 << 20, "{memory}: {used} bytes");
        drop(disk);
        assert_eq!(guest.usage().memory_bytes, 0, "{memory}");
    }
}

#[test]
fn a_guest_that_keeps_breaking_has_failed() {
    for (options, instances) in [(&[("panics", "100")][..], 6), (&[("restartable", "no")], 1)] {
        let stores = Stores::new();
        let mut disk = Direct::open_with("fragile", options, &stores.grants()).expect("it opens");
        assert_eq!(disk.read(4096, &mut [0; 512]), Err(Errno::EIO));
        assert!(disk.health.has_failed());
        assert_eq!(stores.count(), instances);
        assert_eq!(disk.write(0, &[0; 512], false), Err(Errno::EIO));
    }
}

/// A store `data` that takes nothing at 32 KiB: it tells the next flush, and forgets it.
fn disk_with_a_hole(name: &str) -> String {
    let attributes = [("size", "16"), ("memory_backed", "1")];
    let node = null_blk::make(name, &attributes).expect("a disk");
    null_blk::spoil(name, 64, 71).expect("it is there");
    format!("data={}", node.display())
}

/// Writes what its store will not take, once, and says so in the store's first block.
const LOSE: &str = "(call $load (i32.const 0) (i64.const 0) (i32.const 512) (i32.const 0x1000))
    (if (i32.eqz (i32.load8_u (i32.load (i32.const 0x1004)))) (then
      (call $store (i32.const 0) (i64.const 0) (i32.const 0x2000) (i32.const 4096) (i32.const 0x1000))
      (call $sync (i32.const 0) (i32.const 0x1000))
      (call $store (i32.const 0) (i64.const 32768) (i32.const 0x2000) (i32.const 4096) (i32.const 0x1000))
      {then}))";

/// Breaks with that, and does not open where the store tells of it.
fn told_in_open() -> Vec<u8> {
    let open = "(call $sync (i32.const 0) (i32.const 0x1000))
        (if (i32.load8_u (i32.const 0x1000)) (then
          (i32.store8 (i32.const 0x3000) (i32.const 1)) (i32.store8 (i32.const 0x3008) (i32.const 1))
          (return (i32.const 0x3000))))";
    text::device(&[
        ("open", open.into()),
        ("read", LOSE.replace("{then}", "unreachable")),
        ("flush", "(call $sync (i32.const 0) (i32.const 96))".into()),
        ("data", format!("{RESTARTABLE} {ONE}")),
    ])
}

/// Opens all the same, and breaks.
fn told_in_open_for_nothing() -> Vec<u8> {
    let imports = r#"
        (import "wasmblk:block/store@0.1.0" "read" (func $load (param i32 i64 i32 i32)))
        (import "wasmblk:block/store@0.1.0" "write" (func $store (param i32 i64 i32 i32 i32)))
        (import "wasmblk:block/store@0.1.0" "flush" (func $sync (param i32 i32)))"#;
    let open = "(call $sync (i32.const 0) (i32.const 0x1000))".to_owned();
    text::ring(&[
        ("module", imports.into()),
        ("open", open + &LOSE.replace("{then}", "")),
        ("poll", "(if (local.get $events) (then unreachable))".into()),
        ("data", format!("{RESTARTABLE} {ONE}")),
    ])
}

const RESTARTABLE: &str = r#"(data (i32.const 28) "\20")"#;
const ONE: &str = r#"(data (i32.const 0x2000) "\01")"#;

#[test]
fn what_an_instance_was_told_in_its_open_is_not_forgotten() {
    in_bed(&Machine::default(), || {
        let folder = Folder::new("told");
        for (name, bytes, restarts, opens) in [
            ("told1", told_in_open(), 0, 1),
            ("told2", told_in_open_for_nothing(), 1, 0),
        ] {
            let guest = folder.file("guest.wasm", &bytes);
            let stores = [disk_with_a_hole(name)];
            let guest = Prepared::with_stores(&guest, &stores, direct::limits());
            let mut disk = guest.and_then(|guest| guest.direct()).expect("it opens");
            // The store would tell the next instance that all is well.
            assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::EIO), "{name}");
            assert_eq!(disk.flush(), Err(Errno::EIO), "{name}");
            let reason = disk.health.reason().unwrap_or_default();
            assert!(reason.contains("did not flush"), "{name}: {reason}");
            let failed_opens = disk.health.faults().failed_opens.count;
            let found = (disk.health.restarts(), failed_opens);
            assert_eq!(found, (restarts, opens), "{name}");
        }
    });
}

#[test]
fn who_was_told_what_is_lost_has_no_next_instance() {
    in_bed(&Machine::default(), || {
        let count = Backing::new("count", 4096);
        let stores = [disk_with_a_hole("told"), count.grant("count", "")];
        let mut disk = Direct::open_with("fragile", &[], &stores).expect("it opens");
        disk.write(32 << 10, &[7; 4096], false)
            .expect("the system takes it");
        assert_eq!(disk.flush(), Err(Errno::EIO));
        assert!(!disk.health.has_failed());
        assert_eq!(disk.read(4096, &mut [0; 512]), Err(Errno::EIO));
        let reason = disk.health.reason().unwrap_or_default();
        assert!(reason.contains("did not flush"), "{reason}");
        assert_eq!(disk.health.restarts(), 0);
    });
}

#[test]
fn over_ublk_every_tag_goes_on_with_the_next_instance() {
    in_bed(&Machine::default(), || {
        let stores = Stores::new();
        let grants = stores.grants();
        let words = ["--store", &grants[0], "--store", &grants[1]];
        let disk = Disk::add(
            "fragile",
            &[&words[..], &["--depth", "16", "--set", "panics=3"]].concat(),
        );
        // All tags have been in use, and are idle, when the guest breaks.
        let jobs = ["--rw=randwrite", "--bs=4k", "--size=8m", "--iodepth=16"];
        fio(&disk.path, &jobs);
        let read = |block: u32| {
            let skip = format!("skip={block}");
            let input = format!("if={}", disk.path.display());
            let words = [
                &input[..],
                "of=/dev/null",
                "bs=4k",
                "count=1",
                &skip,
                "iflag=direct",
            ];
            let status = Command::new("dd")
                .args(words)
                .stderr(Stdio::null())
                .status();
            assert!(status.expect("dd runs").success(), "block {block}");
        };
        read(1);
        assert_eq!(
            disk.info("/restarts"),
            "3",
            "the request goes to four instances"
        );
        // Writes of the kernel come into slots that it was told of before.
        let jobs = ["--rw=randrw", "--bs=4k", "--size=8m", "--iodepth=16"];
        fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
        assert_eq!(disk.info("/state"), "live");
        assert_eq!(disk.info("/faults/traps/count"), "3");
        assert!(disk.info("/last_fault").contains("gave up"));
        assert_eq!(disk.info("/stats/copied_bytes"), "0");
        disk.del();
        assert_eq!(stores.count(), 4);
    });
}

#[test]
fn over_ublk_it_breaks_with_much_under_way() {
    in_bed(&Machine::default(), || {
        let stores = Stores::new();
        let grants = stores.grants();
        let words = [
            "--store", &grants[0], "--store", &grants[1], "--set", "panics=2",
        ];
        let disk = Disk::add("fragile", &words);
        // Every block is written and read back beside others, the one that breaks it among them.
        let jobs = [
            "--rw=randrw",
            "--bs=4k",
            "--size=1m",
            "--iodepth=64",
            "--loops=4",
        ];
        fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
        assert_eq!(disk.info("/state"), "live");
        assert_eq!(disk.info("/restarts"), "2");
        disk.del();
    });
}

/// Also what lived for long before, and cannot begin any more: that it did counts once.
#[test]
fn what_ends_too_often_does_not_begin_again() {
    let (begin, delay) = (Instant::now(), Duration::from_millis(50));
    let mut backoff = Backoff::new(begin);
    let mut now = begin + limits::RESTART_CALM_TIME * 3;
    let mut waits = Vec::new();
    while let Some(wait) = backoff.ended(now, 4, delay) {
        waits.push(wait.as_millis());
        now += wait;
        assert!(waits.len() < 9, "it never ends");
    }
    assert_eq!(waits, [0, 50, 100, 200]);
    // Nothing for a while, and all is as at first.
    backoff.begun(now);
    now += limits::RESTART_CALM_TIME * 2;
    assert_eq!(backoff.ended(now, 4, delay), Some(Duration::ZERO));
}
