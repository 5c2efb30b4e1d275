//! What a server of NBD has given up, and its command has not.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tests::disk::{run, wasmblk};
use tests::paths;

use crate::cli::{Folder, expect};
use crate::confine::{assert_confined, assert_each, field};

/// A server of NBD, and its process id.
fn nbd(arguments: &[&str]) -> (Child, String) {
    let memory = paths::guest("memory").display().to_string();
    let mut server = Command::new(paths::wasmblk())
        .args(["nbd", &memory, "--set", "size=16M", "-U", "-"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("wasmblk runs");
    let mut line = String::new();
    let mut stdout = BufReader::new(server.stdout.take().expect("a pipe"));
    stdout.read_line(&mut line).expect("a line");
    let pid = server.id().to_string();
    (server, pid)
}

#[test]
fn a_server_of_nbd_gives_up_what_it_can() {
    for grant in [&[][..], &["--net", "127.0.0.1:1", "--dir", "/data=/"]] {
        // Its guest is open when it says where it listens, and it was confined before.
        let (mut server, pid) = nbd(grant);
        assert_confined(&pid);
        // Two from the begin, and one that refuses code when it is loaded.
        assert_each(&pid, "Seccomp_filters", "3");
        run("kill", &["-TERM", &pid]);
        assert!(server.wait().expect("it ends").success());
    }
}

#[test]
fn a_server_of_nbd_has_nothing_when_it_loads_its_guest() {
    let folder = Folder::new("nbd-loads");
    let (null, cache) = (
        paths::guest("null").display().to_string(),
        folder.path("cache"),
    );
    let (ran, socket) = (folder.path("ran"), folder.path("socket"));
    let command = format!("touch {ran}");
    let words = ["--log", "debug", "nbd", &null, "--cache-dir", &cache];
    let more = ["--run", &command, "-U", &socket];
    assert_eq!(wasmblk(&[&words[..], &more].concat()).code, 0);
    fs::remove_file(&ran).expect("the command has run");
    let compiled = fs::read_dir(&cache).expect("a folder").next();
    let compiled = compiled.expect("a file").expect("a name").path();
    // What a compiler might write that somebody else has taken over.
    fs::write(compiled, "other code").expect("it is ours");
    let reply = wasmblk(&[&words[..], &more].concat());
    expect(&reply, 1, &["cannot load the compiled", "--cache-dir"]);
    let (before, _) = reply.stderr.split_once("cannot load").expect("words");
    let on = before.lines().find(|line| line.contains("confined by: "));
    let on = on.unwrap_or_else(|| panic!("{before}"));
    for layer in ["capabilities", "no-new-privs", "seccomp"] {
        assert!(on.contains(layer), "no {layer} in {on}");
    }
    assert!(!before.contains("write-execute"), "{before}");
    // Nothing is left, and the command has not begun.
    assert!(!Path::new(&ran).exists() && !Path::new(&socket).exists());
}

/// By the names of their threads.
#[test]
fn who_has_a_budget_gives_way_and_its_clock_does_not() {
    let memory = paths::guest("memory").display().to_string();
    let words = ["nbd", &memory, "--set", "size=16M", "--cpu-percent", "20"];
    let command = "cd /proc/$PPID/task && for it in *; do cat $it/stat; done";
    let output = Command::new(paths::wasmblk())
        .args([&words[..], &["--run", command]].concat())
        .output()
        .expect("wasmblk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let nice = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("({name})")));
        let line = line.unwrap_or_else(|| panic!("no thread {name}: {text}"));
        let (_, fields) = line.rsplit_once(") ").expect("a name");
        fields.split(' ').nth(16).expect("field 19").to_owned()
    };
    assert_eq!((&*nice("wasmblk"), &*nice("clock")), ("7", "0"));
}

#[test]
fn a_command_of_nbd_keeps_what_it_had() {
    let mut command = Command::new(paths::wasmblk());
    let memory = paths::guest("memory").display().to_string();
    command.args(["nbd", &memory, "--set", "size=16M", "--run"]);
    let output = command
        .arg("cat /proc/self/status")
        .output()
        .expect("wasmblk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let ours = fs::read_to_string("/proc/self/status").expect("it is there");
    for name in ["CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
        assert_eq!(field(&text, name), field(&ours, name), "{name}");
    }
}
