//! The broker as a service: it reads its policy again, and needs no more than its unit allows.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use tests::bed::in_bed;
use tests::disk::{fio, run, wait_until};
use tests::paths;
use tests::uml::Machine;
use tests::user::{self, Broker, User, wait_gone};
use wasmblk::broker::{Peer, Policy};

use super::{ALICE, BOB, node, nothing_left_but};
use crate::cli::{Folder, expect};

/// A policy for one user.
fn only(uid: u32) -> String {
    format!("[[allow]]\nusers = [{uid}]\ndevices = 1\nmemory_mib = 256\n")
}

#[test]
fn a_policy_is_read_again() {
    in_bed(&Machine::default(), || {
        let log = "/tmp/broker.log";
        let said = |words: &str| fs::read_to_string(log).is_ok_and(|text| text.contains(words));
        let mut command = Command::new(paths::wasmblk());
        command.args(["broker", "--policy", user::POLICY]);
        command.stderr(File::create(log).expect("a file"));
        let broker = Broker::begin(&mut command, &only(ALICE));
        let again = |policy: &str| {
            user::write_policy(policy);
            run("kill", &["-HUP", &broker.pid()]);
        };
        let (alice, bob) = (User::new(ALICE), User::new(BOB));
        let null = paths::guest("null").display().to_string();
        let his = alice.add("null", &[]);
        expect(&bob.call(&["add", &null]), 1, &["no devices"]);
        // One with a mistake changes nothing, and says so.
        again("[[allow]]\nusers = [1001]\ndevices = many\n");
        wait_until("it is said", || said("the policy stays what it was"));
        assert!(said("broker.toml"), "which file it is");
        expect(&bob.call(&["add", &null]), 1, &["no devices"]);
        again(&only(BOB));
        wait_until("it is read", || said("the policy was read again"));
        let other = bob.add("null", &[]);
        // What is there stays, and is its owner's.
        assert!(alice.must(&["list"]).contains("live"));
        let _ = alice.must(&["del", &his.to_string()]);
        wait_gone(his);
        expect(&alice.call(&["add", &null]), 1, &["no devices"]);
        let _ = bob.must(&["del", &other.to_string()]);
        wait_gone(other);
        nothing_left_but(broker);
    });
}

const UNIT: &str = include_str!("../../examples/broker/wasmblk-broker.service");
const EXAMPLE: &str = include_str!("../../examples/broker/broker.toml");

/// What the unit says behind a word.
fn unit(word: &str) -> impl Iterator<Item = &'static str> {
    UNIT.lines().filter_map(move |line| {
        let (name, value) = line.split_once('=')?;
        (name == word).then_some(value)
    })
}

#[test]
fn the_example_policy_is_one() {
    let none = BTreeMap::new();
    let policy = Policy::parse(EXAMPLE, &none, &none).expect("it is right");
    let allowed = |uid, gid| {
        policy.allowed(&Peer {
            uid,
            gid,
            ..Peer::default()
        })
    };
    let his = allowed(1000, 6).expect("the first rule that names him");
    assert_eq!(
        (his.quota.devices, his.hosted, his.trusted),
        (4, false, false)
    );
    let theirs = allowed(1001, 6).expect("by his group");
    assert_eq!((theirs.quota.devices, theirs.hosted), (8, true));
    assert_eq!(allowed(1001, 1001), None);
}

/// It says what it does not understand.
#[test]
fn the_unit_is_one() {
    let folder = Folder::new("unit");
    let program = format!("ExecStart={}", paths::wasmblk().display());
    let text = UNIT.replace("ExecStart=/usr/local/bin/wasmblk", &program);
    assert_ne!(text, UNIT);
    let path = folder.file("wasmblk-broker.service", text.as_bytes());
    let verify = Command::new("systemd-analyze")
        .args(["verify", &path])
        .output();
    let verify = verify.expect("it runs");
    let said = String::from_utf8_lossy(&verify.stderr);
    assert!(verify.status.success() && said.is_empty(), "{said}");
}

#[test]
fn a_broker_does_with_what_its_unit_allows() {
    in_bed(&Machine::default(), || {
        let start = unit("ExecStart").next().expect("a command");
        let words = start.strip_prefix("/usr/local/bin/wasmblk ").expect("ours");
        let words = words.replace("/etc/wasmblk/broker.toml", user::POLICY);
        assert!(words.contains(user::POLICY), "{words}");
        let allowed = unit("CapabilityBoundingSet").next().expect("a set");
        let allowed: Vec<_> = allowed
            .split(' ')
            .map(|it| it.trim_start_matches("CAP_"))
            .collect();
        let allowed = format!("-all,+{}", allowed.join(",+").to_lowercase());
        let mut command = Command::new("setpriv");
        command.args([
            "--no-new-privs",
            "--inh-caps=-all",
            "--bounding-set",
            &allowed,
        ]);
        command.arg(paths::wasmblk()).args(words.split(' '));
        let broker = Broker::begin(&mut command, &format!("{}hosted = true\n", only(ALICE)));
        let status = fs::read_to_string(format!("/proc/{}/status", broker.pid()));
        // CAP_SYS_ADMIN, CAP_CHOWN, CAP_FOWNER, CAP_SYS_RESOURCE.
        assert!(
            status
                .expect("it runs")
                .contains("CapBnd:\t0000000001200009")
        );
        let alice = User::new(ALICE);
        let store = super::store(&alice, 16 << 20);
        for more in [&[][..], &["--hosted", "--data-path", "zero-copy"]] {
            let words = ["--memory-mib", "64", "--store", &store];
            let id = alice.add("file", &[&words[..], more].concat());
            fio(
                Path::new(&node(id)),
                &["--rw=randrw", "--bs=4k", "--size=4m", "--verify=crc32c"],
            );
            let hosted = alice.must(&["info", "--json", &id.to_string()]);
            assert_eq!(hosted.contains("\"mounts\""), !more.is_empty(), "{hosted}");
            let _ = alice.must(&["del", &id.to_string()]);
            wait_gone(id);
        }
        let devices = fs::read_to_string("/proc/devices").expect("a file");
        for group in unit("DeviceAllow").filter(|group| !group.starts_with('/')) {
            let (_, name) = group
                .trim_end_matches(" rw")
                .split_once('-')
                .expect("a kind");
            let is = |line: &str| line.trim_start().ends_with(&format!(" {name}"));
            assert!(devices.lines().any(is), "no {name} in {devices}");
        }
        nothing_left_but(broker);
    });
}
