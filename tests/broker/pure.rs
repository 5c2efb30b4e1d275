//! What of the broker needs no kernel: its messages, its policy, its count, its clock.

use std::collections::BTreeMap;
use std::iter;
use std::time::{Duration, Instant};

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};
use proptest::sample::Index;
use wasmblk::block::{Claims, Geometry, TrimClaims};
use wasmblk::broker::wire::{
    Command, Malformed, Record, Reply, Request, State, Wanted, decode, encode, fit,
};
use wasmblk::broker::{Counts, Peer, Policy, Quota, Use, Watch, parse_names};

use wasmblk::message::MESSAGE_BYTES_MAX;

use super::server::wanted;
use crate::cli::Folder;
use crate::fuzz;

/// Messages of each kind, as their bytes are.
const CORPUS: [&str; 12] = [
    r#"{"version":1,"request":"list"}"#,
    r#"{"version":1,"request":"attach","unknown":[{}]}"#,
    r#"{"version":1,"request":"device","queues":1,"depth":8,"align_bytes":1,"geometry":{"size_bytes":4096}}"#,
    r#"{"request":"device","id":7,"name":"x","queues":65535,"depth":0,"align_bytes":3,"geometry":{},"version":1}"#,
    r#"{"version":1,"request":"warden","id":null,"name":null,"uid":1,"gid":1,"pid":-1,"state":"live",
        "size_bytes":1,"queues":1,"depth":1,"memory_bytes":18446744073709551615,"mark":0}"#,
    r#"{"version":1,"command":"affinity","queues":[0,65535]}"#,
    r#"{"version":1,"command":"resize","size_bytes":18446744073709551615}"#,
    r#"{"version":1,"command":"open","read_only":true}"#,
    r#"{"version":1,"command":"start"}"#,
    r#"{"version":1,"reply":"refused","reason":"quota","text":"\u0000\u001b[31m"}"#,
    r#"{"version":1,"reply":"processors","processors":[0,1]}"#,
    r#"{"version":1,"reply":"devices","devices":[]}"#,
];

/// All that the broker, wardens and clients make of bytes: whatever they are, it ends, and nothing panics.
fn take(bytes: &[u8]) -> bool {
    fuzz::broker::target(bytes);
    decode::<Request>(bytes).is_ok()
        || decode::<Command>(bytes).is_ok()
        || decode::<Reply>(bytes).is_ok()
}

#[test]
fn the_corpus_is_understood() {
    for text in CORPUS {
        assert!(take(text.as_bytes()), "{text}");
    }
}

#[test]
fn other_versions_are_refused_by_name() {
    let Err(error) = decode::<Request>(br#"{"version":2,"request":"list"}"#) else {
        panic!("version 2")
    };
    assert!(matches!(error, Malformed::Version(2)), "{error}");
    for text in [
        "",
        "{}",
        "[]",
        "1",
        r#"{"request":"list"}"#,
        r#"{"version":-1}"#,
        "\u{0}",
    ] {
        assert!(!take(text.as_bytes()), "{text}");
    }
    // Nested deeper than any message: the decoder has a bound.
    assert!(!take(&[b'['; 64 << 10]));
}

fn claims() -> impl Strategy<Value = Claims> {
    let trim = any::<Option<(u32, u32, u32)>>();
    let flags = any::<[bool; 6]>();
    (any::<u64>(), any::<[u32; 3]>(), flags, trim).prop_map(|(size_bytes, sizes, flags, trim)| {
        Claims {
            size_bytes,
            logical_block_bytes: sizes[0],
            physical_block_bytes: sizes[1],
            max_transfer_bytes: sizes[2],
            read_only: flags[0],
            write_through: flags[1],
            fua: flags[2],
            rotational: flags[3],
            replicated: flags[4],
            restartable: flags[5],
            trim: trim.map(|(granularity_bytes, discard, zeroes)| TrimClaims {
                granularity_bytes,
                max_discard_bytes: discard,
                max_write_zeroes_bytes: zeroes,
            }),
        }
    })
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes in any::<Vec<u8>>()) {
        take(&bytes);
    }

    #[test]
    fn damaged_messages_are_taken(
        which in any::<Index>(), at in any::<Index>(), byte in any::<u8>(), cut in any::<Index>()
    ) {
        let mut bytes = which.get(&CORPUS).as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        take(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        // A message that is cut short is none.
        prop_assert!(!take(&bytes));
    }

    #[test]
    fn what_is_sent_is_received(
        geometry in claims(), queues in any::<u16>(), depth in any::<u16>(), id in any::<Option<u32>>()
    ) {
        let request = Request::Device(Wanted { id, queues, depth, geometry, ..wanted() });
        let bytes = encode(&request).expect("it can be sent");
        prop_assert_eq!(decode::<Request>(&bytes).expect("it is one"), request);
        take(&bytes);
    }

    #[test]
    fn what_was_checked_once_is_the_same_when_it_is_checked_again(claims in claims()) {
        if let Ok(geometry) = Geometry::new(&claims) {
            prop_assert_eq!(Geometry::new(&Claims::from(&geometry)), Ok(geometry));
        }
    }

    #[test]
    fn nobody_has_more_than_his_quota(devices in 0_u64..8, memory_bytes in 0_u64..64, asked in any::<Vec<u8>>()) {
        let quota = Quota { devices, memory_bytes };
        let mut held: Vec<u64> = Vec::new();
        for bytes in asked.into_iter().map(u64::from) {
            let used: Use = held.iter().copied().collect();
            let fits = used.devices < devices && used.memory_bytes + bytes <= memory_bytes;
            prop_assert_eq!(quota.admits(used, bytes).is_ok(), fits);
            if fits {
                held.push(bytes);
            }
        }
        prop_assert!(held.len() as u64 <= devices && held.iter().sum::<u64>() <= memory_bytes);
    }
}

fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
    Peer {
        pid: 1,
        uid,
        gid,
        groups: groups.to_vec(),
    }
}

#[test]
fn the_first_rule_that_names_somebody_is_his() {
    let users = parse_names("root:x:0:0::/:\nalice:x:1000:1000::/home/alice:/bin/sh\nbad\n");
    let groups = parse_names("disk:x:6:alice\n");
    let text = r#"
        answer_seconds = 5
        [[allow]]
        users = ["alice", 1001]
        devices = 2
        memory_mib = 64
        [[allow]]
        groups = ["disk"]
        devices = 9
        memory_mib = 1
    "#;
    let policy = Policy::parse(text, &users, &groups).expect("it is right");
    assert_eq!(policy.answer_timeout, Duration::from_secs(5));
    let devices = |peer: Peer| policy.allowed(&peer).map(|it| it.quota.devices);
    assert_eq!(devices(peer(1000, 1000, &[6])), Some(2), "by the first");
    assert_eq!(devices(peer(1001, 1001, &[])), Some(2), "by his number");
    assert_eq!(devices(peer(1002, 6, &[])), Some(9), "by his group");
    assert_eq!(devices(peer(1002, 1002, &[5, 6])), Some(9), "by another");
    assert_eq!(devices(peer(1002, 1002, &[7])), None);
    assert_eq!(devices(peer(0, 0, &[])), Some(u64::MAX), "root");
    let nobody = Policy::nobody();
    assert_eq!(nobody.allowed(&peer(1000, 6, &[6])), None);
}

#[test]
fn a_wrong_policy_says_what_would_be_right() {
    let none = BTreeMap::new();
    for (text, words) in [
        ("allow = 1", "it is such as"),
        ("answer_seconds = 0", "expected 2 to 120"),
        (
            "[[allow]]\ndevices = 1\nmemory_mib = 1",
            "names neither users nor groups",
        ),
        ("[[allow]]\nusers = [1]\ndevices = 1", "memory_mib"),
        (
            "[[allow]]\nusers = [\"eve\"]\ndevices = 1\nmemory_mib = 1",
            "no user 'eve'",
        ),
        (
            "[[allow]]\nusers = [-1]\ndevices = 1\nmemory_mib = 1",
            "a name or a number",
        ),
        (
            "[[allow]]\nuser = [1]\ndevices = 1\nmemory_mib = 1",
            "unknown field",
        ),
    ] {
        let error = Policy::parse(text, &none, &none).expect_err(text);
        assert!(error.contains(words), "no '{words}' in: {error}");
    }
}

#[test]
fn a_policy_that_is_too_long_is_not_cut() {
    let folder = Folder::new("broker-policy");
    let rule = "[[allow]]\nusers = [1]\ndevices = 1\nmemory_mib = 1\n";
    for (bytes, fits) in [(1 << 10, true), (512 << 10, false)] {
        let text: String = iter::repeat_n("# no rule\n", bytes / 10)
            .chain([rule; 2])
            .collect();
        let path = folder.file("broker.toml", text.as_bytes());
        match Policy::read(path.as_ref()) {
            Ok(policy) => assert!(fits && policy.allowed(&peer(1, 1, &[])).is_some()),
            Err(error) => {
                let error = error.chain();
                assert!(!fits && error.contains("longer than 512 KiB"), "{error}");
            }
        }
    }
}

#[test]
fn a_page_of_the_list_fits_into_a_message() {
    let longest = Record {
        id: Some(u32::MAX),
        name: Some("\"".repeat(64)),
        uid: u32::MAX,
        gid: u32::MAX,
        pid: i32::MIN,
        state: State::Starting,
        size_bytes: u64::MAX,
        queues: u16::MAX,
        depth: u16::MAX,
        memory_bytes: u64::MAX,
        mark: u64::MAX,
        run_dir: Some("\"".repeat(256).into()),
        hosted: false,
    };
    let mut page = vec![longest; 200];
    fit(&mut page);
    let devices = page.len();
    let page = encode(&Reply::Devices { devices: page }).expect("a message");
    let most = MESSAGE_BYTES_MAX - 1024..=MESSAGE_BYTES_MAX;
    assert!(
        most.contains(&page.len()),
        "{devices}: {} bytes",
        page.len()
    );
}

#[test]
fn only_a_device_that_answers_nothing_is_overdue() {
    let text = "1 0 8 0 2 0 16 0 3 0 0 4 0 0 0 5 0";
    let counts = Counts::parse(text).expect("it is one");
    let expected = Counts {
        under_way: 3,
        answered: 1 + 2 + 4 + 5,
    };
    assert_eq!(counts, expected);
    assert_eq!(Counts::parse("1 2 x"), None);
    assert_eq!(Counts::parse(""), None);
    let mut watch = Watch::new(Duration::from_secs(30));
    let begin = Instant::now();
    let mut look = |seconds, under_way, answered| {
        let counts = Counts {
            under_way,
            answered,
        };
        watch.is_overdue(counts, begin + Duration::from_secs(seconds))
    };
    assert!(!look(0, 1, 0));
    assert!(!look(29, 1, 0));
    assert!(!look(31, 1, 1), "it has answered one");
    assert!(!look(60, 0, 1), "it has nothing to do");
    assert!(!look(100, 2, 1));
    assert!(!look(130, 2, 1));
    assert!(look(131, 2, 1));
}
