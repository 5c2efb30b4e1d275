//! `bench ublk`: our devices beside others of the kernel, in the fast test bed, with fio.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use tests::command::{find_program, output, search_path};

use tests::steps::{say, step};
use tests::uml::{self, Machine};
use tests::{install, null_blk, paths};

use crate::fio;
use crate::load::Load;
use crate::native;
use crate::report::{self, Row};
use crate::stores;

/// Options of `bench ublk`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Rounds in which all devices take turns.
    #[arg(long, default_value_t = 20)]
    pub(crate) rounds: usize,
    /// How long each device is asked in a round, in milliseconds.
    #[arg(long, default_value_t = 400)]
    pub(crate) time_ms: u64,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    pub(crate) case: String,
}

/// Which devices are measured, as the two programs on both sides of the bed name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Those that do nothing, or only remember.
    Null,
    /// Those that pass files and disks through.
    Stores,
}

/// A set of devices, and how they are used.
pub(crate) struct Set {
    pub(crate) bench: &'static str,
    pub(crate) devices: Vec<Device>,
    /// Which of ours is held against what.
    pub(crate) peers: &'static [(&'static str, &'static str)],
    /// What is measured of which of ours.
    pub(crate) cases: Vec<(String, &'static str, Load)>,
}

/// The version of rublk that is measured.
const RUBLK: &str = "0.2.15";

/// The part of each device that is used.
const SPAN: u64 = 256 << 20;

pub(crate) fn rublk() -> Result<PathBuf> {
    Ok(paths::cache()?.join("rublk").join(RUBLK).join("bin/rublk"))
}

/// Has cargo build rublk, once. It generates bindings, which needs libclang.
fn install_rublk() -> Result<()> {
    let program = rublk()?;
    if program.exists() {
        return Ok(());
    }
    // There is no program in it to look for.
    install(&[("libclang", "libclang1-14")])?;
    let root = program.ancestors().nth(2).context("a folder")?;
    output(
        Command::new("cargo")
            .args(["install", "rublk", "--version", RUBLK, "--root"])
            .arg(root)
            // Its binary is not ours.
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(())
}

pub(crate) fn run(options: &Options) -> Result<()> {
    report::show(&run_bed(options, What::Null)?, options.json)
}

/// Measures in the bed.
pub(crate) fn run_bed(options: &Options, what: What) -> Result<Vec<Row>> {
    install(&[("fio", "fio")])?;
    step("rublk", install_rublk)?;
    step("test bed: User-mode Linux", uml::setup)?;
    let this = std::env::current_exe()?;
    let script = format!(
        "export PATH='{}' HOME=/tmp WASMBLK_CACHE_DIR=/tmp/cache CARGO_TARGET_DIR='{}' \
         WASMBLK_TEST_CACHE='{}' WASMBLK_LOG=warn\n\
         cd /tmp && exec '{}' ublk-in-bed {} --json --rounds {} --time-ms {} --case '{}'\n",
        search_path(),
        paths::target().display(),
        paths::cache()?.display(),
        this.display(),
        match what {
            What::Null => "null",
            What::Stores => "stores",
        },
        options.rounds,
        options.time_ms,
        options.case,
    );
    let machine = Machine {
        memory_mib: 3072,
        limit: Duration::from_secs(3600),
        ..Machine::default()
    };
    say("    the bed measures; what it says comes at the end");
    let outcome = uml::run(&machine, &script)?;
    let begin = outcome.output.find("[\n").or(outcome.output.find("[]"));
    let (Some(begin), 0) = (begin, outcome.status) else {
        bail!("the bed: status {}\n{}", outcome.status, outcome.output);
    };
    Ok(serde_json::from_str(&outcome.output[begin..])?)
}

/// A device, and the process of ours that serves it, if it is one that has to be ended.
pub(crate) struct Device {
    pub(crate) name: &'static str,
    pub(crate) node: PathBuf,
    server: Option<Child>,
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The part that runs in the bed.
pub(crate) fn run_in_bed(what: What, options: &Options) -> Result<()> {
    let Set {
        bench,
        devices,
        peers,
        cases,
    } = match what {
        What::Null => Set {
            bench: "ublk",
            devices: devices()?,
            peers: &PEERS,
            cases: cases(),
        },
        What::Stores => stores::set()?,
    };
    let time = Duration::from_millis(options.time_ms);
    let mut rows = Vec::new();
    for (name, ours, load) in cases {
        if !name.contains(&options.case) {
            continue;
        }
        let of_case: Vec<&Device> = (devices.iter())
            .filter(|device| (device.name == ours) || peers.contains(&(ours, device.name)))
            .collect();
        let mut rounds: Vec<Vec<f64>> = Vec::new();
        for _ in 0..options.rounds {
            let figures = of_case.iter().map(|device| ask(device, &load, time));
            rounds.push(figures.collect::<Result<_>>()?);
        }
        let place = |name| of_case.iter().position(|device| device.name == name);
        for (_, peer) in peers.iter().filter(|(name, _)| *name == ours) {
            let (Some(ours), Some(theirs)) = (place(ours), place(peer)) else {
                continue;
            };
            let rounds: Vec<(f64, f64)> = (rounds.iter())
                .map(|round| (round[ours] / 1000.0, round[theirs] / 1000.0))
                .collect();
            rows.push(Row::new((bench, "kIOPS"), &name, peer, &rounds, true));
        }
    }
    report::show(&rows, options.json)
}

/// Which of ours is held against what.
const PEERS: [(&str, &str); 8] = [
    ("null", "rublk null"),
    ("null", "rublk null, no scheduler"),
    ("null", "null unconfined"),
    ("null", "native"),
    ("null", "null_blk"),
    ("null", "null-device"),
    ("memory", "null_blk memory"),
    ("memory", "memory-device"),
];

fn ask(device: &Device, load: &Load, time: Duration) -> Result<f64> {
    let node = format!("--filename={}", device.node.display());
    let target = ["--ioengine=io_uring", "--direct=1", "--randrepeat=0", &node];
    fio::run(&target, load, time).context(device.name)
}

fn cases() -> Vec<(String, &'static str, Load)> {
    let mut cases = Vec::new();
    for (ours, depths) in [("null", &[1, 8, 32, 64][..]), ("memory", &[1, 32])] {
        for &depth in depths {
            for batch in [1, 16] {
                for write in [false, true] {
                    if batch > depth {
                        continue;
                    }
                    let what = if write { "randwrite" } else { "randread" };
                    let how = if batch > 1 { ", client batching" } else { "" };
                    let name = format!("{ours} {what} 4k depth {depth}{how}");
                    let load = Load {
                        write,
                        random: true,
                        bytes: 4096,
                        depth,
                        connections: 1,
                        batch,
                        span: SPAN,
                    };
                    cases.push((name, ours, load));
                }
            }
        }
    }
    cases
}

fn devices() -> Result<Vec<Device>> {
    let release = paths::target().join("release/wasmblk");
    let add = |guest: &str, id: u32, more: &[&str]| {
        output(
            Command::new(&release)
                .arg("add")
                .arg(paths::guest(guest))
                .args(["--set", "size=1G", "--id", &id.to_string()])
                .args(more),
        )
    };
    let guest = |name: &'static str, id: u32| -> Result<Device> {
        add(name, id, &[])?;
        device(name, &format!("/dev/ublkb{id}"), None)
    };
    let mut devices = vec![
        guest("null", 1)?,
        guest("null-device", 2)?,
        guest("memory", 3)?,
        guest("memory-device", 4)?,
    ];
    add("null", 5, &["--no-confine"])?;
    devices.push(device("null unconfined", "/dev/ublkb5", None)?);
    let rublk = rublk()?;
    for (id, name) in [("10", "rublk null"), ("11", "rublk null, no scheduler")] {
        output(Command::new(&rublk).args(["add", "null", "-n", id, "-d", "128", "--quiet"]))?;
        devices.push(device(name, &format!("/dev/ublkb{id}"), None)?);
    }
    // What a device of ours has by itself.
    fs::write("/sys/block/ublkb11/queue/scheduler", "none")?;
    let server = Command::new(std::env::current_exe()?)
        .arg("native-null")
        .stdin(Stdio::null())
        .spawn()?;
    let node = format!("/dev/ublkb{}", native::ID);
    devices.push(device("native", &node, Some(server))?);
    devices.push(device("null_blk", "/dev/nullb0", None)?);
    devices.push(null_blk_with_memory()?);
    // What was never written costs nothing to read, and more to write the first time.
    for device in &devices {
        fill(&device.node, SPAN).context(device.name)?;
    }
    Ok(devices)
}

pub(crate) fn fill(node: &Path, bytes: u64) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(node)?;
    let data = vec![0x5a; 1 << 20];
    for _ in 0..bytes >> 20 {
        file.write_all(&data)?;
    }
    Ok(file.sync_all()?)
}

/// The kernel's RAM disk.
fn null_blk_with_memory() -> Result<Device> {
    let node = null_blk::make("memory", &[("size", "1024"), ("memory_backed", "1")])?;
    device("null_blk memory", &node.display().to_string(), None)
}

pub(crate) fn device(name: &'static str, node: &str, server: Option<Child>) -> Result<Device> {
    let device = Device {
        name,
        node: node.into(),
        server,
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !device.node.exists() {
        ensure!(Instant::now() < deadline, "{node} does not appear");
        thread::sleep(Duration::from_millis(10));
    }
    ensure!(find_program("fio").is_some(), "fio is missing");
    Ok(device)
}
