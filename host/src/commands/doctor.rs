//! `wasmblk doctor`: what this machine can do. Each line says what to do about it.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use super::{print, print_json};
use crate::cli::Format;
use crate::config;
use crate::confine::{self, Layer};
use crate::error::{Error, Result};
use crate::guest::new_engine;
use crate::ublk::{CONTROL_PATH, Control, abi::feature};
use crate::udev::{self, Installed};

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    found: String,
    remedy: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        let remedy = Some(remedy.into());
        Check {
            check,
            verdict: Verdict::Warn,
            found: found.into(),
            remedy,
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check {
            verdict: Verdict::Fail,
            ..Check::warn(check, found, remedy)
        }
    }
}

pub(super) fn run(format: Format, run_dir: Option<&Path>, cache_dir: Option<&Path>) -> Result<()> {
    let release = kernel_release();
    let mut checks = vec![kernel(&release), driver(&release), control(), io_uring()];
    checks.extend(features());
    checks.extend([
        unprivileged(),
        files_max(),
        run_folder(run_dir),
        cache_folder(cache_dir),
        sandbox(),
    ]);
    checks.push(udev_rules());
    checks.extend(confinement());
    if format.json {
        print_json(&checks)?;
    } else {
        print(table(&checks))?;
    }
    if checks.iter().any(|check| check.verdict == Verdict::Fail) {
        return Err(Error::failed(
            "this machine cannot make ublk devices; see the lines above",
        ));
    }
    Ok(())
}

fn table(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check {
        check,
        verdict,
        found,
        remedy,
    } in checks
    {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verdict:<5} {check:<14} {found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:<20} -> {remedy}", "");
        }
    }
    text
}

fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

/// The first numbers of a release such as 6.12.117+deb13-cloud-amd64.
fn version(release: &str) -> (u32, u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

fn kernel(release: &str) -> Check {
    const NAME: &str = "kernel";
    match version(release) {
        (6, 17, _) | (6, 18, 4 | 5) => Check::fail(
            NAME,
            format!("Linux {release}: adding or starting a ublk device may hang or crash it"),
            "use 6.12, or 6.18.6 and newer",
        ),
        (major, minor, _) if (major, minor) < (6, 12) => Check::warn(
            NAME,
            format!("Linux {release}: older than what wasmblk is tested with"),
            "use 6.12 or newer",
        ),
        _ => Check::ok(NAME, format!("Linux {release}")),
    }
}

/// Is the driver loaded, built in, or at least to be had?
fn driver(release: &str) -> Check {
    const NAME: &str = "driver";
    let modules = PathBuf::from("/lib/modules").join(release);
    let listed = |list: &str| {
        fs::read_to_string(modules.join(list)).is_ok_and(|list| list.contains("/ublk_drv.ko"))
    };
    if Path::new("/sys/class/ublk-char").exists() {
        Check::ok(NAME, "ublk_drv is loaded")
    } else if listed("modules.dep") || listed("modules.builtin") {
        Check::fail(NAME, "ublk_drv is not loaded", "modprobe ublk_drv")
    } else {
        Check::fail(
            NAME,
            "this kernel has no ublk_drv",
            "install a kernel with CONFIG_BLK_DEV_UBLK (Debian: linux-image-amd64 of trixie or newer)",
        )
    }
}

fn control() -> Check {
    const NAME: &str = "permission";
    match OpenOptions::new().read(true).write(true).open(CONTROL_PATH) {
        Ok(_) => Check::ok(NAME, format!("{CONTROL_PATH} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::fail(
            NAME,
            format!("{CONTROL_PATH}: {error}"),
            "run wasmblk as root; or have root give the node to a group of yours, for --unprivileged (README)",
        ),
        Err(error) => Check::fail(
            NAME,
            format!("{CONTROL_PATH}: {error}"),
            "load the driver first",
        ),
    }
}

fn io_uring() -> Check {
    const NAME: &str = "io_uring";
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    match disabled.trim() {
        "2" => Check::fail(NAME, "switched off", "sysctl kernel.io_uring_disabled=0"),
        "1" => Check::warn(
            NAME,
            "only for root and one group",
            "run wasmblk as root, or sysctl kernel.io_uring_disabled=0",
        ),
        _ => Check::ok(NAME, "not switched off"),
    }
}

/// What the driver offers, where it can be asked.
fn features() -> Vec<Check> {
    const NAME: &str = "features";
    let control = match Control::open() {
        Ok(control) => control,
        Err(error) => return vec![Check::fail(NAME, error.chain(), "see the lines above")],
    };
    let has = |bit: u64| control.features() & bit != 0;
    let names: Vec<&str> = (0_u32..)
        .zip(feature::NAMES)
        .filter_map(|(bit, name)| has(1 << bit).then_some(name))
        .collect();
    let mut checks = vec![Check::ok(NAME, names.join(" "))];
    if !has(feature::SAFE_STOP_DEV) {
        checks.push(Check::warn(
            NAME,
            "'del' looks by itself whether a device is in use; somebody may open it meanwhile",
            "Linux 7.0 and newer decide it in the kernel",
        ));
    }
    checks
}

/// What the kernel allows users without privilege.
fn unprivileged() -> Check {
    const NAME: &str = "unprivileged";
    let path = "/sys/module/ublk_drv/parameters/ublks_max";
    let max = fs::read_to_string(path).unwrap_or_else(|_| "an unknown number of".into());
    Check::ok(
        NAME,
        format!(
            "at most {} devices of all users ({path}): data is copied, a request may take 30 s, and the owner alone \
             opens them",
            max.trim()
        ),
    )
}

/// A data plane needs some ten files, whatever it serves.
fn files_max() -> Check {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).current {
        Some(max) if max < 64 => Check::fail(NAME, format!("limit {max}"), "ulimit -n 1024"),
        Some(max) => Check::ok(NAME, format!("limit {max}")),
        None => Check::ok(NAME, "no limit"),
    }
}

fn run_folder(given: Option<&Path>) -> Check {
    const NAME: &str = "run folder";
    let folder = match config::run_dir(given) {
        Ok(folder) => folder,
        Err(error) => return Check::fail(NAME, error.chain(), "say --run-dir"),
    };
    match writable(&folder) {
        Ok(()) => Check::ok(NAME, format!("{} can be used", folder.display())),
        Err(error) => Check::fail(
            NAME,
            format!("{}: {error}", folder.display()),
            "say --run-dir",
        ),
    }
}

/// Whether `add` could use a folder, or make it: then the first one above it counts that is there.
fn writable(folder: &Path) -> rustix::io::Result<()> {
    let existing = folder
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    access(existing, Access::WRITE_OK)
}

fn cache_folder(given: Option<&Path>) -> Check {
    const NAME: &str = "cache";
    let Some(folder) = config::cache_dir(given) else {
        return Check::warn(NAME, "no folder: every 'add' compiles", "say --cache-dir");
    };
    match writable(&folder) {
        Ok(()) => Check::ok(NAME, format!("{} can be used", folder.display())),
        Err(error) => {
            let found = format!("{}: {error}; every 'add' compiles", folder.display());
            Check::warn(NAME, found, "say --cache-dir")
        }
    }
}

/// Whether something keeps udev's helpers from reading what guests make up.
fn udev_rules() -> Check {
    const NAME: &str = "udev";
    let remedy = "wasmblk udev install";
    match udev::installed() {
        Installed::NoUdev => Check::ok(
            NAME,
            "it does not run: nothing looks at new disks by itself",
        ),
        Installed::Yes(path) => Check::ok(NAME, format!("{} is there", path.display())),
        Installed::No => Check::warn(
            NAME,
            "blkid, LVM and others read what is on new devices",
            remedy,
        ),
        Installed::Other(path) => {
            let found = format!("{} is not that of this version", path.display());
            Check::warn(NAME, found, remedy)
        }
    }
}

fn sandbox() -> Check {
    const NAME: &str = "sandbox";
    match new_engine() {
        Ok(_) => Check::ok(NAME, "wasmtime works"),
        Err(error) => Check::fail(NAME, error.chain(), "use an x86-64 or AArch64 machine"),
    }
}

/// What a process that serves can give up here.
fn confinement() -> Vec<Check> {
    confine::probe()
        .into_iter()
        .map(|(layer, tried)| match tried {
            Ok(()) => Check::ok(layer.name(), "devices are confined by it"),
            Err(error) => Check::warn(layer.name(), error.to_string(), remedy(layer)),
        })
        .collect()
}

fn remedy(layer: Layer) -> &'static str {
    match layer {
        Layer::Mounts | Layer::Capabilities | Layer::NoNewPrivs => "run wasmblk as root",
        Layer::Landlock => "boot with lsm=landlock,...; the other layers hold without it",
        Layer::WriteExecute => "Linux 6.3 and newer have it; the other layers hold without it",
        Layer::Seccomp | Layer::IoUring => "the other layers hold without it",
    }
}
