//! `cargo xtask bench`: wasmblk beside its peers, alternating in one run, as ratios with their spread.
//! Absolute times of a shared machine mean nothing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod call;
mod fio;
mod load;
mod native;
mod nbd;
mod neighbour;
mod report;
mod responder;
mod restart;
mod server;
mod stores;
#[path = "../adversary/suite/mod.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod suite;
mod ublk;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The same guests over NBD as nbdkit's and QEMU's servers, over unix sockets, with the same client.
    Nbd(nbd::Options),
    /// Nanoseconds for each request that a guest is called with, by contract and batch, beside a native
    /// function.
    Call(call::Options),
    /// How long a request waits whose instance breaks, until the next one has answered it.
    Restart(restart::Options),
    /// The null and memory guests as ublk devices beside rublk's and the kernel's null devices and a native
    /// loop, in the fast test bed.
    Ublk(ublk::Options),
    /// The part of a bench that runs in the bed.
    #[command(hide = true)]
    UblkInBed {
        /// Which devices.
        what: ublk::What,
        /// How.
        #[command(flatten)]
        options: ublk::Options,
    },
    /// The file guest beside what else passes files and disks through: as ublk devices in the bed, and over
    /// NBD.
    Stores {
        /// Where to measure: 'ublk' or 'nbd'; both without this.
        #[arg(long)]
        only: Option<String>,
        /// How.
        #[command(flatten)]
        options: nbd::Options,
    },
    /// Each hostile guest of the test suite beside a device whose data are checked, in the bed with Debian's kernel:
    /// what contains it, within what time, and what throughput the device keeps.
    Neighbour(neighbour::Options),
    /// The part of that which runs in the bed.
    #[command(hide = true)]
    NeighbourInBed(neighbour::Options),
    /// Serves a ublk device that answers at once: our loop without a guest.
    #[command(hide = true)]
    NativeNull,
    /// A server that does as little as a server can: what a client can reach at most.
    #[command(hide = true)]
    Responder {
        /// Where to listen.
        socket: PathBuf,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().bench {
        Bench::Nbd(options) => nbd::run(&options),
        Bench::Call(options) => call::run(&options),
        Bench::Restart(options) => restart::run(&options),
        Bench::Ublk(options) => ublk::run(&options),
        Bench::UblkInBed { what, options } => ublk::run_in_bed(what, &options),
        Bench::Stores { only, options } => stores::run(only.as_deref(), &options),
        Bench::Neighbour(options) => neighbour::run(&options),
        Bench::NeighbourInBed(options) => neighbour::run_in_bed(&options),
        Bench::NativeNull => native::serve(),
        Bench::Responder { socket } => responder::run(&socket),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output; a reader who left early is not an error.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}
