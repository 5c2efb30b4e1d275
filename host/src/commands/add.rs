//! `wasmblk add`: check, compile, and hand over to the device's own process.

use std::path::Path;

use tracing::warn;

use super::{print, print_json};
use crate::cli::{Add, Format};
use crate::config::{DeviceConfig, cache_dir};
use crate::error::Result;
use crate::guest::{Cache, Guest, Source, compile, new_engine};
use crate::plane::{self, Ready, RunDir};

pub(super) fn run(add: &Add, run_dir: &RunDir, cache: Option<&Path>, log: &str) -> Result<()> {
    let source = Source::read(&add.guest)?;
    let config = DeviceConfig::new(add, &source, run_dir.path().to_owned(), log)?;
    let engine = new_engine()?;
    let cache = cache_dir(cache).and_then(|folder| {
        Cache::open(&folder)
            .inspect_err(|error| warn!("no cache: {}", error.chain()))
            .ok()
    });
    let artefact = compile(&engine, &source, cache.as_ref())?;
    if add.foreground {
        return plane::run(config, &artefact, |ready, _| announce(ready, add.format));
    }
    // Loading it here as well finds what the contract forbids before any process is started.
    Guest::load(
        &engine,
        &artefact,
        &config.guest.display().to_string(),
        config.limits(),
    )?;
    drop(source);
    announce(&plane::start(&config, &artefact)?, add.format)
}

fn announce(ready: &Ready, format: Format) -> Result<()> {
    if format.json {
        print_json(ready)
    } else {
        print(format!("{}\n", ready.device.display()))
    }
}
