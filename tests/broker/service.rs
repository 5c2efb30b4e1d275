//! The broker as a service: it reads its policy again.

use std::fs::{self, File};
use std::process::Command;

use tests::bed::in_bed;
use tests::disk::{run, wait_until};
use tests::paths;
use tests::uml::Machine;
use tests::user::{self, Broker, User, wait_gone};

use super::{ALICE, BOB, nothing_left_but};
use crate::cli::expect;

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
