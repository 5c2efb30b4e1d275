//! `cargo xtask demo`: the example of the README, here or in the test bed.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tests::steps::{say, step};
use tests::{guests, install, paths, qemu};

const SCRIPT: &str = "examples/ramdisk/run.sh";

pub(crate) fn run() -> Result<()> {
    let begin = Instant::now();
    say("wasmblk: a WebAssembly component becomes a Linux disk.");
    say("The first time, this builds the sandbox: about eight minutes on two processors.\n");
    step("host", super::build)?;
    step("guests", guests::build)?;
    step("tools", || install(&[("mkfs.ext4", "e2fsprogs")]))?;
    let place = if has_ublk() {
        say("\nThis kernel has ublk, and we are root: it happens here.");
        here()?;
        "on this machine".to_owned()
    } else {
        step("test bed: QEMU", qemu::setup)?;
        say("\nThis kernel has no ublk (or we are not root): it happens in a virtual machine");
        say("with Debian's own kernel, emulated, so everything takes its time.");
        in_bed()?;
        "under Debian's kernel in QEMU".to_owned()
    };
    let seconds = begin.elapsed().as_secs();
    say(&format!(
        "\nThat was {SCRIPT}, {place}. It all took {seconds} s."
    ));
    Ok(())
}

/// Whether a device could be made here.
fn has_ublk() -> bool {
    // Loading the driver needs root; where it is loaded, opening its node does.
    let _ = Command::new("modprobe").args(["-q", "ublk_drv"]).status();
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/ublk-control")
        .is_ok()
}

fn here() -> Result<()> {
    let status = Command::new("sh")
        .arg(paths::root().join(SCRIPT))
        .args([paths::wasmblk(), paths::guest("memory")])
        .status()?;
    if !status.success() {
        bail!("{SCRIPT}: {status}");
    }
    Ok(())
}

fn in_bed() -> Result<()> {
    let script = paths::root().join(SCRIPT);
    let outcome = qemu::run(
        "sh /run.sh /usr/bin/wasmblk /memory.wasm",
        &["mkfs.ext4", "e2fsck"],
        &[
            (Path::new(&paths::wasmblk()), "/usr/bin/wasmblk"),
            (Path::new(&paths::guest("memory")), "/memory.wasm"),
            (&script, "/run.sh"),
        ],
        Duration::from_secs(120),
        true,
    )?;
    let complaints = outcome.kernel_complaints();
    if outcome.status != 0 || !complaints.is_empty() {
        bail!(
            "{SCRIPT} ended with status {} {}",
            outcome.status,
            complaints.join("\n")
        );
    }
    Ok(())
}
