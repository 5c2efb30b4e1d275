//! Guests in their sandbox, called as the frontends call them, on this machine's own kernel.

use std::time::Instant;

use tests::PATIENCE;
use tests::paths;
use wasmblk::block::{Backend, Claims, Errno, Geometry, Op, Request};
use wasmblk::guest::Calls;
use wasmblk::limits;
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;
use wasmblk::sys::Slots;

use crate::direct::{self, Direct};

#[test]
fn memory_keeps_what_is_written_across_chunks() {
    let mut disk = Direct::open("memory", &[("size", "1M")]).expect("it opens");
    let data: Vec<u8> = (0..200_704_u32).map(|n| (n % 251) as u8).collect();
    disk.write(61_440, &data, false).expect("write");
    let mut back = vec![0xff; data.len()];
    disk.read(61_440, &mut back).expect("read");
    assert!(back == data);
    disk.read(0, &mut back[..4096]).expect("read");
    assert!(back[..4096].iter().all(|&byte| byte == 0), "never written");
    disk.write_zeroes(65_536, 4096, false).expect("zeros");
    disk.read(61_440, &mut back).expect("read");
    assert!(back[4096..8192].iter().all(|&byte| byte == 0), "zeroed");
    assert!(
        back[..4096] == data[..4096] && back[8192..] == data[8192..],
        "the rest stays"
    );
}

#[test]
fn discard_gives_memory_back() {
    // 64 MiB may be had in all; this writes 40 MiB four times over, at different places.
    let mut disk = Direct::open("memory", &[("size", "1G")]).expect("it opens");
    let data = vec![1; 1 << 20];
    for round in 0..4_u64 {
        for n in 0..40 {
            disk.write(((round * 40 + n) * 5) << 20, &data, false)
                .expect("there is room");
        }
        for n in 0..40 {
            disk.discard(((round * 40 + n) * 5) << 20, 1 << 20)
                .expect("discard");
        }
    }
}

#[test]
fn a_full_memory_is_enospc_and_no_failure() {
    let mut disk = Direct::open("memory", &[("size", "1G")]).expect("it opens");
    let data = vec![1; 1 << 20];
    let full = (0..100).find_map(|n| disk.write(n << 20, &data, false).err());
    assert_eq!(full, Some(Errno::ENOSPC));
    assert!(!disk.health.has_failed());
    let mut back = vec![0; 1 << 20];
    disk.read(0, &mut back)
        .expect("what was acknowledged is there");
    assert!(back == data);
}

#[test]
fn a_call_that_does_not_return_ends_at_its_deadline() {
    let spins = [("spin-at", "0")];
    let disk = Direct::open_limited("faulty", &spins, &[], direct::hurried());
    let mut disk = disk.expect("it opens");
    let begin = Instant::now();
    assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::EIO));
    // It ends a tick too early at most.
    let took = begin.elapsed() + limits::CLOCK_TICK;
    assert!(
        took >= direct::SHORT_DEADLINE && took < PATIENCE,
        "{took:?}"
    );
    assert!(
        disk.health
            .reason()
            .is_some_and(|reason| reason.contains("deadline"))
    );
    let is_told_at_once = |_| {
        let begin = Instant::now();
        assert_eq!(disk.read(4096, &mut [0; 512]), Err(Errno::EIO));
        begin.elapsed() < direct::SHORT_DEADLINE / 5
    };
    // The thread may be held up, but not each time.
    assert!((0..5).any(is_told_at_once), "from then on");
}

#[test]
fn memory_without_end_stays_within_the_limit() {
    let options = [("allocate-at", "0")];
    let mut disk = Direct::open("faulty", &options).expect("it opens");
    let resident_pages = || -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("statm");
        statm
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse().ok())
            .expect("a number")
    };
    let before = resident_pages();
    let _ = disk.read(0, &mut [0; 512]);
    let grown_mib = resident_pages().saturating_sub(before) * 4 / 1024;
    assert!(grown_mib <= 128, "{grown_mib} MiB more");
}

#[test]
fn options_are_refused_in_the_guests_words() {
    let error = Direct::open("memory", &[("size", "1Q")])
        .err()
        .expect("it is refused");
    assert!(error.chain().contains("size=1Q"), "{}", error.chain());
}

#[test]
fn what_ordinary_toolchains_import_loads_and_does_nothing() {
    let bytes = std::fs::read(paths::guest("memory-wasip2")).expect("cargo xtask built it");
    let imports = |name: &str| {
        bytes
            .windows(name.len())
            .any(|part| part == name.as_bytes())
    };
    assert!(
        imports("wasi:cli/environment") && imports("wasi:io/streams"),
        "nothing to test"
    );
    let mut disk = Direct::open("memory-wasip2", &[("size", "1M")]).expect("it opens");
    disk.write(4096, &[7; 4096], false).expect("write");
    let mut back = [0; 4096];
    disk.read(4096, &mut back).expect("read");
    assert_eq!(back, [7; 4096]);
}

#[test]
fn null_claims_what_it_is() {
    for name in ["null", "null-device"] {
        let mut disk = Direct::open(name, &[("size", "2G")]).expect("it opens");
        let geometry = disk.geometry;
        assert_eq!(geometry.size_bytes, 2 << 30);
        assert!(!geometry.volatile_cache && geometry.replicated && geometry.trim.is_some());
        disk.write(4096, &[7; 4096], false).expect("write");
        disk.read(0, &mut [0; 4096]).expect("read");
        disk.discard(0, 4096).expect("discard");
    }
}

/// A backend that writes down what it is asked.
#[derive(Default)]
struct Recorder(Vec<String>);

impl Recorder {
    fn note(&mut self, call: String) -> Result<(), Errno> {
        self.0.push(call);
        Ok(())
    }
}

impl Backend for &mut Recorder {
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.note(format!("read {offset} {}", data.len()))
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno> {
        self.note(format!("write {offset} {} {fua}", data.len()))
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.note("flush".into())
    }

    fn discard(&mut self, offset: u64, length: u32) -> Result<(), Errno> {
        self.note(format!("discard {offset} {length}"))
    }

    fn write_zeroes(&mut self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        self.note(format!("zeroes {offset} {length} {may_discard}"))
    }
}

/// What a write with FUA becomes, by what the guest claims.
fn fua_write(claims: &Claims) -> Vec<String> {
    let geometry = Geometry::new(claims).expect("a geometry");
    let request = Request {
        op: Op::Write,
        offset: 512,
        length: 1024,
        fua: true,
        may_discard: true,
    };
    let slots = Slots::new(1, 4096).expect("memory");
    let mut recorder = Recorder::default();
    let mut target = Calls::new(&mut recorder, slots);
    let stats = Stats::default();
    let mut engine = Engine::new(geometry, &mut target, 1, &stats);
    engine.begin(0, request).expect("it fits");
    let mut answers = Vec::new();
    while answers.is_empty() {
        engine.poll(|slot, result| answers.push((slot, result)));
    }
    assert_eq!(answers, [(0, Ok(1024))]);
    recorder.0
}

#[test]
fn fua_is_made_where_the_guest_has_none() {
    let plain = Claims {
        size_bytes: 1 << 20,
        ..Claims::default()
    };
    assert_eq!(fua_write(&plain), ["write 512 1024 false", "flush"]);
    assert_eq!(
        fua_write(&Claims { fua: true, ..plain }),
        ["write 512 1024 true"]
    );
    assert_eq!(
        fua_write(&Claims {
            write_through: true,
            ..plain
        }),
        ["write 512 1024 false"]
    );
}
