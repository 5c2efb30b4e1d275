//! `bench restart`: how long a request waits whose instance breaks, until the next one has answered it.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use tests::paths;
use wasmblk::block::{Carrier, Op, Request};
use wasmblk::guest::{
    Clock, Granted, Guest, Limits, Opener, Source, Tags, compile_here, new_engine,
};
use wasmblk::serve::Engine;
use wasmblk::stats::Stats;
use wasmblk::store::{Grant, Stores};
use wasmblk::sys::Blocking;

use crate::report::{self, Row};
use crate::server::Folder;

/// Options of `bench restart`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// How often it breaks.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
}

/// What is promised, in milliseconds.
const BOUND_MS: f64 = 10.0;

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = Folder::new()?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        rounds.push((wait(&folder, round)?, BOUND_MS));
    }
    let metric = ("restart", "ms");
    let row = Row::new(metric, "fragile, 1 MiB", "the bound", &rounds, false);
    report::show(&[row], options.json)
}

/// Milliseconds that one read takes in all.
fn wait(folder: &Folder, round: usize) -> Result<f64> {
    let store = |name: &str| -> Result<String> {
        let path = folder.0.join(format!("{name}-{round}"));
        File::create(&path)?.set_len(1 << 20)?;
        Ok(format!("{name}={}", path.display()))
    };
    let stores = Stores::open(&Grant::parse_all(&[store("data")?, store("count")?])?)?;
    let engine = new_engine()?;
    let artefact = compile_here(&engine, &Source::read(&paths::guest("fragile"))?)?;
    let limits = Limits {
        memory_bytes: 1 << 30,
        deadline: Duration::from_secs(30),
        ..Limits::default()
    };
    let opener = Opener {
        guest: Arc::new(Guest::load(
            &engine,
            &artefact,
            "fragile",
            limits,
            Granted {
                stores: Arc::new(stores),
                ..Granted::default()
            },
        )?),
        clock: Clock::start(&engine)?,
        health: Arc::default(),
        options: [("memory".to_owned(), "1M".to_owned())].into(),
        tags: Tags {
            queues: 1,
            depth: 128,
        },
    };
    let mut opened = opener.open()?;
    let mut carrier = Blocking::new(&opened.place)?;
    let stats = Stats::default();
    let slots = opened.place.slots.count();
    let mut engine = Engine::new(opened.geometry, &mut *opened.target, slots, &stats);
    let request = Request {
        op: Op::Read,
        offset: 4096,
        length: 4096,
        fua: false,
        may_discard: false,
    };
    let begin = Instant::now();
    engine
        .begin(0, request)
        .map_err(|errno| anyhow::anyhow!("refused: {errno}"))?;
    let mut answer = None;
    while answer.is_none() {
        engine.poll(|_, result| answer = Some(result));
        for (token, transfer) in engine.transfers() {
            carrier.begin(token, &transfer)?;
        }
        if answer.is_none() {
            let mut ended = |token, ended| engine.ended(token, ended);
            carrier.wait(Duration::ZERO, &mut ended)?;
        }
    }
    let time = begin.elapsed();
    ensure!(
        answer == Some(Ok(4096)) && opener.health.restarts() == 1,
        "it restarts once"
    );
    Ok(time.as_secs_f64() * 1e3)
}
