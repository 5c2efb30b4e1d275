//! `cargo xtask bench`: wasmblk beside its peers, alternating in one run, as ratios with their spread.
//! Absolute times of a shared machine mean nothing.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod load;
mod nbd;
mod report;
mod responder;
mod server;

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
