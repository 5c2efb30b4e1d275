//! A budget of computing time: who is over it waits, and still answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tests::PATIENCE;
use tests::backing::Backing;
use tests::bed::in_bed;
use tests::disk::{Disk, must, run, wait_until};
use tests::paths;
use tests::uml::Machine;
use wasmblk::block::{Backend, Errno};
use wasmblk::guest::Limits;
use wasmblk::limits::CLOCK_TICK;

use crate::adversary::writes_in_a_row;
use crate::cli::Folder;
use crate::direct::{self, Direct, Prepared};

/// How long is measured.
const TIME: Duration = Duration::from_secs(3);

/// The deadline of calls that are to reach it.
const DEADLINE: Duration = Duration::from_secs(1);

/// The percentage of a processor that is no fault of anybody: what is saved up, and the clock's steps.
const ROOM: u64 = 10;

/// Computing time of a thread, in milliseconds: user and system time, in ticks of 10.
fn cpu_ms(thread: &Path) -> u64 {
    let Ok(stat) = fs::read_to_string(thread.join("stat")) else {
        return 0;
    };
    let fields: Vec<&str> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
    (ticks(11) + ticks(12)) * 10
}

/// By how much a thread gives way to others (`nice` in proc(5)).
fn niceness(thread: &Path) -> String {
    let stat = fs::read_to_string(thread.join("stat")).expect("a thread");
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    fields.split(' ').nth(16).expect("a field").to_owned()
}

/// That of all threads of a process.
fn process_cpu_ms(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    threads.flatten().map(|thread| cpu_ms(&thread.path())).sum()
}

/// What is used of a processor while something is done, in percent.
fn percent_of(cpu_ms: impl Fn() -> u64, work: impl FnOnce()) -> u64 {
    let (before, begin) = (cpu_ms(), Instant::now());
    work();
    let took = u64::try_from(begin.elapsed().as_millis()).expect("short");
    (cpu_ms() - before) * 100 / took
}

fn open(guest: &str, options: &[(&str, &str)], cpu_percent: u32) -> Direct {
    let limits = Limits {
        cpu_percent,
        ..direct::limits()
    };
    open_limited(guest, options, limits)
}

fn open_limited(guest: &str, options: &[(&str, &str)], limits: Limits) -> Direct {
    Direct::open_limited(guest, options, &[], limits).expect("it opens")
}

/// Reads for some time, one block after the other. Gives how many.
fn read_for(time: Duration, disk: &mut Direct) -> u32 {
    let (begin, mut reads) = (Instant::now(), 0);
    while begin.elapsed() < time {
        disk.read(4096, &mut [1; 512]).expect("it answers");
        reads += 1;
    }
    reads
}

#[test]
fn who_is_over_the_budget_waits_and_answers() {
    let this = || cpu_ms(Path::new("/proc/thread-self"));
    // Long calls, short ones by each contract, and one that always has more to do.
    for (guest, options) in [
        ("faulty", &[("late", "30000000")][..]),
        ("null-device", &[]),
        ("null", &[]),
        ("rogue", &[("lie", "more-always")]),
    ] {
        let mut disk = open(guest, options, 20);
        let mut reads = 0;
        let used = percent_of(this, || reads = read_for(TIME, &mut disk));
        assert!(used <= 20 + ROOM, "{guest} used {used} %");
        assert!(used >= 5, "{guest} may have more than {used} %");
        assert!(reads > 5, "{guest} answered {reads} reads");
        assert!(!disk.health.has_failed());
        let throttled = disk.guest.usage().throttled_ms;
        assert!(throttled > 500, "{guest} waited for {throttled} ms");
    }
}

#[test]
fn instances_share_the_budget() {
    let limits = Limits {
        cpu_percent: 20,
        ..direct::limits()
    };
    let guest = Prepared::limited("null-device", &[], &[], limits).expect("it loads");
    let read = || {
        let mut disk = guest.direct().expect("it opens");
        let this = || cpu_ms(Path::new("/proc/thread-self"));
        percent_of(this, || assert!(read_for(TIME, &mut disk) > 5))
    };
    let used: u64 = thread::scope(|scope| {
        let threads = [scope.spawn(read), scope.spawn(read)];
        threads
            .map(|thread| thread.join().expect("it reads"))
            .iter()
            .sum()
    });
    assert!((5..=20 + ROOM).contains(&used), "they used {used} %");
}

#[test]
fn without_a_budget_nobody_waits() {
    let mut disk = open("null", &[], 100);
    read_for(Duration::from_millis(300), &mut disk);
    assert_eq!(disk.guest.usage().throttled_ms, 0);
    // Within one, hardly ever: what is saved up is enough.
    let mut disk = open("null", &[], 50);
    for _ in 0..20 {
        disk.read(0, &mut [0; 512]).expect("read");
        thread::sleep(Duration::from_millis(10));
    }
    assert!(disk.guest.usage().throttled_ms < 100);
}

#[test]
fn a_call_within_a_budget_has_its_deadline() {
    let this = || cpu_ms(Path::new("/proc/thread-self"));
    for (guest, options, percent) in [
        ("faulty", ("spin-at", "0"), 1),
        ("faulty", ("spin-at", "0"), 50),
        ("rogue", ("lie", "spin"), 10),
    ] {
        let limits = Limits {
            cpu_percent: percent,
            deadline: DEADLINE,
            ..direct::limits()
        };
        let mut disk = open_limited(guest, &[options], limits);
        let begin = Instant::now();
        let used = percent_of(this, || {
            assert_eq!(disk.read(0, &mut [0; 512]), Err(Errno::EIO));
        });
        let took = begin.elapsed();
        assert!(took + CLOCK_TICK >= DEADLINE, "{took:?}");
        assert!(took < PATIENCE, "{took:?}");
        let reason = disk.health.reason().unwrap_or_default();
        assert!(reason.contains("deadline"), "{reason}");
        assert!(
            used <= u64::from(percent) + ROOM + 10,
            "{used} % in a second"
        );
    }
}

#[test]
fn calls_of_the_host_in_a_row_keep_to_the_budget() {
    let this = || cpu_ms(Path::new("/proc/thread-self"));
    let (folder, store) = (
        Folder::new("budget-row"),
        Backing::new("budget-row", 2 << 20),
    );
    let file = folder.file("guest.wasm", &writes_in_a_row());
    let stores = [store.grant("data", "")];
    let limits = Limits {
        cpu_percent: 10,
        deadline: DEADLINE,
        ..direct::limits()
    };
    let guest = Prepared::with_stores(&file, &stores, limits).expect("it loads");
    let used = percent_of(this, || {
        let error = guest.open().map(drop).expect_err("it takes longer").chain();
        assert!(error.contains("deadline"), "{error}");
    });
    assert!(used <= 10 + ROOM + 10, "{used} % in a second");
}

/// A server, ended at the end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_whose_guest_always_has_more_to_do_keeps_to_its_budget() {
    let folder = Folder::new("budget");
    let socket = folder.file("socket", b"");
    fs::remove_file(&socket).expect("its name is free");
    let guest = paths::guest("rogue").display().to_string();
    let words = ["nbd", &guest, "-U", &socket, "--set", "lie=more-always"];
    let mut command = Command::new(paths::wasmblk());
    command
        .args(words)
        .args(["--set", "size=256K", "--cpu-percent", "25"]);
    let server = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Server(server.expect("wasmblk runs"));
    wait_until("it listens", || {
        fs::exists(&socket).is_ok_and(|there| there)
    });
    let process = || process_cpu_ms(server.0.id());
    let idle = percent_of(process, || thread::sleep(TIME));
    let busy = percent_of(process, || {
        let begin = Instant::now();
        let uri = format!("nbd+unix:///?socket={socket}");
        while begin.elapsed() < TIME {
            run("nbdcopy", &[&uri, "null:"]);
        }
    });
    assert!((5..=25 + ROOM).contains(&idle), "{idle} % without a client");
    assert!(busy <= 25 + ROOM, "{busy} % with clients");
}

#[test]
fn a_device_keeps_to_its_budget() {
    in_bed(&Machine::default(), || {
        let words = ["--set", "lie=more-always", "--cpu-percent", "20"];
        let disk = Disk::add("rogue", &words);
        let pid = disk.info("/pid").parse().expect("a number");
        // A fifth of a processor that it shares with one other, and the clock goes on whatever others do.
        for (name, nice) in [("queue0", "7"), ("clock", "0")] {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
            let mut threads = threads.flatten().map(|thread| thread.path());
            let is_called = |thread: &PathBuf| {
                fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name)
            };
            let thread = threads.find(is_called).expect("a thread");
            assert_eq!(niceness(&thread), nice, "{name}");
        }
        let mut reads = 0;
        let used = percent_of(
            || process_cpu_ms(pid),
            || {
                let begin = Instant::now();
                while begin.elapsed() < TIME {
                    run(
                        "dd",
                        &[
                            "if=/dev/ublkb0",
                            "of=/dev/null",
                            "bs=4k",
                            "count=1",
                            "iflag=direct",
                        ],
                    );
                    reads += 1;
                }
            },
        );
        assert!(used <= 20 + ROOM, "it used {used} %");
        assert!(reads > 5, "{reads} reads");
        assert_eq!(disk.info("/limits/cpu_percent"), "20");
        let number = |field: &str| disk.info(field).parse::<u64>().expect("a number");
        assert!(number("/usage/throttled_ms") > 500);
        assert!(number("/usage/cpu_ms") > 300);
        assert!(must(&["info", &disk.id]).contains("limits.cpu_percent"));
        disk.del();
    });
}
