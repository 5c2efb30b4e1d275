//! The contract `ring`: its bytes, and guests that break it.

use std::time::{Duration, Instant};

use tests::bed::in_bed;
use tests::disk::{Disk, fio};
use tests::uml::Machine;
use wasmblk::block::{Backend, Errno, Op, Request};
use wasmblk::guest::records::{Action, NoAction, Record, action, request_event, timer_event};

use crate::direct::Direct;

/// A record as it stands in memory.
fn bytes(record: Record) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (chunk, word) in bytes.chunks_mut(8).zip(record) {
        chunk.copy_from_slice(&u64::from_le(word).to_le_bytes());
    }
    bytes
}

fn words(bytes: &[u8; 32]) -> Record {
    let mut words = bytes.chunks(8).map(|chunk| {
        let chunk = chunk.try_into().expect("8 bytes");
        u64::from_le_bytes(chunk).to_le()
    });
    std::array::from_fn(|_| words.next().expect("4 words"))
}

#[test]
fn events_as_the_wit_has_them() {
    let request = Request {
        op: Op::WriteZeroes,
        offset: 0x0102_0304_0506_0708,
        length: 0x1112_1314,
        fua: true,
        may_discard: true,
    };
    #[rustfmt::skip]
    let record = [
        4, 0, 0, 0,                 // write-zeroes
        0x24, 0x23, 0, 0,           // the tag
        8, 7, 6, 5, 4, 3, 2, 1,     // where
        0x14, 0x13, 0x12, 0x11,     // how long
        3, 0, 0, 0,                 // FUA, may-discard
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes(request_event(0x2324, &request)), record);
    for (kind, op) in [
        (0, Op::Read),
        (1, Op::Write),
        (2, Op::Flush),
        (3, Op::Discard),
    ] {
        let record = bytes(request_event(7, &Request { op, ..request }));
        assert_eq!(record[..8], [kind, 0, 0, 0, 7, 0, 0, 0], "{op:?}");
    }
    let mut timer = [0; 32];
    timer[0] = 16;
    timer[4] = 9;
    assert_eq!(bytes(timer_event(9)), timer);
}

#[test]
fn actions_as_the_wit_has_them() {
    let mut record = [0; 32];
    record[4] = 5;
    let done = Action::Complete {
        tag: 5,
        result: Ok(()),
    };
    assert_eq!(action(&words(&record)), Ok(done));
    for (status, errno) in [
        (1, Errno::EIO),
        (2, Errno::ENOSPC),
        (3, Errno::EINVAL),
        (4, Errno::EOPNOTSUPP),
        (5, Errno::EROFS),
        (6, Errno::ETIMEDOUT),
        (7, Errno::ENODATA),
        (8, Errno::EILSEQ),
    ] {
        record[16] = status;
        let result = Err(errno);
        assert_eq!(
            action(&words(&record)),
            Ok(Action::Complete { tag: 5, result })
        );
    }
    record[16] = 9;
    assert_eq!(action(&words(&record)), Err(NoAction::Status(9)));
    #[rustfmt::skip]
    let timer = [
        16, 0, 0, 0,                // a timer
        3, 0, 0, 0,                 // its token
        1, 2, 0, 0, 0, 0, 0, 0,     // after 513 ms
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let expected = Action::Timer {
        token: 3,
        after_ms: 513,
    };
    assert_eq!(action(&words(&timer)), Ok(expected));
    for kind in [9, 15, 17, 255] {
        let mut record = [0; 32];
        record[0] = kind;
        assert_eq!(action(&words(&record)), Err(NoAction::Kind(kind.into())));
    }
}

#[test]
fn requests_that_wait_one_after_the_other_are_no_failure() {
    // Longer than the deadline in all, and each for a moment.
    let mut disk = Direct::open("rogue", &[("lie", "late")]).expect("it opens");
    for _ in 0..15 {
        disk.read(0, &mut [1; 512]).expect("read");
    }
    let mut disk = Direct::open("slow", &[("size", "1M"), ("delay-ms", "20")]).expect("it opens");
    for n in 0..20 {
        disk.write(n * 512, &[7; 512], false).expect("write");
    }
    let mut data = [0; 512 * 20];
    disk.read(0, &mut data).expect("read");
    assert_eq!(data, [7; 512 * 20]);
    disk.flush().expect("flush");
    assert!(!disk.health.has_failed());
}

#[test]
fn requests_wait_beside_each_other() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("slow", &["--set", "size=32M", "--set", "delay-ms=200"]);
        let begin = Instant::now();
        // 400 requests of 200 ms each, and more at a time than the guest has timers.
        let jobs = [
            "--rw=randwrite",
            "--bs=4k",
            "--size=32m",
            "--number_ios=400",
        ];
        fio(&disk.path, &[&jobs[..], &["--iodepth=100"]].concat());
        assert!(begin.elapsed() < Duration::from_secs(40), "not one by one");
        assert_eq!(disk.info("/state"), "live");
        disk.del();
    });
}

#[test]
fn a_guest_in_c_is_a_disk() {
    let mut disk = Direct::open("memory-c", &[("size", "8M")]).expect("it opens");
    assert_eq!(disk.geometry.size_bytes, 8 << 20);
    let data: Vec<u8> = (0..=250).cycle().take(300 << 10).collect();
    disk.write(4096, &data, false).expect("write");
    let mut back = vec![1; data.len()];
    disk.read(4096, &mut back).expect("read");
    assert!(back == data);
    disk.write_zeroes(8192, 4096, true).expect("write-zeroes");
    disk.read(8192, &mut back[..4096]).expect("read");
    assert_eq!(back[..4096], [0; 4096]);
    disk.flush().expect("flush");
    for (value, says) in [
        ("1Q", "such as 64M"),
        ("3G", "more memory"),
        // 2^64 bytes and 1 GiB.
        ("17179869185G", "such as 64M"),
    ] {
        let error = Direct::open("memory-c", &[("size", value)]).err();
        let chain = error.expect("it is refused").chain();
        assert!(chain.contains(says), "{value}: {chain}");
    }
}

#[test]
fn over_ublk_the_host_copies_nothing() {
    in_bed(&Machine::default(), || {
        for (guest, copies) in [("memory", false), ("memory-device", true)] {
            let disk = Disk::add(guest, &["--set", "size=32M"]);
            let contract = disk.info("/contract");
            assert_eq!(contract, if copies { "device" } else { "ring" });
            let jobs = ["--rw=randrw", "--bs=4k", "--size=32m", "--iodepth=32"];
            fio(&disk.path, &[&jobs[..], &["--verify=crc32c"]].concat());
            let copied: u64 = disk.info("/stats/copied_bytes").parse().expect("a number");
            let moved: u64 = disk.info("/stats/written_bytes").parse().expect("a number");
            assert!(moved >= 16 << 20, "{moved} bytes were written");
            assert_eq!(copied > 0, copies, "{guest} copied {copied} bytes");
            disk.del();
        }
    });
}
