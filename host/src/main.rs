//! The program: parse, log, run, and say what went wrong.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use wasmblk::cli::Cli;
use wasmblk::commands;
use wasmblk::error::Kind;
use wasmblk::plane::init_log;
use wasmblk::wake::Wake;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let begun = init_log(&cli.log).and_then(|()| Wake::survive_file_limits());
    let error = match begun.and_then(|()| commands::run(&cli)) {
        Ok(code) => return code,
        Err(error) => error,
    };
    // A closed standard error is no reason to fail in another way.
    let _ = writeln!(io::stderr(), "wasmblk: {}", error.chain());
    match error.kind() {
        Kind::Usage => ExitCode::from(2),
        Kind::Failed => ExitCode::FAILURE,
    }
}
