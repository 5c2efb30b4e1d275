//! `wasmblk add`: check, compile, and hand over to the device's own process.

use std::fs::File;
use std::path::Path;

use rustix::process::geteuid;

use super::load::{Loaded, load};
use super::manager::Manager;
use super::{print, print_json};
use crate::broker;
use crate::cli::{Add, Cli, Format};
use crate::config::DeviceConfig;
use crate::error::{Context, Error, Result};
use crate::guest::Source;
use crate::plane::{self, Ready, RunDir};
use crate::store::Stores;
use crate::ublk::{CONTROL_PATH, block_path};
use crate::udev::{self, Installed};
use crate::wanted::Wanted;

pub(super) fn run(add: &Add, cli: &Cli, run_dir: &RunDir) -> Result<()> {
    if add.unprivileged {
        check_udev()?;
    }
    let wanted = Wanted::new(&add.guest)?;
    if add.hosted {
        return host(add, cli, wanted, run_dir);
    }
    let Loaded {
        source, artefact, ..
    } = load(
        &add.guest.file,
        (&wanted.policy, &wanted.limits),
        cli.cache_dir.as_deref(),
    )?;
    let run_dir = run_dir.path().to_owned();
    let mut config = DeviceConfig::new(add, wanted, &source, run_dir, &cli.log)?;
    drop(source);
    // Whoever is not root cannot do without, nor can root in a container; but they can try where there is none.
    let may_command = geteuid().is_root() && Path::new(CONTROL_PATH).exists();
    let needed = add.broker || !may_command;
    if !add.unprivileged && needed && (add.broker || broker::answers(&cli.broker_socket)) {
        config.broker = Some(cli.broker_socket.clone());
    }
    if add.foreground {
        let manager = Manager::connect();
        return plane::mind(config, &artefact, &[], |ready, _| {
            manager.tell_ready();
            announce(ready, add.format).map(|()| None)
        });
    }
    announce(&plane::start(&config, &artefact)?, add.format)
}

/// Has the broker serve it: this user opens what he may open, and looks at nothing.
fn host(add: &Add, cli: &Cli, wanted: Wanted, run_dir: &RunDir) -> Result<()> {
    let source = Source::read(&add.guest.file)?;
    wanted.policy.check(&source)?;
    let run_dir = run_dir.path().to_owned();
    let config = DeviceConfig::new(add, wanted, &source, run_dir, &cli.log)?;
    config.check()?;
    let stores = Stores::open(&config.stores)?.into_files();
    let guest = File::open(&add.guest.file).doing(|| "cannot open the guest".into())?;
    let id = broker::host(&cli.broker_socket, &config, &guest, &stores)?;
    let device = block_path(id);
    announce(&Ready { id, device }, add.format)
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
