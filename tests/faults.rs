//! Guests that misbehave: the right errno, nobody hangs, and the device can still be deleted.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tests::bed::in_bed;
use tests::disk::{Disk, fio, wasmblk};
use tests::paths;
use tests::uml::Machine;

/// Reads one block past the page cache, which would turn every error into EIO.
fn read_at(disk: &Path, offset: u64) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(disk)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut buffer = vec![0; 8192];
    let start = buffer.as_ptr().align_offset(4096);
    file.read_exact(&mut buffer[start..start + 4096])
}

/// The errno of a read that the guest fails with one of its errors.
fn errno_of(name: &str) -> Option<i32> {
    let errno = format!("errno={name}");
    let range = ["--set", &errno, "--set", "error-range=1M-2M"];
    let disk = Disk::add("faulty", &range);
    read_at(&disk.path, 0).expect("this range is good");
    let result = read_at(&disk.path, 1 << 20).expect_err("this range is bad");
    assert_eq!(
        disk.info("/state"),
        "live",
        "an error is not a failure of the guest"
    );
    disk.del();
    result.raw_os_error()
}

#[test]
fn guest_errors_arrive_as_the_right_errno() {
    in_bed(&Machine::default(), || {
        assert_eq!(errno_of("io"), Some(libc::EIO));
        assert_eq!(errno_of("no-space"), Some(libc::ENOSPC));
        assert_eq!(errno_of("not-supported"), Some(libc::EOPNOTSUPP));
        assert_eq!(errno_of("timed-out"), Some(libc::ETIMEDOUT));
        assert_eq!(errno_of("medium"), Some(libc::ENODATA));
        assert_eq!(errno_of("corrupt"), Some(libc::EILSEQ));
        assert_eq!(errno_of("invalid"), Some(libc::EINVAL));
        // The block layer has no word for this one.
        assert_eq!(errno_of("read-only"), Some(libc::EIO));
    });
}

#[test]
fn errors_by_rate_do_not_stop_the_rest() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &["--set", "error-every=10"]);
        fio(
            &disk.path,
            &[
                "--rw=randrw",
                "--bs=4k",
                "--size=8m",
                "--io_size=4m",
                "--iodepth=8",
                "--continue_on_error=io",
            ],
        );
        let errors: u64 = disk.info("/stats/errors").parse().expect("a number");
        assert!(errors > 50, "{errors} errors");
        disk.del();
    });
}

/// A device whose guest breaks at 1 MiB: EIO there and from then on everywhere, at once.
fn breaks(options: &[&str], reason: &str) {
    let disk = Disk::add("faulty", options);
    read_at(&disk.path, 0).expect("nothing happens here");
    let error = read_at(&disk.path, 1 << 20).expect_err("it breaks here");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert_eq!(disk.info("/state"), "failed");
    let why = disk.info("/reason");
    assert!(why.contains(reason), "the reason is '{why}'");
    let error = read_at(&disk.path, 4 << 20).expect_err("the guest is gone");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let log = std::fs::read_to_string(format!("/run/wasmblk/{}.log", disk.id)).expect("a log");
    assert!(log.contains("the guest has failed"), "the log: {log}");
    disk.del();
}

#[test]
fn a_trap_fails_the_device_and_is_explained() {
    in_bed(&Machine::default(), || {
        breaks(&["--set", "trap-at=1M"], "panic");
    });
}

#[test]
fn the_log_shows_the_guests_panic_and_stack() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &["--set", "trap-at=1M"]);
        read_at(&disk.path, 1 << 20).expect_err("it breaks here");
        let log = std::fs::read_to_string(disk.info("/log")).expect("a log");
        assert!(
            log.contains("told to trap at byte 1048576"),
            "the panic's words: {log}"
        );
        assert!(
            log.contains("\n    | ") && log.contains("faulty"),
            "the stack: {log}"
        );
        // What it had in hand: in the log, and for programs.
        assert!(
            log.contains("\n    | in hand: read@1048576+4096\n"),
            "{log}"
        );
        assert_eq!(disk.info("/last_requests/0"), "read@1048576+4096");
        disk.del();
    });
}

#[test]
fn a_call_that_does_not_return_is_ended() {
    in_bed(&Machine::default(), || {
        breaks(&["--set", "spin-at=1M", "--deadline", "3"], "deadline");
    });
}

#[test]
fn a_read_of_the_wrong_length_is_a_breach() {
    in_bed(&Machine::default(), || {
        for lie in ["lie=read-short", "lie=read-long"] {
            let disk = Disk::add("faulty", &["--set", lie]);
            read_at(&disk.path, 0).expect_err("the guest lies");
            assert!(disk.info("/reason").contains("were asked for"));
            disk.del();
        }
    });
}

#[test]
fn memory_without_end_ends_at_the_limit() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &["--set", "allocate-at=1M", "--memory-mib", "32"]);
        // It is refused more memory and goes on; what it does without it is its own affair.
        let _ = read_at(&disk.path, 1 << 20);
        let pid = disk.info("/pid");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its process");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS"))
            .expect("VmRSS");
        let rss_kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("kB");
        assert!(rss_kib < 200 << 10, "the process has {rss_kib} KiB");
        disk.del();
    });
}

#[test]
fn a_full_guest_says_no_space() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add(
            "memory-device",
            &["--set", "size=64M", "--memory-mib", "16"],
        );
        let mut file = OpenOptions::new()
            .write(true)
            .open(&disk.path)
            .expect("open");
        let result = (0..64).try_for_each(|_| {
            file.write_all(&vec![7; 1 << 20])?;
            file.sync_data()
        });
        let error = result.expect_err("64 MiB do not fit into 16");
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EIO)),
            "{error}"
        );
        assert_eq!(disk.info("/state"), "live", "a full disk is not broken");
        drop(file);
        disk.del();
    });
}

#[test]
fn a_slow_guest_is_waited_for() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("faulty", &["--set", "late=200000000"]);
        read_at(&disk.path, 0).expect("late is not wrong");
        disk.del();
    });
}

#[test]
fn a_guest_that_fails_to_open_leaves_nothing_behind() {
    in_bed(&Machine::default(), || {
        let guest = paths::guest("faulty").display().to_string();
        for (option, code, words) in [
            ("open=fail", 1, "told to fail in open"),
            ("open=trap", 1, "panic"),
            ("open=spin", 1, "deadline"),
            ("lie=size", 2, "size-bytes is 1000"),
            ("lie=block", 2, "logical-block-bytes is 3000"),
        ] {
            let deadline = if words == "deadline" { "1" } else { "30" };
            let reply = wasmblk(&["add", &guest, "--set", option, "--deadline", deadline]);
            assert_eq!(reply.code, code, "{option}: {}", reply.stderr);
            assert!(reply.stderr.contains(words), "{option}: {}", reply.stderr);
            assert!(reply.stdout.is_empty());
            tests::disk::nothing_left();
        }
    });
}
