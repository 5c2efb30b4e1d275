//! `wasmblk udev`.

use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, open};

use super::print;
use crate::cli::Udev;
use crate::error::{Context, Error, Result};
use crate::ublk::Control;
use crate::udev;

pub(super) fn run(command: &Udev) -> Result<()> {
    match command {
        Udev::Show => print(udev::rules()?),
        Udev::Own { node } => own(node),
        Udev::Install { dir } => {
            let folder = dir.as_deref().unwrap_or(Path::new(udev::FOLDER));
            let path = udev::install(folder)?;
            print(format!("{}\n", path.display()))?;
            // A closed standard error is no reason to fail: they are installed.
            let _ = writeln!(
                io::stderr(),
                "wasmblk: to use them at once: udevadm control --reload; they hold for disks that come after that"
            );
            Ok(())
        }
    }
}

/// Gives a node to the owner of its device, where that is a user without privilege. The driver is asked who that is;
/// the device itself can be open once, and that is its server's.
fn own(name: &str) -> Result<()> {
    let digits = name
        .trim_start_matches("ublk")
        .trim_start_matches(['b', 'c']);
    let Ok(id) = digits.parse() else {
        return Err(Error::usage(format!("{name} is no node of a ublk device")));
    };
    let path = Path::new("/dev").join(name);
    let shown = path.display();
    // The node of the number's next device would be another one.
    let node = open(
        &path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let node = node.doing(|| format!("cannot look at {shown}"))?;
    let mut control = Control::open()?;
    let info = control.info(id);
    let info = info.doing(|| format!("cannot look at device {id}"))?;
    if !info.is_unprivileged() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(info.owner_uid), Gid::from_raw(info.owner_gid));
    chownat(&node, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
        .doing(|| format!("cannot give {shown} to its owner"))
}
