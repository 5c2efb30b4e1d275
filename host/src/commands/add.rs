//! `wasmblk add`: check, compile, and hand over to the device's own process.

use std::path::Path;

use super::load::{Loaded, load};
use super::{print, print_json};
use crate::cli::{Add, Format};
use crate::config::{DeviceConfig, Wanted};
use crate::error::Result;
use crate::plane::{self, Ready, RunDir};

pub(super) fn run(add: &Add, run_dir: &RunDir, cache: Option<&Path>, log: &str) -> Result<()> {
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
