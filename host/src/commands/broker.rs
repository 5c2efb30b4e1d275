//! `wasmblk broker`.

use std::path::Path;

use tracing::warn;

use super::manager::Manager;
use super::print;
use crate::broker::{self, Policy};
use crate::cli::{Broker, Cli};
use crate::error::{Error, Result};
use crate::plane::RunDir;

/// Where the policy is unless it is said.
const POLICY: &str = "/etc/wasmblk/broker.toml";

pub(super) fn run(it: &Broker, cli: &Cli, run_dir: &RunDir) -> Result<()> {
    let socket = &cli.broker_socket;
    if !rustix::process::geteuid().is_root() {
        return Err(Error::failed(
            "the broker needs root, which it mostly gives up; try 'sudo wasmblk broker'",
        ));
    }
    let policy = || match &it.policy {
        Some(path) => Policy::read(path),
        None if Path::new(POLICY).exists() => Policy::read(Path::new(POLICY)),
        None => {
            warn!("there is no {POLICY}: nobody but root gets devices");
            Ok(Policy::nobody())
        }
    };
    let manager = Manager::connect();
    let ready = || {
        manager.tell_ready();
        print(format!("{}\n", socket.display()))
    };
    broker::serve(socket, &policy, (run_dir.path(), &cli.log), ready)
}
