//! `bench nbd`: the memory and null guests beside nbdkit's plugins and qemu-storage-daemon, over unix
//! sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tests::steps::say;
use tests::{install, paths};

use crate::fio;
use crate::load::{self, Load};
use crate::report::{self, Row};
use crate::server::{Folder, Server};

/// Which client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Client {
    /// Our own, which sends and receives many requests in one system call.
    Batch,
    /// fio's nbd engine, on libnbd: a system call for each request and more.
    Fio,
}

/// Options of `bench nbd`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Rounds in which all servers take turns.
    #[arg(long, default_value_t = 7)]
    pub(crate) rounds: usize,
    /// How long each server is asked in a round, in milliseconds.
    #[arg(long, default_value_t = 400)]
    pub(crate) time_ms: u64,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    pub(crate) case: String,
    /// Which client asks.
    #[arg(long, value_enum, default_value = "batch")]
    client: Client,
}

/// The part of each device that is used. It fits the processors' last caches as little as a real disk.
const SPAN: u64 = 256 << 20;

/// Which of our servers is held against which peer.
const PAIRS: [(&str, &str); 6] = [
    ("memory", "nbdkit memory"),
    ("null", "nbdkit null"),
    ("null", "qemu null-co"),
    ("memory", "qemu null-co"),
    ("null", "responder"),
    ("memory", "responder"),
];

pub(crate) fn run(options: &Options) -> Result<()> {
    install(&[
        ("nbdkit", "nbdkit"),
        ("qemu-storage-daemon", "qemu-system-common"),
        ("fio", "fio"),
    ])?;
    let folder = Folder::new()?;
    let servers = start(&folder)?;
    report::show(&measure(options, "nbd", &servers, &PAIRS)?, options.json)
}

/// Holds servers against each other.
pub(crate) fn measure(
    options: &Options,
    bench: &str,
    servers: &[Server],
    pairs: &[(&str, &str)],
) -> Result<Vec<Row>> {
    let time = Duration::from_millis(options.time_ms);
    // What was never written costs nothing to read: all have all of it.
    let fill = Load {
        write: true,
        random: false,
        bytes: 1 << 20,
        depth: 4,
        connections: 1,
        batch: 1,
        span: SPAN,
    };
    for server in servers {
        load::run(&server.socket, &fill, Duration::from_millis(500))
            .with_context(|| server.name)?;
    }
    let mut rows = Vec::new();
    for (name, load) in cases() {
        if !name.contains(&options.case) {
            continue;
        }
        say(&format!("    {name}"));
        let mut rounds = vec![vec![0.0; servers.len()]; options.rounds];
        for round in &mut rounds {
            for (server, figure) in servers.iter().zip(round) {
                *figure = match options.client {
                    Client::Batch => load::run(&server.socket, &load, time),
                    Client::Fio => {
                        let socket = server.socket.display();
                        let uri = format!("--uri=nbd+unix:///?socket={socket}");
                        fio::run(&["--ioengine=nbd", &uri], &load, time)
                    }
                }
                .with_context(|| format!("{}: {name}", server.name))?;
            }
        }
        rows.extend(
            pairs
                .iter()
                .filter_map(|pair| row(bench, &name, (pair, servers), &rounds)),
        );
    }
    Ok(rows)
}

fn row(
    bench: &str,
    case: &str,
    (pair, servers): (&(&str, &str), &[Server]),
    rounds: &[Vec<f64>],
) -> Option<Row> {
    let place = |name| servers.iter().position(|server| server.name == name);
    let (ours, theirs) = (place(pair.0)?, place(pair.1)?);
    let rounds: Vec<(f64, f64)> = (rounds.iter())
        .map(|round| (round[ours] / 1000.0, round[theirs] / 1000.0))
        .collect();
    let case = format!("{} {case}", pair.0);
    Some(Row::new((bench, "kIOPS"), &case, pair.1, &rounds, true))
}

fn start(folder: &Folder) -> Result<Vec<Server>> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let guest = |name: &str| paths::guest(name).display().to_string();
    let wasmblk = paths::target().join("release/wasmblk");
    let ours = |name: &'static str| {
        Server::start(folder, name, &wasmblk, |socket| {
            words(&format!("nbd {} --set size=1G -U {socket}", guest(name)))
        })
    };
    let nbdkit = |name: &'static str, plugin: &str| {
        Server::start(folder, name, Path::new("nbdkit"), |socket| {
            words(&format!("-f -U {socket} {plugin} 1G"))
        })
    };
    let qemu = PathBuf::from("qemu-storage-daemon");
    let this = std::env::current_exe()?;
    Ok(vec![
        ours("memory")?,
        nbdkit("nbdkit memory", "memory")?,
        ours("null")?,
        nbdkit("nbdkit null", "null")?,
        Server::start(folder, "qemu null-co", &qemu, |socket| {
            vec![
                "--blockdev".into(),
                "null-co,node-name=disk,size=1073741824,read-zeroes=off".into(),
                "--nbd-server".into(),
                format!("addr.type=unix,addr.path={socket},max-connections=8"),
                "--export".into(),
                "nbd,id=disk,node-name=disk,name=,writable=on".into(),
            ]
        })?,
        Server::start(folder, "responder", &this, |socket| {
            vec!["responder".into(), socket.into()]
        })?,
    ])
}

fn cases() -> Vec<(String, Load)> {
    let mut cases = Vec::new();
    for connections in [1, 4] {
        for (bytes, random, depths) in [
            (4 << 10, true, &[1, 8, 64][..]),
            (128 << 10, false, &[8]),
            (1 << 20, false, &[4]),
        ] {
            for &depth in depths {
                for write in [false, true] {
                    let load = Load {
                        write,
                        random,
                        bytes,
                        depth,
                        connections,
                        batch: 1,
                        span: SPAN,
                    };
                    let kib = bytes >> 10;
                    let name = format!(
                        "{} {kib}k depth {depth} connections {connections}",
                        load.what()
                    );
                    cases.push((name, load));
                }
            }
        }
    }
    cases
}
