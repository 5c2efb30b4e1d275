//! `wasmblk add`: check, compile, and hand over to the device's own process.

use std::path::Path;

use super::load::{Loaded, load};
use super::{print, print_json};
use crate::cli::{Add, Format};
use crate::config::{DeviceConfig, Wanted};
use crate::error::{Error, Result};
use crate::plane::{self, Ready, RunDir};
use crate::udev::{self, Installed};

pub(super) fn run(add: &Add, run_dir: &RunDir, cache: Option<&Path>, log: &str) -> Result<()> {
    if add.unprivileged {
        check_udev()?;
    }
    let wanted = Wanted::new(&add.guest)?;
    let Loaded {
        source, artefact, ..
    } = load(&add.guest.file, (&wanted.policy, &wanted.limits), cache)?;
    let config = DeviceConfig::new(add, wanted, &source, run_dir.path().to_owned(), log)?;
    drop(source);
    if add.foreground {
        return plane::mind(config, &artefact, |ready, _| {
            announce(ready, add.format).map(|()| None)
        });
    }
    announce(&plane::start(&config, &artefact)?, add.format)
}

fn announce(ready: &Ready, format: Format) -> Result<()> {
    if format.json {
        print_json(ready)
    } else {
        print(format!("{}\n", ready.device.display()))
    }
}

/// A device whose nodes nobody gives to its owner could not even be deleted by him.
fn check_udev() -> Result<()> {
    let why = match udev::installed() {
        Installed::Yes(_) | Installed::Other(_) => return Ok(()),
        Installed::NoUdev => "no udev runs here",
        Installed::No => "root has to call 'wasmblk udev install' once",
    };
    Err(Error::failed(format!(
        "--unprivileged: nobody would make the nodes of the device this user's; {why}"
    )))
}
