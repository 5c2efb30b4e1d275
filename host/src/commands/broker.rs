//! `wasmblk broker`.

use std::path::Path;

use tracing::warn;

use super::print;
use crate::broker::{self, Policy};
use crate::cli::Broker;
use crate::error::{Error, Result};

/// Where the policy is unless it is said.
const POLICY: &str = "/etc/wasmblk/broker.toml";

pub(super) fn run(it: &Broker, socket: &Path, log: &str) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::failed(
            "the broker needs root, which it mostly gives up; try 'sudo wasmblk broker'",
        ));
    }
    let policy = match &it.policy {
        Some(path) => Policy::read(path)?,
        None if Path::new(POLICY).exists() => Policy::read(Path::new(POLICY))?,
        None => {
            warn!("there is no {POLICY}: nobody but root gets devices");
            Policy::nobody()
        }
    };
    let ready = || print(format!("{}\n", socket.display()));
    broker::serve(socket, policy, log, ready)
}
