//! Devices that the broker serves itself for a user: zero copy, by processes that are not his.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use clap::Parser;
use tests::bed::in_bed;
use tests::disk::{fio, must, processes, run, wait_until};
use tests::uml::Machine;
use tests::user::{Broker, SOCKET, User, wait_gone};
use wasmblk::broker;
use wasmblk::cli::{Cli, Command};
use wasmblk::config::DeviceConfig;
use wasmblk::guest::Source;
use wasmblk::wanted::Wanted;

use super::recovery::named;
use super::{ALICE, BOB, POLICY, node, nothing_left_but, store};
use crate::cli::expect;

fn policy() -> String {
    format!("{POLICY}hosted = true\n")
}

fn field(pid: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("a line").trim().to_owned()
}

/// One field of what `info --json` says to a user.
fn info(user: &User, id: u32, field: &str) -> String {
    let text = user.must(&["info", "--json", &id.to_string()]);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let value = value.pointer(field).expect("a field");
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn a_user_has_zero_copy_without_being_trusted() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&policy());
        let (alice, bob) = (User::new(ALICE), User::new(BOB));
        let store = store(&alice, 16 << 20);
        let words = ["--hosted", "--memory-mib", "64", "--store", &store];
        let words = [&words[..], &["--data-path", "zero-copy"]].concat();
        let id = alice.add("file", &[&words[..], &["--name", "fast"]].concat());
        let about = fs::metadata(node(id)).expect("a node");
        assert_eq!((about.uid(), about.mode() & 0o777), (ALICE, 0o600));
        assert_eq!(info(&alice, id, "/data_path"), "zero-copy");
        assert_eq!(info(&alice, id, "/uid"), ALICE.to_string());
        let pid = info(&alice, id, "/pid");
        assert!(field(&pid, "Uid:").starts_with('0'), "not the user's own");
        for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(&pid, name), "0000000000000000", "{name}");
        }
        assert_eq!(field(&pid, "NoNewPrivs:"), "1");
        let confinement = info(&alice, id, "/confinement");
        for layer in ["mounts", "capabilities", "no-new-privs", "seccomp"] {
            assert!(confinement.contains(layer), "no {layer}: {confinement}");
        }
        assert!(!alice.can("kill", &["-KILL", &pid]), "he cannot");
        let jobs = ["--rw=randrw", "--bs=4k", "--size=8m", "--iodepth=16"];
        let more = ["--verify=crc32c", "--fsync=16"];
        fio(Path::new(&node(id)), &[&jobs[..], &more].concat());
        assert_eq!(bob.must(&["list"]), "");
        assert_eq!(bob.call(&["del", &id.to_string()]).code, 1);
        assert!(alice.must(&["list"]).contains("fast"));
        assert!(must(&["list"]).contains("1000"));
        let disk = File::open(node(id)).expect("root may");
        expect(&alice.call(&["del", "fast"]), 1, &["is in use"]);
        drop(disk);
        let _ = alice.must(&["del", "fast"]);
        wait_gone(id);
        nothing_left_but(broker);
    });
}

#[test]
fn a_hosted_data_plane_that_is_killed_leaves_nothing() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&policy());
        let alice = User::new(ALICE);
        let store = store(&alice, 16 << 20);
        for victim in ["", "wasmblk-minder", "wasmblk-warden"] {
            let id = alice.add(
                "file",
                &["--hosted", "--memory-mib", "64", "--store", &store],
            );
            let is = |pid: &u32| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                comm.trim() == victim
            };
            let data_plane = info(&alice, id, "/pid");
            let found = processes().into_iter().find(is).map(|pid| pid.to_string());
            let pid = found.unwrap_or_else(|| data_plane.clone());
            run("kill", &["-KILL", &pid]);
            if victim == "wasmblk-warden" {
                run("kill", &["-KILL", &data_plane]);
            }
            wait_gone(id);
            wait_until("it is alone", || processes().len() == 1);
            wait_until("nothing counts", || must(&["list"]).is_empty());
        }
        nothing_left_but(broker);
    });
}

#[test]
fn a_hosted_data_plane_that_is_killed_is_replaced_where_that_is_asked_for() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&policy());
        let alice = User::new(ALICE);
        let store = store(&alice, 16 << 20);
        for hosted in [true, false] {
            let how = if hosted { "--hosted" } else { "--broker" };
            let words = ["--memory-mib", "64", "--store", &store, "--recover", how];
            let id = alice.add("file", &words);
            let of = format!("of={}", node(id));
            let write = ["if=/dev/zero", &of, "bs=1M", "count=16", "oflag=direct"];
            let layers = info(&alice, id, "/confinement");
            for _ in 0..2 {
                let pid = info(&alice, id, "/pid");
                run("kill", &["-KILL", &pid]);
                // It waits for the next data plane.
                assert!(alice.can("dd", &write), "{how}");
                assert_ne!(info(&alice, id, "/pid"), pid);
                assert_eq!(info(&alice, id, "/confinement"), layers);
            }
            assert_eq!(must(&["list"]).lines().count(), 2, "a head and a device");
            let _ = alice.must(&["del", &id.to_string()]);
            wait_gone(id);
        }
        nothing_left_but(broker);
    });
}

#[test]
fn a_device_whose_broker_ends_before_it_is_there_is_not_roots() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&policy());
        let alice = User::new(ALICE);
        let guest = tests::paths::guest("memory").display().to_string();
        let words = [
            "--hosted",
            "--memory-mib",
            "64",
            "--set",
            "size=1M",
            "--depth",
            "8",
        ];
        let words = [&["add", &guest], &words[..]].concat();
        let mut add = alice.wasmblk(&words);
        let add = add.stderr(Stdio::piped()).spawn().expect("it starts");
        // While it compiles the guest.
        let hosts = || named("wasmblk-minder");
        wait_until("its host is there", || !hosts().is_empty());
        let hosts = hosts();
        run("kill", &["-STOP", &hosts[0]]);
        broker.kill();
        let broker = Broker::start(&policy());
        run("kill", &["-CONT", &hosts[0]]);
        let output = add.wait_with_output().expect("it ends");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("has ended; ask again"), "{stderr}");
        assert_eq!(must(&["list"]), "");
        nothing_left_but(broker);
    });
}

/// A configuration that the broker would take.
fn config(guest: &str) -> DeviceConfig {
    let words = ["wasmblk", "add", "--hosted", guest];
    let cli = Cli::try_parse_from(words).expect("it is a command line");
    let Command::Add(add) = &cli.command else {
        panic!("it adds")
    };
    let wanted = Wanted::new(&add.guest).expect("it is right");
    let source = Source::read(&add.guest.file).expect("a guest");
    DeviceConfig::new(add, wanted, &source, "/run".into(), "warn").expect("it is right")
}

#[test]
fn what_a_user_sends_is_not_trusted() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&policy());
        let (alice, other) = (User::new(ALICE), User::new(1002));
        let guest = tests::paths::guest("memory").display().to_string();
        let wrong = alice.home().join("wrong.wasm");
        fs::write(&wrong, b"\0asm\x0d\0\x01\0nonsense").expect("a file");
        let wrong = wrong.display().to_string();
        let add = |user: &User, words: &[&str]| {
            user.call(&[&["add", "--hosted", "--memory-mib", "64"], words].concat())
        };
        expect(&add(&alice, &[&wrong]), 2, &["is not a valid component"]);
        let large = ["add", &guest, "--hosted", "--memory-mib", "300"];
        expect(&alice.call(&large), 1, &["counts for 300 MiB"]);
        expect(&add(&alice, &[&guest, "--id", "3"]), 1, &["only root may"]);
        // Numbers that no command line lets through.
        let (file, config) = (File::open(&guest).expect("a guest"), config(&guest));
        for (queues, depth) in [(0, 1), (1, 0), (u16::MAX, 1), (16, 4096)] {
            let wrong = DeviceConfig {
                queues,
                depth,
                ..config.clone()
            };
            let error = broker::host(Path::new(SOCKET), &wrong, &file, &[]);
            let error = error.expect_err("it is refused").chain();
            assert!(error.contains("must be 1 to"), "{queues} {depth}: {error}");
        }
        expect(&add(&other, &[&guest]), 1, &["allows user 1002 no devices"]);
        // What he may not open himself, the broker does not open for him.
        let store = ["--store", "data=/etc/shadow:ro"];
        let file = tests::paths::guest("file").display().to_string();
        let reply = add(&alice, &[&[file.as_str()], &store[..]].concat());
        expect(&reply, 1, &["cannot open --store data=/etc/shadow"]);
        let never = tests::paths::guest("faulty").display().to_string();
        let reply = add(&alice, &[&never, "--set", "open=trap"]);
        assert_ne!(reply.code, 0);
        nothing_left_but(broker);
        let broker = Broker::start(POLICY);
        expect(&add(&alice, &[&guest]), 1, &["does not allow you --hosted"]);
        nothing_left_but(broker);
    });
}
