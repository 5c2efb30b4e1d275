//! Clients that flood, stall, send nonsense, or are killed: whatever they do, they do to themselves.

use std::env;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;
use tests::PATIENCE;
use tests::bed::in_bed;
use tests::disk::{processes, run, wait_until};
use tests::steps;
use tests::uml::Machine;
use tests::user::{Broker, SOCKET, User};
use wasmblk::broker;
use wasmblk::message;

use super::server::{Process, is_part};
use super::{ALICE, BOB, POLICY, nothing_left_but};

/// As many as a test may take here; `WASMBLK_CYCLES=1000` makes it the whole number.
const CYCLES: u32 = 160;
const CLIENTS: u32 = 8;

pub(super) fn client() -> OwnedFd {
    let client = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    let broker = SocketAddrUnix::new(SOCKET).expect("a path");
    connect(&client, &broker).expect("it listens");
    client
}

/// Open files, and resident memory in KiB.
pub(super) fn size(broker: &Broker) -> (usize, u64) {
    let folder = format!("/proc/{}", broker.pid());
    let files = fs::read_dir(format!("{folder}/fd")).expect("it runs");
    let status = fs::read_to_string(format!("{folder}/status")).expect("it runs");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = memory.and_then(|text| text.trim().strip_suffix(" kB"));
    let memory = memory.and_then(|text| text.trim().parse().ok());
    (files.count(), memory.expect("a number"))
}

#[test]
fn who_floods_or_stalls_delays_nobody() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let before = size(&broker);
        let ends = AtomicBool::new(false);
        let sent = AtomicU32::new(0);
        let null = File::open("/dev/null").expect("a file");
        thread::scope(|scope| {
            // Root floods as everybody could.
            scope.spawn(|| {
                let noise = [
                    &b"\0"[..],
                    b"{\"version\":1}",
                    &[b'['; 60_000],
                    b"{\"version\":1,\"request\":\"attach\"}",
                ];
                let files = [null.as_fd(); 4];
                while !ends.load(Relaxed) {
                    for bytes in noise {
                        let client = client();
                        let _ = message::send(&client, bytes, &files);
                        sent.fetch_add(1, Relaxed);
                    }
                }
            });
            // And has many that say nothing.
            let silent: Vec<OwnedFd> = (0..100).map(|_| client()).collect();
            let alice = User::new(ALICE);
            let begin = Instant::now();
            for _ in 0..5 {
                assert_eq!(alice.must(&["list"]), "");
            }
            let id = alice.add("null", &["--depth", "1"]).to_string();
            let _ = alice.must(&["del", &id]);
            let took = begin.elapsed();
            ends.store(true, Relaxed);
            drop(silent);
            assert!(took < PATIENCE, "it took {took:?}");
        });
        let sent = sent.into_inner();
        assert!(sent > 100, "{sent} messages are no flood");
        let calm = || size(&broker).0 == before.0;
        wait_until("everything is closed", calm);
        let grown = size(&broker).1.saturating_sub(before.1);
        assert!(grown < 2048, "{grown} KiB more");
        nothing_left_but(broker);
    });
}

/// Connects as somebody.
fn client_as(uid: u32) -> OwnedFd {
    let connect = move || {
        let user = Uid::from_raw(uid);
        // Of this thread alone.
        set_thread_res_uid(user, user, user).expect("root may");
        client()
    };
    thread::spawn(connect).join().expect("it connects")
}

#[test]
fn whoever_has_many_numbers_keeps_nobody_out() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        run("kill", &["-STOP", &broker.pid()]);
        // More than there are places, as one who has subordinate ids can.
        let silent: Vec<OwnedFd> = (0..10)
            .flat_map(|at| [100_000 + at; 8])
            .map(client_as)
            .collect();
        let known = [client_as(ALICE), client_as(0)];
        for client in &known {
            let list = br#"{"version":1,"request":"list"}"#;
            message::send(client, list, &[]).expect("it is sent");
        }
        let begin = Instant::now();
        run("kill", &["-CONT", &broker.pid()]);
        for client in &known {
            message::receive(client).expect("it is answered");
        }
        // Places are taken from who came first.
        let is_closed = |client: &OwnedFd| {
            let mut fds = [PollFd::new(client, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).expect("it can be asked") > 0
        };
        let closed: Vec<bool> = silent.iter().map(is_closed).collect();
        assert!(closed[0], "{closed:?}");
        if begin.elapsed() < Duration::from_secs(1) {
            // Not for want of time.
            assert!(!closed[40] && !closed[79], "{closed:?}");
        }
        nothing_left_but(broker);
    });
}

#[test]
fn a_broker_that_is_slow_is_waited_for() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        run("kill", &["-STOP", &broker.pid()]);
        let null = tests::paths::guest("null").display().to_string();
        let mut add = alice.wasmblk(&["add", &null, "--depth", "1"]);
        let mut add = add.spawn().expect("it starts");
        // Longer than a device may take to say what it is.
        thread::sleep(Duration::from_millis(3500));
        assert!(add.try_wait().expect("a child").is_none(), "it waits");
        run("kill", &["-CONT", &broker.pid()]);
        assert!(add.wait().expect("it ends").success());
        let _ = alice.must(&["del", "--all"]);
        nothing_left_but(broker);
    });
}

#[test]
fn a_holder_that_talks_nonsense_or_does_not_read_hurts_himself() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let server = super::server::Server::start(&alice, "answers");
        let copy = (server.capability).demand(&broker::wire::Command::Copy);
        let copy = copy.expect("a copy").remove(0);
        for bytes in [
            &b"\0"[..],
            b"{}",
            b"{\"version\":1,\"command\":\"explode\"}",
        ] {
            message::send(&copy, bytes, &[]).expect("it is read");
            let (reply, _) = message::receive(&copy).expect("it is answered");
            let reply = String::from_utf8_lossy(&reply).into_owned();
            assert!(reply.contains("refused"), "{reply}");
        }
        rustix::io::ioctl_fionbio(&copy, true).expect("a socket");
        // Until his end is closed, for he does not read.
        let info = b"{\"version\":1,\"command\":\"info\"}";
        wait_until("he is left", || {
            (0..1000).any(|_| {
                let sent = message::send(&copy, info, &[]);
                sent.is_err_and(|why| why.kind() == std::io::ErrorKind::BrokenPipe)
            })
        });
        let info = server.capability.demand(&broker::wire::Command::Info);
        info.expect("others have their answers");
        drop(server);
        nothing_left_but(broker);
    });
}

#[test]
fn many_come_and_go_and_are_killed() {
    in_bed(
        &Machine {
            limit: Duration::from_secs(600),
            ..Machine::default()
        },
        || {
            if is_part() {
                return;
            }
            let cycles = env::var("WASMBLK_CYCLES").ok();
            let cycles = cycles.and_then(|text| text.parse().ok()).unwrap_or(CYCLES);
            let policy = "[[allow]]\nusers = [1000, 1001]\ndevices = 8\nmemory_mib = 64\n";
            let broker = Broker::start(policy);
            let before = size(&broker);
            let users = [User::new(ALICE), User::new(BOB)];
            let done = AtomicU32::new(0);
            let killed = AtomicU32::new(0);
            thread::scope(|scope| {
                for client in 0..CLIENTS {
                    let user = &users[client as usize % 2];
                    let (done, killed) = (&done, &killed);
                    scope.spawn(move || {
                        let mut process = Process::start(user, "cycles");
                        let mut since = 0;
                        while done.load(Relaxed) < cycles {
                            let begin = Instant::now();
                            process.hear();
                            done.fetch_add(1, Relaxed);
                            since += 1;
                            // In whatever it does then: each at another time.
                            if since == 3 + client {
                                let part = begin.elapsed().as_micros() * u128::from(client + 1);
                                let part = u64::try_from(part % 50_000).unwrap_or(0);
                                thread::sleep(Duration::from_micros(part));
                                process.kill();
                                killed.fetch_add(1, Relaxed);
                                process = Process::start(user, "cycles");
                                since = 0;
                            }
                        }
                        process.kill();
                    });
                }
            });
            let (done, killed) = (done.into_inner(), killed.into_inner() + CLIENTS);
            let ids = || fs::read_dir("/sys/class/ublk-char").expect("sysfs").count();
            wait_until("no device is left", || ids() == 0);
            wait_until("no process is left", || processes().len() == 1);
            let known = || broker::list(Path::new(SOCKET)).expect("it answers").len();
            wait_until("nothing counts", || known() == 0);
            wait_until("no file is left", || size(&broker).0 == before.0);
            let after = size(&broker);
            steps::say(&format!(
                "{done} devices came and went, {killed} of their clients were killed; open files and resident KiB of \
                 the broker: {before:?}, {after:?}"
            ));
            let grown = after.1.saturating_sub(before.1);
            assert!(grown < 2048, "{grown} KiB more");
            nothing_left_but(broker);
        },
    );
}
