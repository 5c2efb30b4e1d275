//! Devices in tests: calling wasmblk, and what stands on its disks.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::PATIENCE;
use crate::command::output;
use crate::paths;

/// How a call of wasmblk ended.
#[derive(Debug)]
pub struct Reply {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Calls wasmblk.
///
/// # Panics
///
/// Where it does not start, or is ended by a signal.
pub fn wasmblk(arguments: &[&str]) -> Reply {
    let mut command = Command::new(paths::wasmblk());
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .args(arguments)
        .output()
        .expect("wasmblk runs: cargo xtask test builds it");
    Reply {
        code: status
            .code()
            .unwrap_or_else(|| panic!("wasmblk {arguments:?}: {status}")),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Calls wasmblk, which must do it.
///
/// # Panics
///
/// Where it does not.
pub fn must(arguments: &[&str]) -> String {
    let reply = wasmblk(arguments);
    assert_eq!(reply.code, 0, "wasmblk {arguments:?}: {}", reply.stderr);
    reply.stdout
}

/// A device of a guest from `guests/`.
#[derive(Debug)]
pub struct Disk {
    /// Its number, as text for command lines.
    pub id: String,
    /// Its node.
    pub path: PathBuf,
}

impl Disk {
    /// Adds one; it must be usable at once.
    ///
    /// # Panics
    ///
    /// Where it cannot be added.
    pub fn add(guest: &str, arguments: &[&str]) -> Disk {
        let file = paths::guest(guest).display().to_string();
        let path = must(&[&["add", &file], arguments].concat());
        let path = PathBuf::from(path.trim());
        assert!(path.exists(), "{} is printed but not there", path.display());
        let id = path
            .to_string_lossy()
            .trim_start_matches("/dev/ublkb")
            .to_owned();
        Disk { id, path }
    }

    /// Its path as text.
    ///
    /// # Panics
    ///
    /// Never: it is ASCII.
    pub fn node(&self) -> &str {
        self.path.to_str().expect("ASCII")
    }

    /// One field of `info --json`, such as `/stats/reads`.
    ///
    /// # Panics
    ///
    /// Where there is no such field.
    pub fn info(&self, field: &str) -> String {
        let text = must(&["info", "--json", &self.id]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("info prints JSON");
        let value = value
            .pointer(field)
            .unwrap_or_else(|| panic!("no {field} in {text}"));
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    }

    /// A limit of the kernel's queue, such as `discard_max_bytes`.
    ///
    /// # Panics
    ///
    /// Where the kernel has no such limit.
    pub fn queue(&self, limit: &str) -> String {
        let path = format!("/sys/block/ublkb{}/queue/{limit}", self.id);
        fs::read_to_string(&path)
            .unwrap_or_else(|why| panic!("{path}: {why}"))
            .trim()
            .to_owned()
    }

    /// Deletes it; it must be gone at once.
    ///
    /// # Panics
    ///
    /// Where it cannot be deleted or leaves something behind.
    pub fn del(self) {
        must(&["del", &self.id]);
        assert!(
            !self.path.exists(),
            "{} is deleted but there",
            self.path.display()
        );
        nothing_left();
    }
}

/// Makes sure that no device, process or socket of wasmblk is left.
///
/// # Panics
///
/// Where something is.
pub fn nothing_left() {
    let entries = |folder: &str| -> Vec<String> {
        let Ok(entries) = fs::read_dir(folder) else {
            return Vec::new();
        };
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(entries("/sys/class/ublk-char"), [""; 0], "devices are left");
    let sockets = entries("/run/wasmblk")
        .into_iter()
        .filter(|name| name.ends_with(".sock"));
    assert_eq!(sockets.collect::<Vec<_>>(), [""; 0], "sockets are left");
    // Its last word comes a moment before its end.
    wait_until("no process is left", || processes().is_empty());
}

/// All processes of wasmblk: two for each device.
#[must_use]
pub fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid: &u32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie has ended; nobody here reaps it.
        name.starts_with("wasmblk") && !stat.contains(") Z ")
    })
    .collect()
}

/// Runs a program of the system, which must succeed.
///
/// # Panics
///
/// Where it does not.
pub fn run(program: &str, arguments: &[&str]) -> String {
    output(Command::new(program).args(arguments)).unwrap_or_else(|why| panic!("{why:#}"))
}

/// Waits until something is so.
///
/// # Panics
///
/// Where it is not so within [`PATIENCE`].
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs fio on a disk with the options that all tests share; it must find no error.
///
/// # Panics
///
/// Where it finds one.
pub fn fio(disk: &Path, arguments: &[&str]) {
    let file = format!("--filename={}", disk.display());
    let common = [
        "--name=test",
        &file,
        "--direct=1",
        "--ioengine=io_uring",
        "--group_reporting",
        "--thread",
    ];
    run("fio", &[&common, arguments].concat());
}
