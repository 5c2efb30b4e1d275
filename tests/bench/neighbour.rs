//! `bench neighbour`: what each hostile guest of the test suite leaves of the throughput of a device beside it, in the
//! bed with Debian's kernel and two processors.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tests::steps::{say, step};
use tests::{paths, qemu};

pub(crate) use self::bed::run_in_bed;
use self::chosen::{all, chosen};
use crate::report::Row;
use crate::server::Folder;
use crate::suite::case::Case;

mod bed;
mod chosen;
mod clients;

/// Options of `bench neighbour`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Computing time that each hostile guest may have, in percent of a processor.
    #[arg(long, default_value_t = 10)]
    cpu_percent: u32,
    /// How often each is measured.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// How long each measurement takes, in seconds.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// All hostile guests, not the chosen ones only: some 700.
    #[arg(long)]
    all: bool,
    /// Only those whose name contains this.
    #[arg(long, default_value = "")]
    case: String,
    /// A part of them, as in '2/3', where all would take too long at a time.
    #[arg(long, default_value = "1/1")]
    part: String,
}

/// A hostile guest on its way to the bed.
#[derive(Debug, Serialize, Deserialize)]
struct Job {
    case: String,
    file: String,
    /// It is granted a directory.
    has_directory: bool,
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    case: String,
    /// What it was contained by.
    by: String,
    /// How long that took.
    within_ms: f64,
    /// Computing time of all processes that served it or tried to, in percent of a processor.
    cpu_percent: f64,
    /// The longest that the neighbour waited for an answer.
    longest_ms: f64,
    /// Requests of the neighbour in a second, beside it and beside a guest that is idle.
    rounds: Vec<(f64, f64)>,
}

/// The same, as it is shown.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    row: Row,
    by: String,
    within_ms: f64,
    cpu_percent: f64,
    longest_ms: f64,
}

/// How the bed's two programs agree where things lie.
const CASES: &str = "/cases";

pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = Folder::new()?;
    let jobs = prepare(options, &folder.0)?;
    ensure!(
        !jobs.is_empty(),
        "--case: none of the chosen guests is called so; --all looks through all"
    );
    step("test bed: QEMU", qemu::setup)?;
    let each = Duration::from_secs(20 + options.seconds * 3) * u32::try_from(options.rounds)?;
    let limit = Duration::from_secs(120) + each * u32::try_from(jobs.len())?;
    let script = format!(
        "cd /tmp && WASMBLK_LOG=warn exec bench neighbour-in-bed --cpu-percent {} --rounds {} --seconds {}\n",
        options.cpu_percent, options.rounds, options.seconds
    );
    let this = std::env::current_exe()?;
    let (memory, null) = (paths::guest("memory"), paths::guest("null"));
    let wasmblk = paths::target().join("release/wasmblk");
    let files: [(&Path, &str); 5] = [
        (&folder.0, CASES),
        (&this, "/usr/bin/bench"),
        (&wasmblk, "/usr/bin/wasmblk"),
        (&memory, "/memory.wasm"),
        (&null, "/null.wasm"),
    ];
    say(&format!(
        "    the bed measures {} guests; what it says comes at the end",
        jobs.len()
    ));
    let outcome = qemu::measure(&script, &[], &files, limit)?;
    let complaints = outcome.kernel_complaints();
    if outcome.status != 0 || !complaints.is_empty() {
        let (status, output) = (outcome.status, &outcome.output);
        bail!(
            "the bed: status {status}\n{output}\n{}",
            complaints.join("\n")
        );
    }
    let lines = outcome.output.lines().filter(|line| line.starts_with('{'));
    let found: Vec<Found> = lines
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()
        .with_context(|| outcome.output.clone())?;
    ensure!(
        found.len() == jobs.len(),
        "some are missing:\n{}",
        outcome.output
    );
    show(found, options.json)
}

/// Writes the guests that are wanted into a folder, with a list of them.
fn prepare(options: &Options, folder: &Path) -> Result<Vec<Job>> {
    let part = options.part.split_once('/').and_then(|(part, of)| {
        let (part, of): (usize, usize) = (part.parse().ok()?, of.parse().ok()?);
        (1..=of).contains(&part).then_some((part - 1, of))
    });
    let (part, of) = part.context("--part: not of the form 'PART/PARTS'")?;
    let cases = if options.all { all() } else { chosen() };
    let mut jobs = Vec::new();
    let named = cases.filter(|case| case.name.contains(&options.case));
    for (number, Case { name, bytes, .. }) in named.enumerate().skip(part).step_by(of) {
        let file = format!("{number}.wasm");
        fs::write(folder.join(&file), bytes)?;
        jobs.push(Job {
            has_directory: name.starts_with(chosen::WITH_DIRECTORY),
            case: name,
            file,
        });
    }
    fs::write(list(folder), serde_json::to_vec(&jobs)?)?;
    Ok(jobs)
}

fn list(folder: &Path) -> PathBuf {
    folder.join("list")
}

fn show(found: Vec<Found>, json: bool) -> Result<()> {
    let shown = found.into_iter().map(|found| Shown {
        row: Row::new(
            ("neighbour", "IOPS"),
            &found.case,
            "idle",
            &found.rounds,
            true,
        ),
        by: found.by,
        within_ms: found.within_ms,
        cpu_percent: found.cpu_percent,
        longest_ms: found.longest_ms,
    });
    let mut shown: Vec<Shown> = shown.collect();
    if json {
        return crate::print(&format!("{}\n", serde_json::to_string_pretty(&shown)?));
    }
    let width = shown.iter().map(|shown| shown.row.case.len()).max();
    let width = width.unwrap_or_default();
    let mut text = format!(
        "{:width$}  {:>9}  {:>6}  {:>9}  {:>8}  contained by\n",
        "case", "neighbour", "cpu", "longest", "within"
    );
    for Shown {
        row,
        by,
        within_ms,
        cpu_percent,
        longest_ms,
    } in &shown
    {
        let percent = row.ratio * 100.0;
        writeln!(
            text,
            "{:width$}  {percent:>7.0} %  {cpu_percent:>4.0} %  {longest_ms:>6.0} ms  {within_ms:>5.0} ms  {by}",
            row.case
        )?;
    }
    shown.sort_by(|one, other| one.row.ratio.total_cmp(&other.row.ratio));
    let of = |at: usize| shown[at].row.ratio * 100.0;
    writeln!(
        text,
        "{} guests: the neighbour keeps {:.0} % at least, {:.0} % in the median; below 80 %: {}",
        shown.len(),
        of(0),
        of(shown.len() / 2),
        shown.iter().filter(|shown| shown.row.ratio < 0.8).count()
    )?;
    crate::print(&text)
}
