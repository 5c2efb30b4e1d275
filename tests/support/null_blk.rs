//! Disks of the kernel's own driver for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::output;

/// Where the driver is told what to do.
fn folder() -> PathBuf {
    Path::new("/sys/kernel/config/nullb").into()
}

/// Makes a disk, which does nothing unless an attribute says so. Gives its node.
///
/// # Errors
///
/// Where the kernel has no such driver, or does not take an attribute.
pub fn make(name: &str, attributes: &[(&str, &str)]) -> Result<PathBuf> {
    if !folder().exists() {
        output(Command::new("mount").args(["-t", "configfs", "config", "/sys/kernel/config"]))?;
    }
    let disk = folder().join(name);
    fs::create_dir(&disk).context("null_blk's configuration")?;
    for (attribute, value) in attributes.iter().chain(&[("power", "1")]) {
        fs::write(disk.join(attribute), value).context((*attribute).to_owned())?;
    }
    let index = fs::read_to_string(disk.join("index"))?;
    let node = PathBuf::from(format!("/dev/nullb{}", index.trim()));
    Ok(if node.exists() {
        node
    } else {
        Path::new("/dev").join(name)
    })
}

/// Has sectors of a disk fail, from one to another.
///
/// # Errors
///
/// Where there is no such disk.
pub fn spoil(name: &str, first: u64, last: u64) -> Result<()> {
    let sectors = format!("+{first}-{last}");
    fs::write(folder().join(name).join("badblocks"), sectors).context("the disk stays good")
}

/// Pulls a disk out, whoever uses it.
///
/// # Errors
///
/// Where there is none.
pub fn pull_out(name: &str) -> Result<()> {
    fs::write(folder().join(name).join("power"), "0").context("the disk has no power switch")
}
