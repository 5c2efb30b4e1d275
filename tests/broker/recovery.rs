//! Devices that could be taken up when their data plane is killed, and that nobody takes up.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::slice;

use tests::bed::in_bed;
use tests::disk::{must, processes, run, wait_until};
use tests::uml::Machine;
use tests::user::{Broker, User, wait_gone};

use super::hostile::size;
use super::{ALICE, POLICY, node, nothing_left_but, store};
use crate::cli::expect;

const MINDER: &str = "wasmblk-minder";
pub(super) const WARDEN: &str = "wasmblk-warden";

fn all() -> Vec<String> {
    let all = processes().into_iter();
    all.map(|pid| pid.to_string()).collect()
}

pub(super) fn named(name: &str) -> Vec<String> {
    let is = |pid: &String| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim() == name
    };
    all().into_iter().filter(is).collect()
}

fn signal(signal: &str, pids: &[String]) {
    assert!(!pids.is_empty(), "it runs");
    let pids = pids.iter().map(String::as_str);
    run(
        "kill",
        &[signal].into_iter().chain(pids).collect::<Vec<_>>(),
    );
}

#[test]
fn who_waits_for_a_device_that_nobody_takes_up_is_told() {
    in_bed(&Machine::default(), || {
        let broker = Broker::start(&format!("answer_seconds = 2\n{POLICY}hosted = true\n"));
        let alice = User::new(ALICE);
        let store = store(&alice, 16 << 20);
        // Who is killed, beside the data plane, and who is stopped before that.
        for (how, killed, stopped) in [
            ("--broker", &[MINDER][..], None),
            // It could take the device up, and does not.
            ("--hosted", &[], Some(MINDER)),
            ("--hosted", &[WARDEN, MINDER], None),
            // It cannot any more.
            ("--broker", &[WARDEN], None),
        ] {
            let words = ["--memory-mib", "64", "--store", &store, "--recover", how];
            let id = alice.add("file", &words);
            let json = alice.must(&["info", "--json", &id.to_string()]);
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            let data_plane = json["pid"].to_string();
            let disk = File::open(node(id)).expect("root may");
            let stopped = stopped.map(named).unwrap_or_default();
            if !stopped.is_empty() {
                signal("-STOP", &stopped);
            }
            for name in killed {
                signal("-KILL", &named(name));
            }
            if !killed.contains(&MINDER) {
                signal("-KILL", slice::from_ref(&data_plane));
            }
            wait_until("it does not answer", || !all().contains(&data_plane));
            // It is seen without a request, too.
            if stopped.is_empty() {
                disk.read_exact_at(&mut [0; 4096], 0)
                    .expect_err("nobody has answered");
            }
            drop(disk);
            wait_gone(id);
            if !stopped.is_empty() {
                signal("-KILL", &stopped);
            }
            wait_until("it is alone", || processes().len() == 1);
            wait_until("nothing counts", || must(&["list"]).is_empty());
        }
        // What a minder that was killed left is in nobody's way.
        let id = alice.add("null", &["--hosted", "--memory-mib", "64", "--depth", "1"]);
        let _ = alice.must(&["del", &id.to_string()]);
        wait_gone(id);
        nothing_left_but(broker);
    });
}

#[test]
fn a_device_whose_warden_is_gone_has_another() {
    in_bed(&Machine::default(), || {
        let alice = User::new(ALICE);
        let mut broker = Broker::start(POLICY);
        let id = alice.add("memory", &["--set", "size=1M"]);
        let is_guarded_by = |count| named(WARDEN).len() == count;
        let is_served = || {
            let disk = File::open(node(id)).expect("root may");
            disk.read_exact_at(&mut [0; 4096], 0).expect("it is served");
        };
        // One that is slow to see that there is another broker.
        let first = named(WARDEN);
        signal("-STOP", &first);
        broker.kill();
        broker = Broker::start(POLICY);
        wait_until("there is a second", || is_guarded_by(2));
        signal("-CONT", &first);
        wait_until("the first is back", || named(WARDEN) == first);
        is_served();
        signal("-KILL", &first);
        wait_until("there is another", || is_guarded_by(1));
        is_served();
        broker.kill();
        wait_until("it goes with its broker", || is_guarded_by(0));
        is_served();
        broker = Broker::start(POLICY);
        wait_until("there is a third", || is_guarded_by(1));
        is_served();
        assert!(alice.must(&["list"]).contains("live"));
        signal("-KILL", &named(MINDER));
        wait_gone(id);
        nothing_left_but(broker);
    });
}

#[test]
fn what_is_deleted_and_open_counts_with_the_next_broker_too() {
    in_bed(&Machine::default(), || {
        let policy = "[[allow]]\nusers = [1000]\ndevices = 1\nmemory_mib = 64\n";
        let broker = Broker::start(policy);
        let alone = size(&broker).0;
        let alice = User::new(ALICE);
        let id = alice.add("null", &["--depth", "1"]);
        let disk = File::open(node(id)).expect("root may");
        let _ = alice.must(&["del", "--force", &id.to_string()]);
        wait_until("its server is gone", || named(MINDER).is_empty());
        broker.kill();
        let broker = Broker::start(policy);
        wait_until("its warden is back", || size(&broker).0 == alone + 1);
        let null = tests::paths::guest("null").display().to_string();
        let add = ["add", &null, "--depth", "1"];
        expect(&alice.call(&add), 1, &["have 1 devices"]);
        drop(disk);
        wait_until("nothing counts", || size(&broker).0 == alone);
        let id = alice.add("null", &["--depth", "1"]);
        let _ = alice.must(&["del", &id.to_string()]);
        nothing_left_but(broker);
    });
}
