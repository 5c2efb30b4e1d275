//! Guests that break the contract `ring`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::Disk;
use tests::uml::Machine;
use wasmblk::block::{Backend, Errno};

use crate::direct::{self, Direct};

#[test]
fn a_lie_in_open_is_an_error_that_names_it() {
    for (lie, says) in [
        ("no-lend", "lent no memory"),
        ("lend-nothing", "page"),
        ("lend-unaligned", "page"),
        ("lend-twice", "twice"),
        ("version", "version 2"),
        ("events-beyond", "multiples of 8"),
        ("events-max", "multiples of 8"),
        ("events-odd", "multiples of 8"),
        ("actions-beyond", "multiples of 8"),
        ("actions-odd", "multiples of 8"),
        ("actions-none", "actions-max"),
        ("actions-many", "actions-max"),
        ("ops-many", "ops-max"),
        ("slots-beyond", "slots"),
        ("slots-max", "slots"),
        ("slots-odd", "slots"),
        ("stride-short", "slots"),
        ("stride-none", "slots"),
        ("stride-max", "slots"),
        ("open-trap", "gave up"),
    ] {
        let error = Direct::open("rogue", &[("lie", lie)]).err();
        let chain = error.unwrap_or_else(|| panic!("{lie} is taken")).chain();
        assert!(chain.contains(says), "{lie}: {chain}");
    }
}

#[test]
fn a_lie_in_poll_is_the_end_of_the_guest() {
    for (lie, says) in [
        ("twice", "does not have"),
        ("another-tag", "does not have"),
        ("tag-beyond", "does not have"),
        ("tag-max", "does not have"),
        ("kind", "no action"),
        ("store-kind", "its own memory"),
        ("status", "no action"),
        ("status-max", "no action"),
        ("never", "waits for nothing"),
        ("token-beyond", "token"),
        ("token-twice", "token"),
        ("count", "actions"),
        ("count-max", "actions"),
        ("lend-again", "only ring.open"),
        ("trap", "gave up"),
        ("spin", "deadline"),
        ("timers-only", "longer than its deadline"),
        ("long-timer", "longer than its deadline"),
        ("more-only", "longer than its deadline"),
    ] {
        let limits = if says.contains("deadline") {
            direct::hurried()
        } else {
            direct::limits()
        };
        let disk = Direct::open_limited("rogue", &[("lie", lie)], &[], limits);
        let mut disk = disk.expect("it opens");
        let begin = Instant::now();
        // Twice the right answer may come through before the wrong one is seen.
        let first = disk.read(0, &mut [1; 512]);
        assert!(
            first == Err(Errno::EIO) || lie == "twice",
            "{lie}: {first:?}"
        );
        assert!(begin.elapsed() < PATIENCE, "{lie}");
        let reason = disk.health.reason().unwrap_or_default();
        assert!(reason.contains(says), "{lie}: {reason}");
        let faults = disk.health.faults();
        let counted = match says {
            "gave up" => faults.traps,
            _ if says.contains("deadline") => faults.deadlines,
            _ => faults.breaches,
        };
        assert_eq!((faults.total, counted.count), (1, 1), "{lie}");
        assert_eq!(counted.last_reason, Some(reason), "{lie}");
        assert_eq!(disk.read(4096, &mut [1; 512]), Err(Errno::EIO), "{lie}");
    }
}

#[test]
fn a_lie_about_a_transfer_is_the_end_of_the_guest() {
    let backing = Backing::new("lies", 1 << 20);
    let in_arena = [
        ("store-number", "store 9"),
        ("arena-beyond", "not in its arena"),
        ("arena-end", "not in its arena"),
        ("arena-max", "not in its arena"),
        ("length-max", "not in its arena"),
        ("own-slots", "its own memory"),
        ("transfer-twice", "token"),
    ];
    let with_host = [
        ("not-filled", "has not filled"),
        ("half-filled", "has not filled"),
        ("same-half-twice", "has not filled"),
        ("fill-beyond", "not in the data"),
        ("fill-max", "not in the data"),
        ("fill-of-nothing", "not in the data"),
        ("fill-another", "not in the data"),
        (
            "read-the-data",
            "would change the data of a write, or take that of a read",
        ),
        (
            "write-the-data",
            "would change the data of a write, or take that of a read",
        ),
        ("copy-beyond", "not in its arena"),
        ("copy-max", "not in its arena"),
        ("done-while-filling", "under way"),
        ("answer-half", "not of all"),
        ("answer-end", "not of all"),
        ("answer-arena", "not of all"),
        ("answer-beyond", "not in the data"),
        ("answer-another", "not in the data"),
        ("answer-under-way", "under way"),
    ];
    let cases = in_arena.map(|(lie, says)| (lie, "arena", says));
    for (lie, data, says) in cases
        .into_iter()
        .chain(with_host.map(|(lie, says)| (lie, "host", says)))
    {
        let options = [("lie", lie), ("data", data)];
        let grants = [backing.grant("data", "")];
        let mut disk = Direct::open_with("rogue", &options, &grants).expect("it opens");
        assert_eq!(disk.read(0, &mut [1; 4096]), Err(Errno::EIO), "{lie}");
        let reason = disk.health.reason().unwrap_or_default();
        assert!(reason.contains(says), "{lie}: {reason}");
    }
    assert!(
        backing.content().iter().all(|byte| *byte == 0),
        "nothing was written"
    );
}

/// The request is the store's: what the guest does with it afterwards ends the guest, not the request.
#[test]
fn what_a_transfer_answers_is_the_guests_no_more() {
    let backing = Backing::new("answers", 1 << 20);
    let content = vec![0x5a; 1 << 20];
    std::fs::write(backing.path(), &content).expect("the backing file");
    for (lie, says) in [
        ("answer-twice", "not in the data"),
        ("answer-complete", "does not have"),
        ("answer-fill", "not in the data"),
    ] {
        let options = [("lie", lie), ("data", "host")];
        let grants = [backing.grant("data", "")];
        let mut disk = Direct::open_with("rogue", &options, &grants).expect("it opens");
        let mut data = [1; 4096];
        assert_eq!(disk.read(0, &mut data), Ok(()), "{lie}");
        assert_eq!(data, content[..4096], "{lie}");
        let reason = disk.health.reason().unwrap_or_default();
        assert!(reason.contains(says), "{lie}: {reason}");
        assert_eq!(disk.read(0, &mut data), Err(Errno::EIO), "{lie}");
    }
}

#[test]
fn a_transfer_that_cannot_be_is_an_errno() {
    let backing = Backing::new("errno", 1 << 20);
    for (lie, data, how, answer) in [
        ("store", "arena", "", Ok(())),
        ("store-beyond", "arena", "", Err(Errno::EINVAL)),
        ("store-end", "arena", "", Err(Errno::EINVAL)),
        ("store-empty", "arena", "", Err(Errno::EINVAL)),
        ("store-write", "arena", ":ro", Err(Errno::EROFS)),
        ("store-flush", "arena", "", Ok(())),
        // It reads over its own events and actions: those are its own.
        ("over-records", "arena", "", Ok(())),
        ("odd-fill", "host", "", Err(Errno::EINVAL)),
        ("answer", "host", "", Ok(())),
        ("answer", "host", ":ro", Ok(())),
        ("answer-store-end", "host", "", Err(Errno::EINVAL)),
        ("", "host", "", Ok(())),
    ] {
        let options = [("lie", lie), ("data", data)];
        let grants = [backing.grant("data", how)];
        let mut disk = Direct::open_with("rogue", &options, &grants).expect("it opens");
        assert_eq!(disk.read(0, &mut [1; 4096]), answer, "{lie}");
        assert!(
            !disk.health.has_failed(),
            "{lie}: {:?}",
            disk.health.reason()
        );
    }
}

#[test]
fn what_looks_odd_and_is_allowed() {
    for lie in [
        "",
        "late",
        "grow",
        "scribble",
        "timer-for-ever",
        "more-always",
    ] {
        let mut disk = Direct::open("rogue", &[("lie", lie)]).expect("it opens");
        let begin = Instant::now();
        let mut data = [1; 4096];
        disk.read(0, &mut data).expect("read");
        if lie == "late" {
            assert!(begin.elapsed() >= Duration::from_millis(50), "a timer");
        }
        if lie != "scribble" {
            assert_eq!(data, [0; 4096], "{lie}");
        }
        disk.write(4096, &[7; 4096], false).expect("write");
        disk.flush().expect("flush");
        assert!(!disk.health.has_failed(), "{lie}");
    }
}

#[test]
fn a_trap_with_requests_under_way_answers_them_all() {
    in_bed(&Machine::default(), || {
        for lie in ["trap", "twice", "never", "spin", "grow", "more-always"] {
            let words = format!("lie={lie}");
            // Who is not to reach it does not, on a machine that stands still for a moment either.
            let deadline = if lie == "spin" { "1" } else { "30" };
            let disk = Disk::add("rogue", &["--set", &words, "--deadline", deadline]);
            // Reads and writes at once, deep: whatever becomes of them, each has an end.
            let file = format!("--filename={}", disk.path.display());
            let _ = Command::new("fio")
                .args(["--name=test", &file, "--direct=1", "--ioengine=io_uring"])
                .args([
                    "--rw=randrw",
                    "--bs=4k",
                    "--size=4m",
                    "--iodepth=64",
                    "--thread",
                ])
                .args(["--continue_on_error=all", "--max_latency=0"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("fio runs");
            let state = disk.info("/state");
            let fine = ["grow", "more-always"].contains(&lie);
            assert_eq!(state, if fine { "live" } else { "failed" }, "{lie}");
            disk.del();
        }
    });
}

#[test]
fn a_trap_with_transfers_under_way_answers_them_all() {
    in_bed(&Machine::default(), || {
        for (lie, data, how) in [
            ("trap-under-way", "arena", ""),
            ("trap-under-way", "arena", ":direct"),
            ("trap-under-way", "host", ":direct"),
            ("answer-trap", "host", ":direct"),
        ] {
            let backing = Backing::new("trap", 8 << 20);
            let (grant, data) = (backing.grant("data", how), format!("data={data}"));
            let lie = format!("lie={lie}");
            let words = ["--store", &grant, "--set", &lie, "--set", &data];
            let disk = Disk::add("rogue", &words);
            let file = format!("--filename={}", disk.path.display());
            let _ = Command::new("fio")
                .args(["--name=test", &file, "--direct=1", "--ioengine=io_uring"])
                .args([
                    "--rw=randread",
                    "--bs=64k",
                    "--size=4m",
                    "--iodepth=64",
                    "--thread",
                ])
                .arg("--continue_on_error=all")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("fio runs");
            assert_eq!(disk.info("/state"), "failed", "{data} {how}");
            disk.del();
        }
    });
}
