//! Who has a device open or mounted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::Path;

use super::block_path;

/// Names who uses `/dev/ublkbN` or a partition of it, as far as this process may see: mounts, devices
/// built on it, processes that have it open, and whatever else has claimed it. For a message, and on kernels without
/// TRY_STOP for the decision: there, somebody may still open it a moment later.
#[must_use]
pub fn holders(id: u32) -> Vec<String> {
    let mut found = seen_holders(id);
    if found.is_empty() {
        found.extend(claimed(&block_path(id)));
    }
    found
}

/// The same, of what can be seen without opening it.
#[must_use]
pub fn seen_holders(id: u32) -> Vec<String> {
    let node = block_path(id);
    let name = node
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut found = Vec::new();
    for (disk, device) in disks(&name) {
        for (mount_device, target) in mounts() {
            if mount_device == device {
                found.push(format!("mounted on {target}"));
            }
        }
        for holder in entries(format!("/sys/class/block/{disk}/holders")) {
            found.push(format!("used by {holder}"));
        }
        if let Some((major, minor)) = device.split_once(':') {
            found.extend(openers(major, minor));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// What the kernel's refusal of exclusive use says: it has it itself for a mount in whatever namespace, swap, or a
/// device on top. That finds what lists do not show. A node that this process may not open says nothing, which is not
/// that the disk is free.
fn claimed(node: &Path) -> Option<String> {
    let why = claim(node).err()?;
    match (why.kind(), why.raw_os_error()) {
        (io::ErrorKind::ResourceBusy, _) => {
            Some("mounted or claimed, in another namespace or as swap".into())
        }
        // There is no disk.
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ENXIO | libc::ENODEV)) => None,
        _ => Some(format!("by whom cannot be told: {why}")),
    }
}

fn claim(node: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_EXCL);
    let opened = options.open(node);
    if !(opened.as_ref()).is_err_and(|why| why.kind() == io::ErrorKind::PermissionDenied) {
        return opened;
    }
    // A warden may not pass by that the node is a user's alone, but may take it for a moment.
    let about = fs::metadata(node)?;
    chown(node, Some(0), Some(0))?;
    let opened = options.open(node);
    chown(node, Some(about.uid()), Some(about.gid()))?;
    opened
}

/// The disk and its partitions, with their device numbers (`major:minor`).
fn disks(name: &str) -> Vec<(String, String)> {
    let folder = format!("/sys/class/block/{name}");
    let partitions = entries(&folder)
        .into_iter()
        .filter(|entry| entry.starts_with(name));
    std::iter::once(name.to_owned())
        .chain(partitions)
        .filter_map(|disk| {
            let number = fs::read_to_string(format!("/sys/class/block/{disk}/dev")).ok()?;
            Some((disk, number.trim().to_owned()))
        })
        .collect()
}

/// All mounts that this process sees: device number and target.
fn mounts() -> Vec<(String, String)> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some((fields.nth(2)?.to_owned(), fields.nth(1)?.to_owned()))
        })
        .collect()
}

/// Processes that have the block device open.
fn openers(major: &str, minor: &str) -> Vec<String> {
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else {
        return Vec::new();
    };
    let device = rustix::fs::makedev(major, minor);
    let has_open = |pid: &str| {
        entries(format!("/proc/{pid}/fd")).iter().any(|fd| {
            fs::metadata(format!("/proc/{pid}/fd/{fd}")).is_ok_and(|file| {
                file.rdev() == device && file.mode() & libc::S_IFMT == libc::S_IFBLK
            })
        })
    };
    entries("/proc")
        .into_iter()
        .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && has_open(pid))
        .map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("open in {} (process {pid})", name.trim())
        })
        .collect()
}

fn entries(folder: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
