//! A root without anything in it. A copy of the system's mounts would do harm: it would keep in use whatever is
//! unmounted elsewhere, and a server that has its own disk mounted could not end.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
    mount_move, open_tree, unmount,
};
use rustix::process::{chdir, chroot, pivot_root};

use crate::sys::{restrict_mount, unshare_mounts};

/// A folder that is always there, to mount the new root at.
const PLACE: &str = "/proc";

/// Takes the root away from this thread and those that it starts. What is open stays open.
pub(super) fn leave_all() -> io::Result<()> {
    let all = fs::read_to_string("/proc/self/mountinfo")?;
    unshare_mounts()?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount_nothing()?;
    if pivot_root(".", ".").is_ok() {
        // The old root lies over the new one.
        unmount(".", UnmountFlags::DETACH)?;
    } else {
        // The kernel's first root cannot be left; but what is mounted in it can, and then it is hidden.
        chdir("/")?;
        unmount(PLACE, UnmountFlags::DETACH)?;
        for point in all.lines().rev().filter_map(mount_point) {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
        mount_nothing()?;
        mount_move(".", "/")?;
        chroot(".")?;
    }
    chdir("/")?;
    Ok(())
}

/// Opens a folder, if it may, as the root of a mount of its own, for data only: what is open else leads to everything
/// above it, by `..`, also where no path does any more.
pub fn open_folder(path: &Path, read_only: bool) -> io::Result<File> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let alone = open_tree(CWD, path, flags).map_err(io::Error::from);
    let alone = alone.and_then(|tree| {
        restrict_mount(&tree, read_only)?;
        Ok(openat(&tree, ".", how, Mode::empty())?)
    });
    // It takes CAP_SYS_ADMIN.
    let folder = alone.or_else(|_| openat(CWD, path, how, Mode::empty()))?;
    Ok(folder.into())
}

fn mount_nothing() -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", PLACE, "tmpfs", flags, None)?;
    chdir(PLACE)?;
    Ok(())
}

/// The fifth word of a line of proc_pid_mountinfo(5), with its escapes undone.
fn mount_point(line: &str) -> Option<String> {
    let word = line.split(' ').nth(4)?;
    let mut parts = word.split('\\');
    let mut point = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..3)?, 8).ok()?;
        point.push(char::from(code));
        point.push_str(&part[3..]);
    }
    (point != "/").then_some(point)
}
