//! `cargo xtask`: everything there is to do with this repository, each in one command.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tests::steps::{self, say, step};
use tests::{guests, install, paths, qemu, uml};

mod demo;
mod fuzz;

/// Developer commands of wasmblk. They install, download and build what they need, once.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show the main job: a .wasm RAM disk as a Linux disk, with a file system that survives.
    Demo,
    /// Run every test, or those whose name contains FILTER.
    Test {
        /// Part of a test's name, and further words for the test program.
        filter: Vec<String>,
    },
    /// Do all that the tests need, without running them.
    Setup,
    /// Build the guests into target/guests.
    Guests,
    /// Look for inputs that break what takes bytes from strangers, guided by the code that they reach.
    Fuzz(fuzz::Options),
    /// Measure beside peers: 'cargo xtask bench --help' lists the benches.
    Bench {
        /// What the bench takes.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Demo => demo::run(),
        Task::Test { filter } => test(&filter),
        Task::Setup => setup(),
        Task::Guests => step("guests", guests::build).and_then(|()| build_for_wasip2(&[])),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench { words } => bench(&words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Programs that the tests call: program and Debian package.
const TOOLS: [(&str, &str); 13] = [
    ("fio", "fio"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("taskset", "util-linux"),
    ("qemu-img", "qemu-utils"),
    ("qemu-io", "qemu-utils"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdsh", "python3-libnbd"),
    ("nbdfuse", "libnbd-bin"),
    ("fusermount3", "fuse3"),
    ("openssl", "openssl"),
    ("psktool", "gnutls-bin"),
    ("systemd-analyze", "systemd"),
];

fn test(filter: &[String]) -> Result<()> {
    let result = setup().and_then(|()| {
        step("tests", || {
            let threads = format!("--test-threads={}", thread::available_parallelism()?);
            let run = [
                "test", "--quiet", "-p", "wasmblk", "-p", "tests", "--tests", "--", &threads,
            ];
            let filter: Vec<&str> = filter.iter().map(String::as_str).collect();
            cargo(&[&run, &filter[..]].concat())
        })
    });
    steps::budget();
    result
}

fn setup() -> Result<()> {
    // The kernel builds beside everything else: cargo leaves a processor idle often enough.
    let kernel = thread::spawn(|| step("test bed: User-mode Linux", uml::setup));
    prepare().and_then(|()| match kernel.join() {
        Ok(built) => built,
        Err(_) => bail!("the thread that builds the kernel panicked"),
    })
}

fn prepare() -> Result<()> {
    // First, because apt removes a qemu-utils that does not fit the QEMU that it installs; the tools bring
    // back one that does.
    step("test bed: QEMU", qemu::setup)?;
    step("tools", || install(&TOOLS))?;
    step("host and test program", build)?;
    step("guests", guests::build)?;
    build_for_wasip2(&["memory", "told"])
}

fn build_for_wasip2(others: &[&str]) -> Result<()> {
    step("guests for wasip2", || guests::build_for_wasip2(others))
}

/// Measures what was built for release: guests, program and the bench itself.
fn bench(words: &[String]) -> Result<()> {
    step("guests", guests::build)?;
    step("program and bench, for release", || {
        cargo(&[
            "build",
            "--locked",
            "--release",
            "-p",
            "wasmblk",
            "-p",
            "bench",
        ])
    })?;
    let status = Command::new(paths::target().join("release/bench"))
        .args(words)
        .status()?;
    if !status.success() {
        bail!("the bench failed: {status}");
    }
    Ok(())
}

/// Builds everything that runs on this machine. It is one command, the same for every task: cargo
/// builds a dependency anew for each choice of packages that wants other features of it.
fn build() -> Result<()> {
    let mut words = vec![
        "build", "--locked", "-p", "wasmblk", "-p", "tests", "--bins", "--tests",
    ];
    // Who looks on sees cargo's own progress.
    if !io::stderr().is_terminal() {
        words.push("--quiet");
    }
    cargo(&words)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(&cargo)
        .args(arguments)
        .current_dir(paths::root())
        .status()?;
    if !status.success() {
        bail!(
            "{} {}: {status}",
            Path::new(&cargo).display(),
            arguments.join(" ")
        );
    }
    Ok(())
}
