//! `wasmblk udev`.

use std::io::{self, Write};
use std::path::Path;

use super::print;
use crate::cli::Udev;
use crate::error::{Context, Result};
use crate::ublk::Control;
use crate::udev;

pub(super) fn run(command: &Udev) -> Result<()> {
    match command {
        Udev::Show => print(udev::rules()?),
        Udev::Owner { id } => owner(*id),
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

/// Says in udev's words who owns a device, if that is not root. Only the driver is asked: the device itself can be
/// open once, and that is its server's.
fn owner(id: u32) -> Result<()> {
    let mut control = Control::open()?;
    let info = control.info(id);
    let info = info.doing(|| format!("cannot look at device {id}"))?;
    if !info.is_unprivileged() {
        return Ok(());
    }
    print(format!(
        "WASMBLK_UID={}\nWASMBLK_GID={}\n",
        info.owner_uid, info.owner_gid
    ))
}
