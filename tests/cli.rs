//! The command line without a kernel that has ublk: every mistake gets a clear error and the right
//! exit code.

use std::fs;
use std::path::PathBuf;

use tests::disk::{Reply, wasmblk};
use tests::{paths, steps};

/// A folder of one test, removed at the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("wasmblk-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).expect("a file");
        path.display().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Calls `wasmblk add` with everything it leaves in this folder.
    pub(crate) fn add(&self, arguments: &[&str]) -> Reply {
        let folder = |name: &str| self.0.join(name).display().to_string();
        let (run, cache) = (folder("run"), folder("cache"));
        wasmblk(
            &[
                &["add", "--run-dir", &run, "--cache-dir", &cache],
                arguments,
            ]
            .concat(),
        )
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub(crate) fn expect(reply: &Reply, code: i32, words: &[&str]) {
    assert_eq!(reply.code, code, "{}", reply.stderr);
    for word in words {
        assert!(
            reply.stderr.contains(word),
            "no '{word}' in: {}",
            reply.stderr
        );
    }
    assert!(reply.stdout.is_empty(), "printed: {}", reply.stdout);
}

/// The bytes of a guest with every `from` made `to`; both of the same length.
pub(crate) fn patched(guest: &str, from: &str, to: &str) -> Vec<u8> {
    let mut bytes = fs::read(paths::guest(guest)).expect("cargo xtask built it");
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut found = 0;
    for at in 0..=bytes.len() - from.len() {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0, "nothing to patch");
    bytes
}

#[test]
fn a_file_that_is_not_there() {
    let folder = Folder::new("missing");
    let path = folder.0.join("no.wasm").display().to_string();
    expect(
        &folder.add(&[&path]),
        2,
        &["cannot read the guest", "no.wasm", "No such file"],
    );
}

#[test]
fn a_folder_in_place_of_a_file() {
    let folder = Folder::new("folder");
    let path = folder.0.display().to_string();
    expect(&folder.add(&[&path]), 2, &["is a folder"]);
}

#[test]
fn a_file_that_is_not_wasm() {
    let folder = Folder::new("not-wasm");
    for content in [&b""[..], b"\0asm", b"#!/bin/sh\n"] {
        let path = folder.file("text.wasm", content);
        expect(
            &folder.add(&[&path]),
            2,
            &["text.wasm", "is not WebAssembly"],
        );
    }
}

#[test]
fn a_core_module_in_place_of_a_component() {
    let folder = Folder::new("core");
    let path = folder.file("core.wasm", b"\0asm\x01\0\0\0");
    expect(
        &folder.add(&[&path]),
        2,
        &["core.wasm", "wasm-tools component new"],
    );
}

#[test]
fn a_component_that_is_cut_short() {
    let folder = Folder::new("short");
    let whole = fs::read(paths::guest("null")).expect("cargo xtask built it");
    let path = folder.file("short.wasm", &whole[..whole.len() / 2]);
    expect(
        &folder.add(&[&path]),
        2,
        &["short.wasm", "not a valid component"],
    );
}

#[test]
fn a_component_without_the_export() {
    let folder = Folder::new("empty");
    let path = folder.file("empty.wasm", b"\0asm\x0d\0\x01\0");
    expect(
        &folder.add(&[&path]),
        2,
        &[
            "empty.wasm",
            "exports nothing",
            "wasmblk:block/device@0.1.0",
        ],
    );
    let path = folder.file(
        "other.wasm",
        &patched("null", "wasmblk:block/", "another:packs/"),
    );
    expect(
        &folder.add(&[&path]),
        2,
        &["other.wasm", "does not export", "another:packs/ring"],
    );
}

#[test]
fn another_version_of_the_wit() {
    let folder = Folder::new("version");
    let path = folder.file("new.wasm", &patched("null", "@0.1.0", "@0.2.0"));
    expect(
        &folder.add(&[&path]),
        2,
        &["new.wasm", "ring@0.2.0", "speaks version 0.1", "rebuild"],
    );
}

#[test]
fn an_import_that_nothing_grants() {
    let folder = Folder::new("import");
    let path = folder.file(
        "net.wasm",
        &patched("memory", "wasmblk:block/host", "wasi:net/socketsxx"),
    );
    expect(
        &folder.add(&[&path]),
        2,
        &["net.wasm", "wasi:net/socketsxx", "does not grant"],
    );
}

#[test]
fn bad_options_are_named() {
    let folder = Folder::new("options");
    let memory = paths::guest("memory").display().to_string();
    let size = ["--set", "size=1M"];
    for (arguments, words) in [
        (&["--set", "size"][..], &["--set size", "KEY=VALUE"][..]),
        (&["--set", "=1"], &["KEY=VALUE"]),
        (&["--queues", "0"], &["--queues"]),
        (&["--depth", "4097"], &["--depth", "4096"]),
        (
            &["--depth", "4096", "--queues", "16"],
            &["--queues 16 times --depth 4096", "32768"],
        ),
        (&["--id", "1048576"], &["--id"]),
        (&["--name", "7"], &["--name 7", "a letter"]),
        (&["--name", "a/b"], &["--name a/b"]),
        (&["--serial", "a b"], &["--serial a b"]),
        (&["--memory-mib", "0"], &["--memory-mib"]),
        (&["--log", "wasmblk=loud"], &["--log wasmblk=loud"]),
        (&["--colour"], &["--colour"]),
    ] {
        expect(
            &folder.add(&[&[&*memory][..], &size, arguments].concat()),
            2,
            words,
        );
    }
}

#[test]
fn the_guest_explains_its_own_options() {
    let folder = Folder::new("guest-options");
    let memory = paths::guest("memory").display().to_string();
    for (arguments, words) in [
        (&[][..], "'size' is missing"),
        (&["--set", "size=10X"], "K, M, G or T"),
        (&["--set", "size=ten"], "expected a number"),
        (
            &["--set", "size=1M", "--set", "colour=red"],
            "unknown option 'colour'",
        ),
        (
            &["--set", "size=1000"],
            "size-bytes is 1000; it must be a multiple of 512",
        ),
        (
            &["--set", "size=1M", "--set", "block=3000"],
            "logical-block-bytes is 3000",
        ),
        (&["--set", "size=100T"], "its table alone needs"),
    ] {
        expect(
            &folder.add(&[&[&*memory][..], arguments].concat()),
            2,
            &["memory.wasm", words],
        );
    }
}

#[test]
fn without_a_driver_the_remedy_is_named_and_nothing_is_left() {
    if fs::exists("/dev/ublk-control").expect("/dev") {
        steps::say("skipped: this kernel has ublk, so there is nothing to complain about");
        return;
    }
    let folder = Folder::new("no-driver");
    let memory = paths::guest("memory").display().to_string();
    let reply = folder.add(&[&memory, "--set", "size=1M"]);
    expect(
        &reply,
        1,
        &["/dev/ublk-control", "modprobe ublk_drv", "wasmblk doctor"],
    );
    let left: Vec<_> = fs::read_dir(folder.0.join("run"))
        .expect("run")
        .flatten()
        .collect();
    assert!(
        left.iter().all(|entry| entry.file_name() == "lock"),
        "{left:?}"
    );
    let reply = wasmblk(&["doctor"]);
    assert_eq!(reply.code, 1);
    assert!(reply.stdout.contains("FAIL  driver"), "{}", reply.stdout);
    let json: serde_json::Value =
        serde_json::from_str(&wasmblk(&["doctor", "--json"]).stdout).expect("JSON");
    assert!(json.as_array().is_some_and(|checks| checks.len() > 5));
    assert_eq!(wasmblk(&["del", "0"]).code, 1);
}

#[test]
fn help_and_completions_are_there() {
    for arguments in [
        &["--help"][..],
        &["add", "--help"],
        &["--version"],
        &["completions", "bash"],
    ] {
        let reply = wasmblk(arguments);
        assert_eq!(reply.code, 0, "{}", reply.stderr);
        assert!(reply.stdout.contains("wasmblk"));
    }
    assert_eq!(wasmblk(&[]).code, 2);
    assert_eq!(wasmblk(&["del"]).code, 2);
    for command in ["mind", "plane"] {
        assert_eq!(wasmblk(&[command]).code, 2, "nobody calls that by hand");
    }
}
