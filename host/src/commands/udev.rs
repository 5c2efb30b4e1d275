//! `wasmblk udev`.

use std::io::{self, Write};
use std::path::Path;

use super::print;
use crate::cli::Udev;
use crate::error::Result;
use crate::udev;

pub(super) fn run(command: &Udev) -> Result<()> {
    match command {
        Udev::Show => print(udev::RULES),
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
