//! The files of a device in `/dev` and sysfs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, Mode, OFlags, access, open};

use crate::error::{Context, Result};
use crate::limits;

/// How often is looked for what comes or goes soon.
pub(super) const NODE_STEP: Duration = Duration::from_millis(10);

/// The node that the outside sees.
#[must_use]
pub fn block_path(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkb{id}"))
}

/// The node that the server opens.
#[must_use]
pub fn char_path(id: u32) -> PathBuf {
    PathBuf::from(format!("/dev/ublkc{id}"))
}

/// Whether the kernel has a device of this id, by sysfs: that is readable for everybody.
#[must_use]
pub fn exists(id: u32) -> bool {
    Path::new(&format!("/sys/class/ublk-char/ublkc{id}")).exists()
}

/// Waits until a node is there and this user may have such access to it: udev may take a moment.
///
/// # Errors
///
/// The last answer, where that takes too long.
pub(super) fn wait_for_node(path: &Path, wanted: Access) -> rustix::io::Result<()> {
    let tries = limits::NODE_TIMEOUT.as_millis() / NODE_STEP.as_millis();
    for _ in 0..tries {
        if access(path, wanted).is_ok() {
            return Ok(());
        }
        std::thread::sleep(NODE_STEP);
    }
    access(path, wanted)
}

/// Opens the name of `/dev/ublkcN`, not the device: a path that leads to this node whatever becomes of its name. Waits
/// for whoever gives new nodes to their owners.
///
/// # Errors
///
/// Where nobody does.
pub(super) fn own_node(id: u32) -> Result<File> {
    let path = char_path(id);
    let shown = path.display();
    wait_for_node(&path, Access::READ_OK | Access::WRITE_OK)
        .and_then(|()| open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))
        .map(File::from)
        .doing(|| {
            format!(
                "nobody made {shown} this user's (udev does, by the rules of 'wasmblk udev install'); root can \
                 delete what is left: 'wasmblk del --force {id}'"
            )
        })
}

/// Opens `/dev/ublkcN` as its server; there can be only one. The node may come a moment late where
/// udev makes it.
///
/// # Errors
///
/// The system's.
pub(super) fn open_char(id: u32) -> Result<File> {
    let path = char_path(id);
    // Copies of data by the ring are made at once then, not by another thread.
    let open = || {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        options.open(&path)
    };
    let mut opened = open();
    for _ in 0..100 {
        match &opened {
            // A helper that looks at new nodes may hold it for a moment.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy
                ) =>
            {
                std::thread::sleep(NODE_STEP);
                opened = open();
            }
            _ => break,
        }
    }
    opened.doing(|| format!("cannot open {}", path.display()))
}
