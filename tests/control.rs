//! The control socket, with somebody at its other end who means no good: bounds for each line, and no word of his
//! reaches a terminal as it is.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, listen, socket};
use rustix::process::Signal;
use serde_json::json;
use tests::PATIENCE;
use tests::bed::in_bed;
use tests::disk::{Disk, must, nothing_left, processes, wait_until, wasmblk};
use tests::uml::Machine;
use tests::user::User;
use wasmblk::broker::wire::{Reply, encode};
use wasmblk::message;
use wasmblk::plane::{End, Stopped, ask, stop, wait_or_kill};
use wasmblk::ublk::abi::DevInfo;

use crate::cli::{Folder, expect};
use crate::confine::status;

/// A device's socket, where somebody answers each of `clients` like this.
fn answer(path: &Path, clients: usize, answer: impl Fn(UnixStream) + Send + 'static) {
    let listener = UnixListener::bind(path).expect("a socket");
    thread::spawn(move || {
        for client in listener.incoming().take(clients) {
            let mut client = client.expect("a client");
            let _ = client.read(&mut [0; 4096]).expect("a request");
            answer(client);
        }
    });
}

/// Sends a byte now and then, until nobody listens.
fn drip(mut to: UnixStream) {
    let end = Instant::now() + PATIENCE;
    while to.write_all(b" ").is_ok() {
        assert!(Instant::now() < end, "it is listened to for ever");
        thread::sleep(Duration::from_millis(50));
    }
}

/// What asks, by the kind of error that comes of it.
fn all(path: &Path) -> [Option<ErrorKind>; 3] {
    [ask(path).err(), stop(path, true).err(), End::of(path).err()]
        .map(|error| error.map(|error| error.kind()))
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_not_waited_for() {
    let folder = Folder::new("drip");
    let path = PathBuf::from(folder.path("3.sock"));
    answer(&path, 2, drip);
    assert_eq!(
        ask(&path).err().map(|why| why.kind()),
        Some(ErrorKind::TimedOut)
    );
    let end = End::of(&path).err().map(|why| why.kind());
    assert_eq!(end, Some(ErrorKind::TimedOut));
}

#[test]
fn an_answer_without_end_takes_no_memory() {
    let folder = Folder::new("flood");
    let path = PathBuf::from(folder.path("3.sock"));
    answer(&path, 3, |mut client| {
        let mut sent = 0;
        while let Ok(bytes) = client.write(&[b' '; 65536]) {
            sent += bytes;
            assert!(sent < 16 << 20, "it is listened to for ever");
        }
    });
    assert_eq!(all(&path), [Some(ErrorKind::InvalidData); 3]);
}

/// The status of a device in a terminal's language.
fn hostile_status(id: u32) -> Vec<u8> {
    let words = "\u{1b}]0;owned\u{7}\u{9b}2K\u{202e}";
    let status = json!({
        "id": id, "device": format!("/dev/{words}ublkb3"), "name": words, "serial": words, "state": "failed",
        "reason": words, "pid": 1, "guest": words, "digest": words, "contract": words, "options": [[words, words]],
        "size_bytes": 1, "logical_block_bytes": 512, "physical_block_bytes": 512, "max_transfer_bytes": 1,
        "read_only": false, "volatile_cache": false, "fua": words, "max_discard_bytes": 0,
        "max_write_zeroes_bytes": 0, "queues": 1, "depth": 1, "workers": 1, "data_path": words,
        "limits": {
            "memory_bytes": 1, "deadline_ms": 1, "cpu_percent": 1, "log_lines_per_second": 1, "transfer_bytes": 1,
        },
        "usage": {
            "memory_bytes": 0, "longest_call_ms": 0, "cpu_ms": 0, "throttled_ms": 0, "log_lines": 0,
            "log_lines_dropped": 0,
        },
        "log": words, "uptime_ms": 1,
        "stats": {
            "reads": 0, "writes": 0, "flushes": 0, "discards": 0, "write_zeroes": 0, "read_bytes": 0,
            "written_bytes": 0, "errors": 0, "batches": 0, "batch_max": 0,
        },
    });
    let mut line = status.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[test]
fn words_of_a_device_do_not_command_a_terminal() {
    let folder = Folder::new("words");
    answer(Path::new(&folder.path("3.sock")), 2, |mut client| {
        client.write_all(&hostile_status(3)).expect("a client");
    });
    let run_dir = folder.path("");
    let broker = folder.path("no-broker");
    for command in [&["list"][..], &["info", "3"]] {
        let words = ["--run-dir", &run_dir, "--broker-socket", &broker];
        let reply = wasmblk(&[command, &words].concat());
        assert_eq!(reply.code, 0, "{}", reply.stderr);
        let shown = reply.stdout.replace('\n', " ");
        assert!(shown.contains(" /dev/ublkb3 "), "its own name: {shown}");
        assert!(shown.contains("failed"), "{shown}");
        let harmful = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!shown.contains(harmful), "{command:?}: {shown:?}");
    }
}

#[test]
fn a_device_does_not_answer_for_another() {
    let folder = Folder::new("another");
    answer(Path::new(&folder.path("3.sock")), 1, |mut client| {
        client.write_all(&hostile_status(4)).expect("a client");
    });
    let (run_dir, broker) = (folder.path(""), folder.path("no-broker"));
    let words = [
        "info",
        "3",
        "--run-dir",
        &run_dir,
        "--broker-socket",
        &broker,
    ];
    expect(&wasmblk(&words), 1, &["device 3 says that it is another"]);
}

#[test]
fn a_process_that_does_not_end_is_killed() {
    let mut stays = Command::new("sleep").arg("60").spawn().expect("it runs");
    let ended = wait_or_kill(&mut stays, Duration::from_millis(50)).expect("it ends");
    assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()));
    let mut ends = Command::new("true").spawn().expect("it runs");
    let ended = wait_or_kill(&mut ends, PATIENCE).expect("it ends");
    assert!(ended.success(), "{ended}");
}

#[test]
fn those_who_waited_and_left_keep_nobody_from_waiting() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("memory", &["--set", "size=16M"]);
        let socket = format!("/run/wasmblk/{}.sock", disk.id);
        let wait = || End::of(Path::new(&socket)).expect("there is room");
        let waiting: Vec<End> = (0..16).map(|_| wait()).collect();
        let minder = waiting[0].minder().map(|pid| pid.to_string());
        assert_eq!(minder, Some(status(&disk.info("/pid"), "PPid")));
        let words = ["does not answer", "16 others wait for its end already"];
        expect(&wasmblk(&["del", &disk.id]), 1, &words);
        drop(waiting);
        drop(wait());
        disk.del();
    });
}

#[test]
fn a_slow_client_keeps_nobody_from_the_device() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        let socket = format!("/run/wasmblk/{}.sock", disk.id);
        let slow = UnixStream::connect(&socket).expect("it listens");
        let drips = thread::spawn(|| drip(slow));
        wait_until("it answers", || wasmblk(&["info", &disk.id]).code == 0);
        drips.join().expect("it is left");
        disk.del();
    });
}

#[test]
fn whoever_answers_cannot_keep_a_device() {
    in_bed(&Machine::default(), || {
        let disk = Disk::add("null", &[]);
        let socket = format!("/run/wasmblk/{}.sock", disk.id);
        fs::rename(&socket, "/run/old").expect("root may");
        answer(Path::new(&socket), 9, drip);
        let words = ["does not answer", "try --force"];
        expect(&wasmblk(&["del", &disk.id]), 1, &words);
        must(&["del", "--force", &disk.id]);
        assert!(!disk.path.exists());
        nothing_left();
    });
}

#[test]
fn what_the_caller_left_open_is_not_in_the_device() {
    in_bed(&Machine::default(), || {
        let lock = "/tmp/lock";
        let (program, guest) = (tests::paths::wasmblk(), tests::paths::guest("null"));
        let script = format!(
            "exec 9>{lock}; exec {} add {}",
            program.display(),
            guest.display()
        );
        let added = Command::new("sh")
            .args(["-c", &script])
            .output()
            .expect("sh");
        assert!(added.status.success(), "{added:?}");
        let has_it = |pid: &u32| {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
            let mut files = files
                .flatten()
                .filter_map(|file| fs::read_link(file.path()).ok());
            files.any(|file| file == Path::new(lock))
        };
        let processes = processes();
        assert_eq!(processes.len(), 2);
        let having: Vec<u32> = processes.into_iter().filter(has_it).collect();
        assert!(having.is_empty(), "{having:?}");
        must(&["del", "0"]);
        nothing_left();
    });
}

/// A broker whose warden does not say where a device's requests come from until it is told to. Gives how to tell it.
fn slow_broker(path: &str) -> Sender<()> {
    let listener = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).expect("a socket");
    bind(&listener, &SocketAddrUnix::new(path).expect("a path")).expect("it is free");
    listen(&listener, 1).expect("it listens");
    let (go_on, told) = channel();
    thread::spawn(move || {
        let asked = loop {
            // Whether somebody answers is asked first.
            let client = accept(&listener).expect("a client");
            if message::receive(&client).is_ok() {
                break client;
            }
        };
        let send = |to: &OwnedFd, reply: Reply, files: &[BorrowedFd<'_>]| {
            message::send(to, &encode(&reply).expect("JSON"), files).expect("it is read");
        };
        let (theirs, ours) = message::pair().expect("sockets");
        send(&asked, Reply::Capability, &[theirs.as_fd()]);
        drop(theirs);
        let info = DevInfo {
            nr_hw_queues: 1,
            queue_depth: 1,
            max_io_buf_bytes: 512 << 10,
            ..DevInfo::default()
        };
        let null = File::open("/dev/null").expect("it is there");
        send(&ours, Reply::Added { info }, &[null.as_fd()]);
        let _ = message::receive(&ours).expect("a command");
        told.recv().expect("the test goes on");
        let processors = Vec::new();
        send(&ours, Reply::Processors { processors }, &[]);
        while message::receive(&ours).is_ok() {
            send(&ours, Reply::Done, &[]);
        }
    });
    go_on
}

#[test]
fn a_device_that_is_being_started_says_so() {
    let folder = Folder::new("starting");
    let broker = folder.path("broker");
    let go_on = slow_broker(&broker);
    let guest = tests::paths::guest("null").display().to_string();
    thread::scope(|scope| {
        let add = scope.spawn(|| {
            let words = ["--broker", "--broker-socket", &broker, "--depth", "1"];
            folder.add(&[&[&*guest][..], &words].concat())
        });
        let socket = PathBuf::from(folder.path("run/0.sock"));
        wait_until("it is being started", || {
            stop(&socket, false).is_ok_and(|stopped| stopped == Stopped::Starting)
        });
        go_on.send(()).expect("it waits");
        // What stands for its device is none.
        expect(&add.join().expect("it ends"), 1, &["cannot make a ring"]);
    });
}

#[test]
fn a_device_that_is_being_started_is_deleted_when_it_is_there() {
    in_bed(&Machine::default(), || {
        let user = User::new(1000);
        let run_dir = user.home().join("wasmblk");
        fs::create_dir(&run_dir).expect("a folder");
        let path = run_dir.join("3.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        for path in [&run_dir, &path] {
            chown(path, Some(user.uid), Some(user.uid)).expect("it is his");
        }
        let device = thread::spawn(move || {
            let mut clients = listener.incoming().map(|client| {
                let mut client = client.expect("a client");
                let mut bytes = [0; 4096];
                let length = client.read(&mut bytes).expect("a request");
                (
                    client,
                    String::from_utf8_lossy(&bytes[..length]).into_owned(),
                )
            });
            let (mut waits, request) = clients.next().expect("a client");
            assert!(request.contains("wait"), "{request}");
            waits.write_all(b"{\"waiting\":true}\n").expect("it reads");
            for answer in [&b"\"starting\"\n"[..], b"\"starting\"\n", b"\"ends\"\n"] {
                let (mut stops, request) = clients.next().expect("a client");
                assert!(request.contains("stop"), "{request}");
                stops.write_all(answer).expect("it reads");
            }
            waits.write_all(b"{\"error\":null}\n").expect("it reads");
        });
        let _ = user.must(&["del", "3"]);
        device.join().expect("it was told to stop");
    });
}
