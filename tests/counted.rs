//! What the host holds for a guest is the guest's memory, too: measured in the process that serves it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command};

use tests::disk::run;
use tests::paths;
use wasmblk::guest::Limits;
use wasmblk::limits;

use crate::adversary::{Greedy, greedy_guests, guest_with_a_name};
use crate::cli::Folder;
use crate::direct::{self, Prepared};

/// What these guests may have.
const MEMORY_MIB: u64 = 16;

/// How much more than that they may come to take.
const BEYOND_BYTES: u64 = 64 << 10;

/// Memory that a process has and that is no file's; none where it has ended.
fn bytes(server: &Child) -> u64 {
    let all = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.id()));
    let all = all.unwrap_or_default();
    let lines = all.lines().filter(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("Pss_Anon:" | "Pss_Shmem:"))
    });
    let kib = lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.sum::<u64>() << 10
}

/// The most that a server of this guest is seen to have, until it has opened it and told so.
fn most(folder: &Folder, guest: &[u8]) -> u64 {
    let guest = folder.file("guest.wasm", guest);
    let (told, complaints) = (folder.path("told"), folder.path("complaints"));
    let mut server = Command::new(paths::wasmblk())
        .args(["nbd", &guest, "--memory-mib", &MEMORY_MIB.to_string()])
        .args(["--cache-dir", &folder.path("cache"), "--log-lines", "1"])
        .args(["--store", &format!("data={}", folder.path("data"))])
        .args(["--dir", &format!("/granted={}", folder.path("granted"))])
        .args(["--run", &format!("touch {told}; exec sleep 600")])
        .stderr(File::create(&complaints).expect("a file"))
        .spawn()
        .expect("wasmblk runs");
    let mut most = 0;
    while !Path::new(&told).exists() {
        if server.try_wait().expect("a child").is_some() {
            panic!("{}", fs::read_to_string(complaints).expect("text"));
        }
        most = most.max(bytes(&server));
    }
    for _ in 0..10 {
        most = most.max(bytes(&server));
    }
    // The command is ended by the server.
    run("kill", &["-TERM", &server.id().to_string()]);
    server.wait().expect("it ends");
    fs::remove_file(told).expect("it is there");
    most
}

#[test]
fn what_passes_is_not_beyond_the_limit() {
    let folder = Folder::new("counted");
    folder.file("data", &[7; 4 << 20]);
    fs::create_dir(folder.path("granted")).expect("a folder");
    folder.file("granted/file", &[7; 1 << 20]);
    for n in 0..2000 {
        folder.file(&format!("granted/a-name-of-some-length-{n}"), b"");
    }
    let complaint = |guest: Greedy| {
        let idle = most(&folder, &guest.idle);
        let more = most(&folder, &guest.greedy).saturating_sub(idle);
        let limit = MEMORY_MIB << 20;
        // It has used what it has, but for what is kept for calls and listings.
        let right = (limit / 2..=limit + BEYOND_BYTES).contains(&more);
        (!right).then(|| format!("{}: {more} bytes of {limit}", guest.name))
    };
    let complaints: Vec<String> = greedy_guests().into_iter().filter_map(complaint).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn names_in_reports_are_counted() {
    let folder = Folder::new("names");
    let limits = Limits {
        memory_bytes: MEMORY_MIB << 20,
        ..direct::limits()
    };
    let used = |name_bytes| {
        let guest = folder.file("guest.wasm", &guest_with_a_name(name_bytes));
        let guest = Prepared::of_file(&guest, limits).expect("it loads");
        let opened = guest
            .open()
            .map(|_opened| guest.guest().usage().memory_bytes);
        opened.map_err(|error| error.chain())
    };
    let few = used(10).expect("it opens");
    let more = used(10 << 10).expect("it opens") - few;
    let frames = limits::STACK_FRAMES_MAX.get() as u64;
    assert_eq!(more, frames * (10 << 10) - frames * 10);
    let error = used(1 << 20).expect_err("it has no room");
    assert!(error.contains("--memory-mib"), "{error}");
}
