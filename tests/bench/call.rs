//! `bench call`: what it costs to have a guest answer a request, by contract and batch.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use tests::paths;
use wasmblk::block::{Geometry, Op, Output, Request, Target};
use wasmblk::guest::{
    Clock, Granted, Guest, Limits, Opened, Opener, Source, Tags, compile_here, new_engine,
};

use crate::native::Native;
use crate::report::{self, Row};

/// Options of `bench call`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Rounds in which all contracts take turns.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Only cases whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
}

/// Of a disk in C without a flush, nothing is left but the contract.
const IN_C: &str = "empty body in C";

const DEPTH: u16 = 64;
const BATCHES: [u32; 5] = [1, 4, 16, 32, 64];

/// Requests in one measurement.
const REQUESTS: u32 = 64 * 400;

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut device = open("null-device", &[])?;
    let mut null = open("null", &[])?;
    let mut in_c = open("memory-c", &[("size", "1M")])?;
    let mut native = Native::default();
    let mut rows = Vec::new();
    for (name, op, bytes) in [
        (IN_C, Op::Flush, 0),
        ("empty body", Op::Flush, 0),
        ("read 4k", Op::Read, 4096),
        ("write 4k", Op::Write, 4096),
    ] {
        let ring = if name == IN_C { &mut in_c } else { &mut null };
        let geometry = ring.geometry;
        let request = Request {
            op,
            offset: 0,
            length: bytes,
            fua: false,
            may_discard: false,
        };
        for batch in BATCHES {
            let case = format!("ring {name}, batch {batch}");
            if !case.contains(&options.case) {
                continue;
            }
            let (mut calls, mut natively) = (Vec::new(), Vec::new());
            for _ in 0..options.rounds {
                let by_ring = measure(&mut *ring.target, &geometry, request, batch)?;
                // The typed call has no batches: the same request, one call each.
                let by_call = measure(&mut *device.target, &geometry, request, batch)?;
                let by_function = measure(&mut native, &geometry, request, batch)?;
                calls.push((by_ring, by_call));
                natively.push((by_ring, by_function));
            }
            let metric = ("call", "ns/request");
            rows.push(Row::new(metric, &case, "typed call", &calls, false));
            rows.push(Row::new(metric, &case, "native", &natively, false));
        }
    }
    report::show(&rows, options.json)
}

fn open(name: &str, options: &[(&str, &str)]) -> Result<Opened> {
    let engine = new_engine()?;
    let source = Source::read(&paths::guest(name))?;
    let limits = Limits::default();
    let artefact = compile_here(&engine, &source)?;
    let options: Vec<(String, String)> = options
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let opener = Opener {
        guest: Arc::new(Guest::load(
            &engine,
            &artefact,
            name,
            limits,
            Granted::default(),
        )?),
        clock: Clock::start(&engine)?,
        health: Arc::default(),
        options: options.into(),
        tags: Tags {
            queues: 1,
            depth: DEPTH,
        },
    };
    Ok(opener.open()?)
}

/// Nanoseconds for each request.
fn measure(
    target: &mut dyn Target,
    geometry: &Geometry,
    request: Request,
    batch: u32,
) -> Result<f64> {
    let errno = |errno| anyhow::anyhow!("refused: {errno}");
    let checked = request.check(geometry).map_err(errno)?;
    let mut output = Output::default();
    output.answers.reserve(usize::from(DEPTH));
    let rounds = REQUESTS / batch;
    let begin = Instant::now();
    for _ in 0..rounds {
        for slot in 0..batch {
            target.submit(slot, &checked);
        }
        while output.answers.len() < batch as usize {
            target.poll(&mut output);
        }
        output.answers.clear();
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / f64::from(rounds * batch))
}
