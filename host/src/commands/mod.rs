//! What the commands do. Each is one file; `run` chooses.

mod add;
mod broker;
mod captive;
mod del;
mod devices;
mod doctor;
mod host;
mod image;
mod info;
mod inspect;
mod list;
mod load;
mod manager;
mod nbd;
mod plane;
mod udev;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;
use serde::Serialize;
use tracing::debug;

use crate::broker::guard;
use crate::cli::{Cli, Command};
use crate::config;
use crate::error::{Context, Result};
use crate::guest::run_compiler;
use crate::plane::RunDir;
use crate::sys::keep_files_here;

/// Carries out one command line. The exit code is that of a `--run` command, or success.
///
/// # Errors
///
/// What `main` prints, and the exit code it stands for.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    let run_dir = || config::run_dir(cli.run_dir.as_deref()).map(RunDir::new);
    let cache = cli.cache_dir.as_deref();
    // The command of 'nbd --run' may be meant to have what the caller left open; what serves a device is not.
    if !matches!(cli.command, Command::Nbd(_) | Command::Captive { .. })
        && let Err(error) = keep_files_here()
    {
        debug!(%error, "what the caller left open stays open in the processes of a device");
    }
    match &cli.command {
        Command::Nbd(nbd) => return nbd::run(nbd, cache),
        Command::Add(add) => add::run(add, cli, &run_dir()?),
        Command::Inspect(command) => inspect::run(command),
        Command::List(format) => list::run(*format, &run_dir()?, &cli.broker_socket),
        Command::Info(info) => info::run(info, &run_dir()?, &cli.broker_socket),
        Command::Del(del) => del::run(del, &run_dir()?, &cli.broker_socket),
        Command::Doctor(format) => doctor::run(*format, cli.run_dir.as_deref(), cache),
        Command::Import(command) => image::import(command, run_dir),
        Command::Export(command) => image::export(command, run_dir),
        Command::Udev(command) => udev::run(command),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "wasmblk", &mut script);
            print(&script)
        }
        Command::Broker(it) => broker::run(it, cli, &run_dir()?),
        Command::Warden => guard(),
        Command::Host => host::host(),
        Command::Mind => plane::mind(),
        Command::Compile { seconds, mib } => return run_compiler(*seconds, *mib),
        Command::Plane => return plane::serve(),
        Command::Captive { begin, command } => return captive::run(*begin, command),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Prints to standard output; a reader who left early is not an error.
fn print(text: impl AsRef<[u8]>) -> Result<()> {
    match io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.doing(|| "cannot write to standard output".into()),
    }
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).doing(|| "cannot write JSON".into())?;
    text.push('\n');
    print(text)
}

/// A size as people write it: exact where it is a whole number of a unit, else with one decimal.
#[expect(clippy::cast_precision_loss, reason = "for reading")]
fn human_size(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes}B");
    };
    if bytes.trailing_zeros() >= shift {
        format!("{}{unit}", bytes >> shift)
    } else {
        format!("{:.1}{unit}", bytes as f64 / (1_u64 << shift) as f64)
    }
}
