//! Hosts that a guest is granted: it connects to them and to nobody else, and waits no longer than it may.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tests::bed::in_bed;
use tests::disk::{Disk, must, wait_until, wasmblk};
use tests::paths;
use tests::uml::Machine;

use crate::cli::{Folder, expect};

/// What a peer does with a word.
#[derive(Clone, Copy)]
enum Manner {
    /// Says it again.
    Echoes,
    /// Sends a MiB of sevens.
    Floods,
    /// Says nothing, and does not go.
    Waits,
}

/// Somebody who is connected to.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Peer {
    /// At this address, until the test ends.
    fn at(address: &str, manner: Manner) -> Peer {
        let listener = TcpListener::bind(address).expect("an address");
        let connections = Arc::new(AtomicU64::new(0));
        let peer = Peer {
            address: listener.local_addr().expect("it has one"),
            connections: connections.clone(),
        };
        thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                connections.fetch_add(1, Relaxed);
                let mut words = String::new();
                match manner {
                    Manner::Echoes => {
                        let _ = stream.read_to_string(&mut words);
                        let _ = stream.write_all(words.as_bytes());
                    }
                    Manner::Floods => {
                        let _ = stream.read_to_string(&mut words);
                        let _ = stream.write_all(&vec![7; 1 << 20]);
                    }
                    Manner::Waits => kept.push(stream),
                }
            }
        });
        peer
    }

    fn port(&self) -> u16 {
        self.address.port()
    }
}

fn told(questions: &[String], grants: &[&str]) -> Vec<String> {
    let guest = paths::guest("told-wasip2").display().to_string();
    let mut words = vec!["nbd", &guest, "--run", "nbdcopy \"$uri\" -"];
    for question in questions {
        words.extend(["--set", question]);
    }
    words.extend(grants);
    must(&words).trim_end().lines().map(str::to_owned).collect()
}

#[test]
fn there_is_no_network_but_what_is_granted() {
    let peer = Peer::at("127.0.0.1:0", Manner::Echoes);
    let other = Peer::at("127.0.0.2:0", Manner::Echoes);
    let questions = [
        format!("ask={}/hello", peer.address),
        format!("ask=localhost:{}/hello", peer.port()),
        "look-up=localhost".into(),
        "look-up=example.org".into(),
        "listen=127.0.0.1:0".into(),
        "listen=0.0.0.0:0".into(),
        "udp=127.0.0.1:0".into(),
    ];
    // With nothing; with another host at the same port; with another port of the same host.
    let elsewhere = format!("127.0.0.3:{}", peer.port());
    let beside = other.address.to_string();
    for grants in [&[][..], &["--net", &elsewhere], &["--net", &beside]] {
        for (question, answer) in questions.iter().zip(told(&questions, grants)) {
            let refused = ["PermissionDenied", "Unsupported", "Uncategorized", "Other"];
            assert!(
                refused.contains(&&*answer),
                "{question} with {grants:?}: {answer}"
            );
        }
    }
    assert_eq!(peer.connections.load(Relaxed), 0);
    assert_eq!(other.connections.load(Relaxed), 0);
}

#[test]
fn what_is_granted_is_reached() {
    let peer = Peer::at("127.0.0.1:0", Manner::Echoes);
    let flood = Peer::at("127.0.0.1:0", Manner::Floods);
    let six = Peer::at("[::1]:0", Manner::Echoes);
    let by_name = format!("localhost:{}", peer.port());
    let by_address = peer.address.to_string();
    let (by_six, much) = (six.address.to_string(), flood.address.to_string());
    let ask = |place: &str| format!("ask={place}/hello");
    let answers = told(
        &[ask(&by_address), ask(&much), ask(&by_six), ask(&by_name)],
        &["--net", &by_address, "--net", &much, "--net", &by_six],
    );
    // The name was not granted, only the address that it has.
    let expected = ["hello", "1048576 bytes, 1048576 of them 7", "hello"];
    assert_eq!(answers[..3], expected);
    assert_ne!(answers[3], "hello");
    let questions = [
        ask(&by_name),
        "look-up=LOCALHOST".into(),
        "look-up=example.org".into(),
    ];
    let answers = told(&questions, &["--net", &by_name]);
    assert_eq!(answers[0], "hello");
    assert!(
        answers[1].split(' ').any(|address| address == "127.0.0.1"),
        "{answers:?}"
    );
    assert_eq!(answers[2], "Uncategorized");
}

#[test]
fn nobody_is_waited_for_longer_than_a_call_may_take() {
    let peer = Peer::at("127.0.0.1:0", Manner::Waits);
    let guest = paths::guest("told-wasip2").display().to_string();
    let address = peer.address.to_string();
    let ask = format!("ask={address}/hello");
    let leave = format!("leave={address}");
    let words = [
        "nbd",
        &guest,
        "--run",
        "true",
        "--deadline",
        "1",
        "--net",
        &address,
    ];
    for question in [&*ask, &leave, "sleep=600000"] {
        let begin = Instant::now();
        let more = ["--allow", "clocks", "--set", question];
        let reply = wasmblk(&[&words[..], &more].concat());
        let took = begin.elapsed();
        expect(&reply, 1, &["did not return within its deadline"]);
        assert!(took >= Duration::from_millis(900), "{question}: {took:?}");
        assert!(took < Duration::from_secs(60), "{question}: {took:?}");
    }
    assert_eq!(peer.connections.load(Relaxed), 2);
    // Who has a network, and a clock, may also sleep.
    let answers = told(
        &["sleep=20".into()],
        &["--allow", "clocks", "--net", &address],
    );
    assert_eq!(answers, ["slept"]);
}

#[test]
fn a_policy_file_grants_the_same() {
    let folder = Folder::new("net-policy");
    let (one, two) = (
        Peer::at("127.0.0.1:0", Manner::Echoes),
        Peer::at("127.0.0.1:0", Manner::Echoes),
    );
    let policy = format!("net = [\"{}\"]\n", one.address);
    let policy = folder.file("policy.toml", policy.as_bytes());
    let questions = [
        format!("ask={}/1", one.address),
        format!("ask={}/2", two.address),
    ];
    let grants = ["--policy", &policy];
    assert_eq!(told(&questions, &grants), ["1", "PermissionDenied"]);
    let more = ["--net", &two.address.to_string()];
    assert_eq!(told(&questions, &[&grants[..], &more].concat()), ["1", "2"]);
    let guest = paths::guest("told-wasip2").display().to_string();
    let policy = folder.file("wrong.toml", b"net = [\"here\"]");
    let reply = wasmblk(&["nbd", &guest, "--policy", &policy, "--run", "true"]);
    expect(&reply, 2, &["wrong.toml:1", "there is no ':'", "HOST:PORT"]);
}

#[test]
fn what_it_looked_for_in_vain_is_named_with_the_line_that_grants_it() {
    let guest = paths::guest("told-wasip2").display().to_string();
    for (question, words) in [
        (
            "first=look-up:disks.example.org",
            [
                "--net disks.example.org:PORT",
                "net = [\"disks.example.org:PORT\"]",
            ],
        ),
        (
            "first=ask:127.0.0.1:9/hello",
            ["--net HOST:PORT", "net = [\"HOST:PORT\"]"],
        ),
        (
            "first=read:/data/one",
            ["--dir /NAME=PATH", "dirs.\"/NAME\" = { path = \"PATH\" }"],
        ),
    ] {
        let reply = wasmblk(&["nbd", &guest, "--set", question, "--run", "true"]);
        expect(&reply, 1, &words);
    }
    // With a network, it is the place.
    let words = ["--net 127.0.0.1:9", "net = [\"127.0.0.1:9\"]"];
    let question = ["--set", "first=ask:127.0.0.1:9/hello"];
    let grant = ["--net", "127.0.0.1:8", "--run", "true"];
    let reply = wasmblk(&[&["nbd", &guest], &question[..], &grant].concat());
    expect(&reply, 1, &words);
}

#[test]
fn a_wrong_word_is_named() {
    let guest = paths::guest("told-wasip2").display().to_string();
    for (words, code, why) in [
        ("host", 2, "there is no ':'"),
        ("host:", 2, "no number up to 65535"),
        ("host:http", 2, "no number up to 65535"),
        ("host:65536", 2, "no number up to 65535"),
        ("host:0", 2, "there is no port 0"),
        (":80", 2, "neither a name nor an address"),
        ("::1:80", 2, "neither a name nor an address"),
        ("[host]:80", 2, "neither a name nor an address"),
        ("a/b:80", 2, "neither a name nor an address"),
        ("no-such-host.invalid:80", 1, "the host has no address"),
    ] {
        let reply = wasmblk(&["nbd", &guest, "--net", words, "--run", "true"]);
        expect(&reply, code, &[&format!("--net {words}"), why]);
    }
    let mut many = vec!["nbd", &guest, "--run", "true"];
    for _ in 0..17 {
        many.extend(["--net", "127.0.0.1:1"]);
    }
    expect(&wasmblk(&many), 2, &["more than 16"]);
}

#[test]
fn over_ublk_each_read_may_ask_somebody() {
    in_bed(&Machine::default(), || {
        let peer = Peer::at("127.0.0.1:0", Manner::Echoes);
        let address = peer.address.to_string();
        let (asks, grant) = (format!("asks={address}/hello"), ["--net", &address]);
        let disk = Disk::add("told-wasip2", &[&grant[..], &["--set", &asks]].concat());
        let block = fs::read(&disk.path).expect("it can be read");
        assert!(block.starts_with(b"hello  "), "{:?}", &block[..16]);
        assert!(peer.connections.load(Relaxed) >= 1);
        let info: serde_json::Value =
            serde_json::from_str(&must(&["info", &disk.id, "--json"])).expect("JSON");
        assert_eq!(info["net"], serde_json::json!([address]));
        let on = disk.info("/confinement");
        assert!(on.contains("mounts") && on.contains("seccomp"), "{on}");
        disk.del();

        // A host that does not answer ends the guest, and not the device.
        let silent = Peer::at("127.0.0.1:0", Manner::Waits);
        let address = silent.address.to_string();
        let asks = format!("asks={address}/hello");
        let limits = ["--deadline", "1", "--net", &address, "--set", &asks];
        let disk = Disk::add("told-wasip2", &limits);
        let file = fs::File::open(&disk.path).expect("it opens");
        let begin = Instant::now();
        let read = file.read_at(&mut [0; 512], 0);
        assert_eq!(
            read.err().and_then(|why| why.raw_os_error()),
            Some(libc::EIO)
        );
        let took = begin.elapsed();
        assert!(
            took >= Duration::from_millis(900) && took < Duration::from_secs(60),
            "{took:?}"
        );
        wait_until("the guest has failed", || {
            disk.info("/state").contains("failed")
        });
        assert!(
            disk.info("/last_fault").contains("deadline"),
            "{}",
            disk.info("/last_fault")
        );
        drop(file);
        disk.del();
    });
}
