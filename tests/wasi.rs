//! What a guest learns of this machine by WASI: nothing, unless it is granted.

use std::fs;
use std::time::{Duration, SystemTime};

use tests::bed::in_bed;
use tests::disk::{Disk, must, wasmblk};
use tests::paths;
use tests::uml::Machine;

use crate::cli::{Folder, expect};

/// What the guest was told, a line for each question.
fn told(questions: &[&str], more: &[&str]) -> Vec<String> {
    let guest = paths::guest("told-wasip2").display().to_string();
    let mut words = vec!["nbd", &guest, "--run", "nbdcopy \"$uri\" -"];
    for question in questions {
        words.extend(["--set", question]);
    }
    let block = must(&[&words[..], more].concat());
    block.trim_end().lines().map(str::to_owned).collect()
}

fn seconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.as_ref().map_or(0, Duration::as_secs)
}

#[test]
fn time_stands_still_unless_it_is_allowed() {
    assert_eq!(told(&["time="], &[]), ["0"]);
    let before = seconds_since_1970();
    let time = told(&["time="], &["--allow", "clocks"])[0].parse::<u64>();
    let time = time.expect("a number");
    assert!((before..=seconds_since_1970()).contains(&time), "{time}");
}

#[test]
fn numbers_are_the_same_for_all_unless_random_ones_are_allowed() {
    let numbers = |more: &[&str]| told(&["random=x"], more).concat();
    assert_eq!(numbers(&[]), numbers(&[]));
    let allowed = ["--allow", "random"];
    assert_ne!(numbers(&allowed), numbers(&allowed));
}

#[test]
fn a_guest_has_no_environment_but_what_is_named() {
    let ours = ["env=PATH", "env=HOME", "env=COLOUR"];
    assert_eq!(told(&ours, &[]), ["nothing"; 3]);
    let green = ["--env", "COLOUR=green"];
    assert_eq!(told(&ours, &green), ["nothing", "nothing", "green"]);
    let guest = paths::guest("told-wasip2").display().to_string();
    let wrong = wasmblk(&["nbd", &guest, "--env", "COLOUR", "--run", "true"]);
    expect(&wrong, 2, &["--env COLOUR", "KEY=VALUE"]);
}

#[test]
fn a_policy_file_grants_the_same() {
    let folder = Folder::new("wasi-policy");
    let policy = "allow = [\"clocks\"]\nenv = [\"A=1\", \"B=2\"]\n";
    let policy = ["--policy", &folder.file("policy.toml", policy.as_bytes())];
    let questions = ["time=", "env=A", "env=B"];
    let lines = told(&questions, &policy);
    assert_ne!(lines[0], "0");
    assert_eq!(lines[1..], ["1", "2"]);
    let over = [&policy[..], &["--env", "B=3"]].concat();
    assert_eq!(told(&questions, &over)[1..], ["1", "3"]);
    for (policy, why) in [
        ("allow = [\"clock\"]\n", "clocks"),
        ("env = [\"A\"]\n", "env = [\"A\"]: expected \"KEY=VALUE\""),
    ] {
        let policy = folder.file("wrong.toml", policy.as_bytes());
        let guest = paths::guest("told-wasip2").display().to_string();
        let reply = wasmblk(&["nbd", &guest, "--policy", &policy, "--run", "true"]);
        expect(&reply, 2, &["wrong.toml:1", why]);
    }
}

#[test]
fn what_goes_to_standard_error_is_in_the_log_within_its_bounds() {
    let guest = paths::guest("told-wasip2").display().to_string();
    let long = format!("stderr={}", "x".repeat(100_000));
    let mut words = vec!["nbd", &guest, "--run", "true", "--log-lines", "5"];
    words.extend(["--set", "stderr=Hello, log", "--set", &long]);
    for _ in 0..50 {
        words.extend(["--set", "stderr=again"]);
    }
    let reply = wasmblk(&words);
    assert_eq!(reply.code, 0, "{}", reply.stderr);
    let ours = |line: &&str| line.contains("guest: ");
    let lines: Vec<&str> = reply.stderr.lines().filter(ours).collect();
    assert!(lines[0].contains("Hello, log"), "{}", reply.stderr);
    assert!(lines[1].contains("xxxx") && lines[1].len() < 5000, "cut");
    assert_eq!(lines.len(), 5, "{}", reply.stderr);
}

#[test]
fn sleeping_is_the_end_of_a_guest_also_with_clocks() {
    let guest = paths::guest("told-wasip2").display().to_string();
    let words = ["nbd", &guest, "--run", "true", "--set", "sleep=60000"];
    for more in [&[][..], &["--allow", "clocks"]] {
        let reply = wasmblk(&[&words[..], more].concat());
        expect(&reply, 1, &["it waits by WASI", "timers"]);
    }
}

#[test]
fn over_ublk_it_is_the_same_and_shown() {
    in_bed(&Machine::default(), || {
        let grants = ["--allow", "clocks", "--env", "A=1"];
        let questions = ["--set", "time=", "--set", "env=A"];
        let disk = Disk::add("told-wasip2", &[&grants[..], &questions].concat());
        let block = fs::read(&disk.path).expect("it can be read");
        let text = String::from_utf8_lossy(&block).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        assert_ne!(lines[0], "0");
        assert_eq!(lines[1], "1");
        let info: serde_json::Value =
            serde_json::from_str(&must(&["info", &disk.id, "--json"])).expect("JSON");
        assert_eq!(info["allow"], serde_json::json!(["clocks"]));
        assert_eq!(info["env"], serde_json::json!([["A", "1"]]));
        disk.del();
    });
}
