//! What a capability is: who has it has the device, whoever he is, and when nobody has it, there is no device.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::PATIENCE;
use tests::bed::in_bed;
use tests::disk::{Disk, must, processes, run, wait_until};
use tests::uml::Machine;
use tests::user::{Broker, SOCKET, User, wait_gone};
use tests::{paths, steps};
use wasmblk::broker::wire::{Command, Reply, State};
use wasmblk::broker::{self, Capability, device};

use super::server::{Process, Server, is_part, wanted};
use super::{ALICE, BOB, POLICY, node, nothing_left_but};

fn exists(id: u32) -> bool {
    Path::new(&format!("/sys/class/ublk-char/ublkc{id}")).exists()
}

#[test]
fn it_can_be_handed_on() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        // The machine may be slow for a moment, but not each time.
        let times: Vec<Duration> = (0..3).map(|_| handed_on()).collect();
        steps::say(&format!(
            "gone so long after the last was closed: {times:?}"
        ));
        let shortest = times.iter().min().expect("there are three");
        assert!(*shortest < Duration::from_secs(1), "{times:?}");
        nothing_left_but(broker);
    });
}

/// The second process uses the device when the first has closed its capability. Gives how long after that of the
/// second as well the device is gone.
fn handed_on() -> Duration {
    let server = Server::start(&User::new(ALICE), "answers");
    let id = server.id;
    server.process.close_capability();
    thread::sleep(Duration::from_millis(1500));
    assert!(exists(id), "somebody still has it");
    let disk = server.capability.demand(&Command::Open {
        read_only: true,
        exclusive: false,
    });
    let disk = File::from(disk.expect("it opens").remove(0));
    disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
    drop(disk);
    let about = fs::metadata(node(id)).expect("a node");
    assert_eq!((about.uid(), about.mode() & 0o777), (ALICE, 0o600));
    let info = server.capability.ask(&Command::Info).expect("it answers").0;
    let Reply::Device { device } = info else {
        panic!("{info:?}")
    };
    assert_eq!((device.uid, device.state), (ALICE, State::Live));
    let closed = Instant::now();
    drop((server.capability, server.char_device));
    wait_gone(id);
    closed.elapsed()
}

/// A number says nothing: whoever had a device cannot do anything to the next one of its number.
#[test]
fn a_capability_is_for_one_device_whatever_its_number_becomes() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let server = Server::start(&User::new(ALICE), "answers");
        let id = server.id;
        let warden = only("wasmblk-warden");
        // Or it would look after its device, and see that it is gone.
        run("kill", &["-STOP", &warden]);
        drop(server.char_device);
        must(&["del", "--force", &id.to_string()]);
        wait_gone(id);
        let bob = User::new(BOB);
        assert_eq!(bob.add("null", &[]), id, "the number is used again");
        let is_bobs = || {
            let known = broker::list(Path::new(SOCKET)).expect("it answers");
            known.len() == 1 && (known[0].uid, known[0].id) == (BOB, Some(id))
        };
        assert!(is_bobs());
        run("kill", &["-CONT", &warden]);
        for command in [
            Command::Resize { size_bytes: 4096 },
            Command::Open {
                read_only: false,
                exclusive: false,
            },
            Command::TryStop,
            Command::Stop,
            Command::Delete,
        ] {
            let refused = server.capability.demand(&command);
            let why = refused.expect_err("it is another's").to_string();
            assert!(why.contains("the device is gone"), "{command:?}: {why}");
        }
        let disk = File::open(node(id)).expect("root may");
        disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
        // Longer than a warden takes to come back to a broker that has forgotten it.
        thread::sleep(Duration::from_millis(2500));
        assert!(is_bobs());
        drop((disk, server.capability, server.process));
        assert!(bob.must(&["list"]).contains("live"));
        let _ = bob.must(&["del", "--all"]);
        wait_gone(id);
        nothing_left_but(broker);
    });
}

/// While `del` waits for the end of root's device, that goes, and its number is another's when `del` goes on.
#[test]
fn who_deletes_a_device_does_not_delete_the_next_of_its_number() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(POLICY);
        let disk = Disk::add("null", &[]);
        let id = disk.id.parse().expect("a number");
        let minder = only("wasmblk-minder");
        // Its data plane has nobody to ask, and stays.
        run("kill", &["-STOP", &minder]);
        let mut del = process::Command::new(paths::wasmblk());
        let mut del = del.args(["del", &disk.id]).spawn().expect("it runs");
        let pid = del.id().to_string();
        let block = format!("/sys/block/ublkb{id}");
        wait_until("it is stopped", || !Path::new(&block).exists());
        run("kill", &["-STOP", &pid]);
        run("kill", &["-CONT", &minder]);
        wait_gone(id);
        let bob = User::new(BOB);
        assert_eq!(bob.add("null", &[]), id, "the number is used again");
        run("kill", &["-CONT", &pid]);
        let ended = del.wait().expect("it ends");
        assert!(ended.success(), "{ended}");
        assert!(bob.must(&["list"]).contains("live"));
        let disk = File::open(node(id)).expect("root may");
        disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
        drop(disk);
        let _ = bob.must(&["del", "--all"]);
        wait_gone(id);
        nothing_left_but(broker);
    });
}

/// The only process of this name that there is.
fn only(name: &str) -> String {
    let is = |pid: &u32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim() == name
    };
    let found = processes().into_iter().find(is);
    found.expect("it runs").to_string()
}

#[test]
fn copies_have_replies_of_their_own_and_detached_devices_stay() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let mut server = Server::start(&User::new(ALICE), "answers");
        let id = server.id;
        let copy = server.capability.demand(&Command::Copy).expect("a copy");
        let copy = Capability::from_fd(copy.into_iter().next().expect("it comes along"));
        server.process.close_capability();
        drop(server.capability);
        copy.demand(&Command::Info).expect("the copy is alive");
        // As long as somebody serves it.
        copy.demand(&Command::Detach).expect("it may stay");
        drop(copy);
        thread::sleep(Duration::from_millis(1500));
        assert!(exists(id), "it was detached");
        // Whoever serves it can have it back.
        let back = broker::attach(Path::new(SOCKET), server.char_device.as_fd());
        let back = back.expect("its server asks");
        back.demand(&Command::Resize {
            size_bytes: 32 << 20,
        })
        .expect("the kernel can");
        let bytes = fs::read_to_string(format!("/sys/block/ublkb{id}/size")).expect("sysfs");
        assert_eq!(bytes.trim(), (64 << 10).to_string());
        let odd = back.demand(&Command::Resize { size_bytes: 100 });
        assert!(odd.expect_err("no").to_string().contains("multiple of 512"));
        drop((back, server.char_device));
        let (early, _, file) = device(Path::new(SOCKET), &wanted()).expect("root may");
        let refused = early
            .demand(&Command::Detach)
            .expect_err("nobody serves it");
        assert!(
            refused.to_string().contains("not been started"),
            "{refused}"
        );
        drop((early, file));
        // Its server is killed, and nothing of it stays.
        server.process.kill();
        wait_gone(id);
        nothing_left_but(broker);
    });
}

#[test]
fn one_server_follows_another_while_the_disk_is_open() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let server = Process::start(&User::new(ALICE), "follows");
        assert_eq!(server.hear().0, b"done");
        nothing_left_but(broker);
    });
}

#[test]
fn nobody_is_taken_for_its_server() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let server = Server::start(&User::new(ALICE), "answers");
        let path = format!("/dev/ublkc{}", server.id);
        // Everybody can have such a file of every path.
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_PATH).open(path);
        let attached = broker::attach(Path::new(SOCKET), file.expect("a path").as_fd());
        let error = attached.expect_err("that is no server").chain();
        assert!(error.contains("must come along"), "{error}");
        let other = File::open("/dev/null").expect("a file");
        assert!(broker::attach(Path::new(SOCKET), other.as_fd()).is_err());
        let bob = User::new(BOB);
        assert!(!bob.can("test", &["-r", &node(server.id)]));
        drop(server);
        nothing_left_but(broker);
    });
}

#[test]
fn a_server_that_does_not_answer_is_ended() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(&format!("answer_seconds = 2\n{POLICY}"));
        let mut server = Server::start(&User::new(ALICE), "silent");
        let id = server.id;
        drop((server.capability, server.char_device));
        let begin = Instant::now();
        let disk = File::open(node(id)).expect("root may");
        // Without a bound this would wait for ever.
        disk.read_exact_at(&mut [0; 4096], 0)
            .expect_err("nobody has answered");
        let took = begin.elapsed();
        assert!(took > Duration::from_secs(2), "it took {took:?}");
        assert!(took < PATIENCE, "it took {took:?}");
        drop(disk);
        let kill = Some(Signal::KILL.as_raw());
        assert_eq!(server.process.wait_for_signal(), kill);
        wait_gone(id);
        nothing_left_but(broker);
    });
}

#[test]
fn who_starts_a_device_answers_for_it() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(&format!("answer_seconds = 2\n{POLICY}"));
        // This process asks for the device, and one of a user's serves it.
        let (capability, info, file) = device(Path::new(SOCKET), &wanted()).expect("root may");
        let mut heir = Process::start(&User::new(ALICE), "heir");
        let bytes = serde_json::to_vec(&info).expect("numbers");
        heir.tell(&bytes, &[capability.as_fd(), file.as_fd()]);
        heir.hear();
        drop(file);
        let disk = File::open(node(info.dev_id)).expect("root may");
        disk.read_exact_at(&mut [0; 4096], 0)
            .expect_err("nobody has answered");
        drop(disk);
        assert_eq!(heir.wait_for_signal(), Some(Signal::KILL.as_raw()));
        drop(capability);
        wait_gone(info.dev_id);
        nothing_left_but(broker);
    });
}

#[test]
fn a_container_needs_the_socket_alone() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let broker = Broker::start(POLICY);
        let alice = User::new(ALICE);
        let mut container = Process::start_in_container(&alice, "cycles");
        for _ in 0..4 {
            assert_eq!(container.hear().0, b"one more");
        }
        container.kill();
        let mut server = Process::start_in_container(&alice, "answers");
        let _files = server.hear();
        let known = broker::list(Path::new(SOCKET)).expect("it answers");
        assert_eq!(known.len(), 1);
        assert_eq!((known[0].uid, known[0].state), (ALICE, State::Live));
        server.kill();
        drop(_files);
        nothing_left_but(broker);
    });
}

#[test]
fn devices_outlive_their_broker() {
    in_bed(&Machine::default(), || {
        if is_part() {
            return;
        }
        let alice = User::new(ALICE);
        let broker = Broker::start(POLICY);
        let id = alice.add("memory", &["--set", "size=16M"]);
        let mut server = Server::start(&alice, "answers");
        broker.kill();
        let read = |id| {
            let disk = File::open(node(id)).expect("root may");
            disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
        };
        read(id);
        let broker = Broker::start(POLICY);
        read(server.id);
        let known = || broker::list(Path::new(SOCKET)).expect("it answers");
        let live = || known().iter().all(|device| device.state == State::Live);
        wait_until("their wardens are back", || known().len() == 2 && live());
        // What he has still counts.
        let third = alice.add("null", &["--depth", "1"]);
        let null = tests::paths::guest("null").display().to_string();
        let reply = alice.call(&["add", &null, "--depth", "1"]);
        assert!(reply.stderr.contains("may have 3"), "{}", reply.stderr);
        for id in [id, third] {
            let _ = alice.must(&["del", &id.to_string()]);
        }
        // One whose warden is gone with the broker is taken back by who serves it.
        let warden = |pid: &u32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "wasmblk-warden"
        };
        let wardens = || processes().into_iter().filter(warden).collect::<Vec<_>>();
        wait_until("one is left", || wardens().len() == 1);
        broker.kill();
        tests::disk::run("kill", &["-KILL", &wardens()[0].to_string()]);
        let broker = Broker::start(POLICY);
        read(server.id);
        assert_eq!(known()[0].state, State::Lost);
        let back = broker::attach(Path::new(SOCKET), server.char_device.as_fd());
        let back = back.expect("its server asks");
        back.demand(&Command::Info).expect("it answers");
        wait_until("it is known", live);
        server.process.kill();
        drop((back, server));
        nothing_left_but(broker);
    });
}
