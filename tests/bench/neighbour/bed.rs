//! The part of the bench that runs in the bed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tests::command::output;

use super::clients::{Client, Neighbour};
use super::{CASES, Found, Job, Options, list};

/// The neighbour's disk: all of it is written and read.
const BLOCKS: usize = 4096;

/// How long everything may take until it runs as it will.
const SETTLING: Duration = Duration::from_secs(2);

/// How long a data plane may take to end.
const END_TIME: Duration = Duration::from_secs(10);

/// What all processes of a hostile guest may have of memory that is the guest's or comes with it: more than its limit
/// of 64 MiB, machine code and the program itself.
const PEAK_KIB_MAX: u64 = 200_000;

/// What is granted to those that abuse it.
const GRANTED: &str = "/tmp/granted";

pub(crate) fn run_in_bed(options: &Options) -> Result<()> {
    let jobs: Vec<Job> = serde_json::from_slice(&fs::read(list(Path::new(CASES)))?)?;
    fs::create_dir_all(format!("{GRANTED}/deep"))?;
    fs::write(format!("{GRANTED}/file"), b"content")?;
    let pipe = format!("{GRANTED}/pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let limits = format!(
        "--cpu-percent {} --memory-mib 64 --deadline 2 --queues 1 --depth 4",
        options.cpu_percent
    );
    let bed = Bed {
        limits: limits.split(' ').map(str::to_owned).collect(),
        time: Duration::from_secs(options.seconds),
    };
    let disk = bed.add(
        "neighbour",
        "/memory.wasm",
        &["--set", "size=16M", "--queues", "1"],
    )?;
    // It stays, and does nothing.
    bed.add("idle", "/null.wasm", &bed.limits)?;
    let neighbour = Neighbour::start(&disk, BLOCKS)?;
    neighbour.window(SETTLING)?;
    let (mut idle, _) = neighbour.window(bed.time)?;
    for job in &jobs {
        let mut found = Found {
            case: job.case.clone(),
            by: String::new(),
            within_ms: 0.0,
            cpu_percent: 0.0,
            longest_ms: 0.0,
            rounds: Vec::new(),
        };
        for _ in 0..options.rounds {
            let beside = bed
                .attack(job, &neighbour, &mut found)
                .with_context(|| job.case.clone())?;
            let (after, _) = neighbour.window(bed.time)?;
            // What the machine does beside this changes slowly.
            found.rounds.push((beside, f64::midpoint(idle, after)));
            idle = after;
        }
        crate::print(&format!("{}\n", serde_json::to_string(&found)?))?;
    }
    neighbour.end()?;
    output(Command::new("wasmblk").args(["del", "neighbour", "idle"]))?;
    Ok(())
}

struct Bed {
    /// Those of the hostile guests.
    limits: Vec<String>,
    time: Duration,
}

impl Bed {
    /// Makes a device; gives its path.
    fn add(
        &self,
        name: &str,
        guest: &str,
        more: &[impl AsRef<std::ffi::OsStr>],
    ) -> Result<PathBuf> {
        let mut command = Command::new("wasmblk");
        command.args(["add", guest, "--name", name]).args(more);
        Ok(output(&mut command)?.trim().into())
    }

    /// What the neighbour does beside a hostile guest.
    fn attack(&self, job: &Job, neighbour: &Neighbour, found: &mut Found) -> Result<f64> {
        let guest = format!("{CASES}/{}", job.file);
        let mut more = self.limits.clone();
        if job.has_directory {
            more.extend(["--dir".into(), format!("/granted={GRANTED}")]);
        }
        match self.add("attacker", &guest, &more) {
            Ok(disk) => self.serve(&disk, neighbour, found),
            Err(error) => {
                found.by = format!("refused: {}", last_words(&error.to_string()));
                self.refuse((&guest, &more), neighbour, found)
            }
        }
    }

    /// One that is refused, again and again.
    fn refuse(
        &self,
        (guest, more): (&str, &[String]),
        neighbour: &Neighbour,
        found: &mut Found,
    ) -> Result<f64> {
        let ends = AtomicBool::new(false);
        let again = || {
            let (begin, mut count) = (Instant::now(), 0);
            while !ends.load(Relaxed) {
                ensure!(self.add("attacker", guest, more).is_err(), "it was taken");
                count += 1;
            }
            Ok((begin.elapsed() / count.max(1)).as_secs_f64() * 1e3)
        };
        let before = computing_time_of_children()?;
        let begin = Instant::now();
        let (rate, took) = thread::scope(|scope| {
            let adding = scope.spawn(again);
            let rate = neighbour.window(self.time);
            ends.store(true, Relaxed);
            let took = adding.join().unwrap_or_else(|_| bail!("a thread panicked"));
            (rate, took)
        });
        let (rate, longest) = rate?;
        found.within_ms = took?;
        found.longest_ms = found.longest_ms.max(longest);
        found.cpu_percent = percent(computing_time_of_children()? - before, begin.elapsed());
        Ok(rate)
    }

    /// One that serves, or does not for long.
    fn serve(&self, disk: &Path, neighbour: &Neighbour, found: &mut Found) -> Result<f64> {
        let pid = info()?["pid"].as_u64().context("a process")?;
        let minder = parent(pid)?;
        let used = || Ok::<_, anyhow::Error>(computing_time(pid)? + computing_time(minder)?);
        let client = Client::start(disk)?;
        let (begin, before) = (Instant::now(), used()?);
        let (rate, longest) = neighbour.window(self.time)?;
        found.longest_ms = found.longest_ms.max(longest);
        found.cpu_percent = percent(used()? - before, begin.elapsed());
        client.stop();
        let status = info()?;
        let peak = field(&format!("/proc/{pid}/status"), "VmHWM:")?;
        ensure!(peak < PEAK_KIB_MAX, "it had {peak} KiB");
        output(Command::new("wasmblk").args(["del", "--force", "attacker"]))?;
        let asked = client.end()?;
        let end = Instant::now() + END_TIME;
        while Path::new(&format!("/proc/{pid}")).exists() {
            ensure!(Instant::now() < end, "its process {pid} does not end");
            thread::sleep(Duration::from_millis(10));
        }
        let waited = status["usage"]["throttled_ms"].as_u64().unwrap_or_default();
        let within = asked.failed.unwrap_or(asked.longest);
        found.within_ms = within.as_secs_f64() * 1e3;
        found.by = match (&status["reason"], asked.failed) {
            (Value::String(reason), _) => format!("ended: {reason}"),
            (_, Some(_)) => "errors".into(),
            _ if waited > 0 => format!("its budget: it waited {waited} ms"),
            _ => "no effect".into(),
        };
        Ok(rate)
    }
}

/// What the device of the hostile guest says of itself.
fn info() -> Result<Value> {
    let text = output(Command::new("wasmblk").args(["info", "attacker", "--json"]))?;
    Ok(serde_json::from_str(&text)?)
}

/// The cause at the end of an error.
fn last_words(error: &str) -> &str {
    let line = error.lines().next_back().unwrap_or_default();
    line.rsplit(": ").next().unwrap_or(line)
}

fn percent(used: Duration, of: Duration) -> f64 {
    used.as_secs_f64() / of.as_secs_f64() * 100.0
}

/// A number of a file of the system that has lines of names and values.
fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value
        .with_context(|| format!("{path} has no {name}"))?
        .parse()?)
}

fn parent(pid: u64) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "PPid:")
}

/// Computing time of all threads of a process until now.
fn computing_time(pid: u64) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().context("a number")?;
        sum += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// That of the processes that this one has waited for, and of those that they have waited for.
fn computing_time_of_children() -> Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = text.rsplit_once(") ").context("a name")?;
    // proc(5) counts from 1, and the name is the second: 'cutime' and 'cstime', in ticks of 10 ms.
    let ticks = fields
        .split(' ')
        .skip(16 - 3)
        .take(2)
        .map(str::parse::<u64>);
    let sum = ticks.sum::<std::result::Result<u64, _>>()?;
    Ok(Duration::from_millis(sum * 10))
}
