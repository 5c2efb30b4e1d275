//! The compiler, in a process of its own: what it may take, and what it has.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tests::PATIENCE;
use tests::bed::in_bed;
use tests::disk::{Disk, nothing_left, wait_until, wasmblk};
use tests::paths;
use tests::uml::Machine;
use wasmblk::guest::{Cache, Source, compile, new_engine};

use crate::adversary::{instances_without_end, large_guest};
use crate::cli::{Folder, expect};

#[test]
fn a_guest_that_takes_long_to_compile_is_given_up() {
    let folder = Folder::new("compile-time");
    let guest = folder.file("large.wasm", &large_guest(2000, 1000));
    let begin = Instant::now();
    let reply = folder.add(&[&guest, "--compile-seconds", "1"]);
    expect(
        &reply,
        1,
        &[
            "large.wasm",
            "longer to compile than 1 s",
            "--compile-seconds",
        ],
    );
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn a_guest_that_takes_much_memory_to_compile_is_given_up() {
    let folder = Folder::new("compile-memory");
    let guest = folder.file("large.wasm", &large_guest(1, 1_000_000));
    let reply = folder.add(&[&guest, "--compile-mib", "64"]);
    expect(
        &reply,
        1,
        &[
            "large.wasm",
            "more memory to compile than 64 MiB",
            "--compile-mib",
        ],
    );
}

#[test]
fn a_guest_of_instances_without_end_is_given_up() {
    let folder = Folder::new("compile-instances");
    let guest = folder.file("doubled.wasm", &instances_without_end());
    let begin = Instant::now();
    let limits = ["--compile-seconds", "5", "--compile-mib", "128"];
    let reply = folder.add(&[&[guest.as_str()], &limits[..]].concat());
    expect(
        &reply,
        1,
        &["doubled.wasm", "to compile than", "--compile-"],
    );
    assert!(begin.elapsed() < PATIENCE);
}

#[test]
fn the_compiler_has_no_privilege() {
    let folder = Folder::new("compiler");
    let guest = folder.file("large.wasm", &large_guest(2000, 1000));
    let words = [
        "nbd",
        &guest,
        "--run",
        "true",
        "--compile-seconds",
        "3",
        "--cache-dir",
        "/nowhere",
    ];
    let mut server = Command::new(paths::wasmblk())
        .args(words)
        .stderr(Stdio::null())
        .spawn()
        .expect("wasmblk runs");
    let children = format!("/proc/{0}/task/{0}/children", server.id());
    let child = || fs::read_to_string(&children).unwrap_or_default();
    wait_until("the compiler runs", || !child().is_empty());
    let status = format!("/proc/{}/status", child().trim());
    let is_confined = || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let has = |line: &str| {
            status
                .lines()
                .any(|it| it.split_whitespace().eq(line.split(' ')))
        };
        has("CapEff: 0000000000000000") && has("NoNewPrivs: 1") && has("Seccomp: 2")
    };
    wait_until("it is confined", is_confined);
    // Who started it may end at any time.
    server.kill().expect("it runs");
    server.wait().expect("it has ended");
    wait_until("it has ended too", || !fs::exists(&status).unwrap_or(true));
}

#[test]
fn a_guest_is_loaded_by_who_has_nothing() {
    in_bed(&Machine::default(), || {
        Disk::add("null", &[]).del();
        let null = paths::guest("null").display().to_string();
        let compiled = fs::read_dir("/tmp/cache").expect("a folder").next();
        let compiled = compiled.expect("a file").expect("a name").path();
        // What a compiler might write that somebody else has taken over.
        fs::write(compiled, "other code").expect("it is ours");
        let reply = wasmblk(&["--log", "debug", "add", &null]);
        expect(&reply, 1, &["cannot load the compiled", "--cache-dir"]);
        let (before, _) = reply.stderr.split_once("cannot load").expect("words");
        let on = "confined by: mounts capabilities no-new-privs seccomp";
        assert!(before.contains(on), "{before}");
        nothing_left();
    });
}

#[test]
fn nobody_who_is_given_machine_code_can_change_it() {
    let folder = Folder::new("machine-code");
    let cache = Path::new(&folder.file("x", b"")).with_file_name("cache");
    let cache = Cache::open(&cache).expect("a folder");
    let source = Source::read(&paths::guest("null")).expect("it is built");
    let engine = new_engine().expect("an engine");
    let code = |_: &Source| Ok(b"machine code".to_vec());
    // Made just now, found in the cache, and in memory.
    for cache in [Some(&cache), Some(&cache), None] {
        let artefact = compile(&engine, &source, cache, code).expect("it compiles");
        let mut file = artefact.file();
        assert!(file.write_all(b"other").is_err(), "{cache:?}");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("it can be read");
        assert_eq!(text, "machine code", "{cache:?}");
    }
}
