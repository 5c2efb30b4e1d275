//! `--policy`: grants and limits in a file, each mistake with its line.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;

use tests::bed::in_bed;
use tests::disk::{Disk, must, wasmblk};
use tests::paths;
use tests::uml::Machine;

use crate::cli::{Folder, expect};

fn guest(name: &str) -> String {
    paths::guest(name).display().to_string()
}

/// What `nbdinfo` says of a guest that is served under a policy.
fn served(folder: &Folder, name: &str, policy: &str, more: &[&str]) -> serde_json::Value {
    let (guest, policy) = (guest(name), folder.file("policy.toml", policy.as_bytes()));
    let run = ["--run", "nbdinfo --json \"$uri\""];
    let words = [&["nbd", &guest, "--policy", &policy], &run[..], more].concat();
    let info: serde_json::Value = serde_json::from_str(&must(&words)).expect("JSON");
    info["exports"][0].clone()
}

#[test]
fn a_file_grants_and_the_command_line_is_put_over_it() {
    let folder = Folder::new("policy");
    let policy = "set = [\"size=3M\", \"block=4096\"]\nmemory_mib = 64\ntransfer_kib = 16\n";
    let export = served(&folder, "memory", policy, &[]);
    assert_eq!(export["export-size"], 3 << 20);
    assert_eq!(export["block_size_minimum"], 4096);
    let export = served(&folder, "memory", policy, &["--set", "size=5M"]);
    assert_eq!(export["export-size"], 5 << 20, "the key's new value");
    assert_eq!(
        export["block_size_minimum"], 4096,
        "the other key's old one"
    );
    // The limit of the file is too little, that of the command line is not.
    let policy = "memory_mib = 1\nset = [\"size=1M\"]\n";
    let path = folder.file("small.toml", policy.as_bytes());
    let small = ["nbd", &guest("memory"), "--policy", &path, "--run", "true"];
    assert_ne!(wasmblk(&small).code, 0);
    must(&[&small[..], &["--memory-mib", "256"]].concat());
}

#[test]
fn stores_are_granted_from_the_files_folder_on() {
    let folder = Folder::new("policy-stores");
    let disk = folder.file("disk.img", &[0; 8192]);
    let other = folder.file("other.img", &[0; 4096]);
    for policy in [
        "stores.data = { path = \"disk.img\", read_only = true }\n".to_owned(),
        format!("[stores]\ndata = {{ path = \"{disk}\", read_only = true }}\n"),
        format!("[stores.data]\npath = \"{disk}\"\nread_only = true\n"),
    ] {
        let export = served(&folder, "file", &policy, &[]);
        assert_eq!(export["export-size"], 8192);
        assert_eq!(export["is_read_only"], true);
        let store = format!("data={other}");
        let export = served(&folder, "file", &policy, &["--store", &store]);
        assert_eq!(export["export-size"], 4096, "the store of that name");
        assert_eq!(export["is_read_only"], false, "all of it");
    }
}

#[test]
fn a_missing_store_is_explained_for_both() {
    let folder = Folder::new("policy-missing");
    let line = "stores.data = { path = \"PATH\" }";
    for name in ["file", "file-c"] {
        let reply = wasmblk(&["nbd", &guest(name), "--run", "true"]);
        expect(&reply, 2, &["--store data=PATH", line, "policy file"]);
    }
    // As it is said, it works.
    let image = folder.file("disk.img", &[0; 4096]);
    let policy = line.replace("PATH", &image);
    assert_eq!(served(&folder, "file", &policy, &[])["export-size"], 4096);
}

#[test]
fn only_the_guest_of_the_digest_is_taken() {
    let folder = Folder::new("policy-digest");
    let report = must(&["inspect", "--json", &guest("null")]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    let policy = format!("\ndigest = {}\n", report["digest"]);
    served(&folder, "null", &policy, &[]);
    let path = folder.file("policy.toml", policy.as_bytes());
    for command in ["nbd", "add"] {
        let reply = wasmblk(&[command, &guest("null-device"), "--policy", &path]);
        let says = [
            "policy.toml:2",
            "must have the digest",
            "null-device.wasm has",
        ];
        expect(&reply, 2, &says);
    }
}

#[test]
fn mistakes_are_named_with_file_line_and_remedy() {
    let folder = Folder::new("policy-wrong");
    let memory = guest("memory");
    for (line, says) in [
        (
            "colour = 1",
            "unknown field `colour`, expected one of `digest`",
        ),
        ("memory_mib = 0", "memory_mib = 0: expected 1 to 65536"),
        ("memory_mib = -1", "expected u64"),
        ("memory_mib = \"64\"", "expected u64"),
        ("deadline = 61", "expected 1 to 60"),
        ("deadline = 1.5", "expected u64"),
        ("cpu_percent = 101", "expected 1 to 100"),
        ("log_lines = 10001", "expected 0 to 10000"),
        ("transfer_kib = 6", "expected a multiple of 4"),
        ("queues = 257", "expected 1 to 256"),
        ("depth = 0", "expected 1 to 4096"),
        ("set = \"size=1M\"", "set = [\"size=10G\"]"),
        ("set = [\"size\"]", "expected \"KEY=VALUE\""),
        ("set = [\"=1\"]", "expected \"KEY=VALUE\""),
        ("digest = \"12\"", "expected 64 hexadecimal digits"),
        ("stores.data = \"x\"", "expected { path = \"PATH\" }"),
        ("stores.data = {}", "missing field `path`"),
        ("stores.data = { path = \"\" }", "there is no path"),
        (
            "stores.data = { path = \"x\", ro = true }",
            "`read_only`, `direct`",
        ),
        (
            "stores.\"a b\" = { path = \"x\" }",
            "the name is not letters",
        ),
        ("memory_mib = 1 # again", "duplicate key"),
        ("memory_mib 64", "memory_mib = 64"),
        ("= 64", "memory_mib = 64"),
    ] {
        let first = if line.contains("again") {
            "memory_mib = 1"
        } else {
            ""
        };
        let path = folder.file(
            "policy.toml",
            format!("# First.\n{first}\n{line}\n").as_bytes(),
        );
        let reply = folder.add(&[&memory, "--policy", &path]);
        expect(&reply, 2, &["policy.toml:3: ", says]);
    }
}

#[test]
fn a_file_that_cannot_be_trusted_or_read_is_refused() {
    let folder = Folder::new("policy-file");
    let memory = guest("memory");
    let path = folder.file("policy.toml", b"memory_mib = 64\n");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("chmod");
    expect(
        &folder.add(&[&memory, "--policy", &path]),
        2,
        &["chmod o-w"],
    );
    let says = ["cannot read --policy /nowhere.toml", "No such file"];
    expect(
        &folder.add(&[&memory, "--policy", "/nowhere.toml"]),
        2,
        &says,
    );
    let path = folder.file("long.toml", b"");
    File::create(&path)
        .and_then(|file| file.set_len(1 << 40))
        .expect("a hole");
    expect(
        &folder.add(&[&memory, "--policy", &path]),
        2,
        &["longer than 512 KiB"],
    );
    let path = folder.file("bytes.toml", b"\xff");
    expect(
        &folder.add(&[&memory, "--policy", &path]),
        2,
        &["cannot read --policy"],
    );
}

#[test]
fn a_device_is_made_by_a_policy() {
    in_bed(&Machine::default(), || {
        let limits = "memory_mib = 64\ncpu_percent = 50\ndeadline = 7\nlog_lines = 3\n";
        let policy = format!("set = [\"size=16M\"]\ndepth = 8\n{limits}");
        fs::write("/tmp/policy.toml", policy).expect("a file");
        let disk = Disk::add("memory", &["--policy", "/tmp/policy.toml"]);
        for (field, is) in [
            ("/size_bytes", 16 << 20),
            ("/limits/memory_bytes", 64 << 20),
            ("/limits/cpu_percent", 50),
            ("/limits/deadline_ms", 7000),
            ("/limits/log_lines_per_second", 3),
            ("/depth", 8),
        ] {
            assert_eq!(disk.info(field), is.to_string(), "{field}");
        }
        disk.del();
        let disk = Disk::add("memory", &["--policy", "/tmp/policy.toml", "--depth", "16"]);
        assert_eq!(disk.info("/depth"), "16");
        disk.del();
    });
}
