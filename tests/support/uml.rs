//! The fast bed: Linux as an ordinary process, seeing this machine's files.

use std::env;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::apt::{self, Suite};
use crate::bed::{Outcome, Work};
use crate::command::{logged, output, wait_at_most};
use crate::{paths, steps};

const CONFIG: &str = include_str!("../bed/uml.config");
const INIT: &str = include_str!("../bed/uml-init");

/// The source that the kernel is built from, in the suite of [`SUITE`]; its newest where this is gone.
const SOURCE: &str = "linux-source-7.3";
const SUITE: &str = "trixie-backports";

/// Builds the kernel, once for each configuration.
///
/// # Errors
///
/// Where the source cannot be had or does not build.
pub fn setup() -> Result<()> {
    if kernel()?.exists() {
        return Ok(());
    }
    apt::install(&[
        ("gcc", "build-essential"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("perl", "perl"),
        ("xz", "xz-utils"),
        ("cpio", "cpio"),
        ("busybox", "busybox-static"),
    ])?;
    let work = paths::cache()?.join("uml-build");
    let _ = fs::remove_dir_all(&work);
    let (tree, build) = (work.join("tree"), work.join("build"));
    fs::create_dir_all(&tree)?;
    fs::create_dir_all(&build)?;
    fetch_source(&work, &tree)?;
    let config = work.join("config");
    fs::write(&config, CONFIG)?;
    let make = |arguments: &[&str]| {
        let mut command = Command::new("nice");
        command
            .args(["-n", "5", "make", "ARCH=um", "-C"])
            .arg(&tree);
        command
            .arg(format!("O={}", build.display()))
            .args(arguments);
        // The kernel's build is its own: nothing of cargo's jobs or flags.
        command
            .env_remove("MAKEFLAGS")
            .env_remove("CARGO_MAKEFLAGS");
        logged(&mut command, &work.join("log"))
    };
    make(&[
        &format!("KCONFIG_ALLCONFIG={}", config.display()),
        "alldefconfig",
    ])?;
    let jobs = std::thread::available_parallelism()?;
    make(&[&format!("-j{jobs}"), "linux"])?;
    let kernel = kernel()?;
    fs::create_dir_all(kernel.parent().context("a folder")?)?;
    let part = kernel.with_extension("part");
    output(
        Command::new("strip")
            .arg("-o")
            .arg(&part)
            .arg(build.join("linux")),
    )?;
    fs::rename(&part, &kernel)?;
    fs::remove_dir_all(&work)?;
    Ok(())
}

fn fetch_source(work: &Path, tree: &Path) -> Result<()> {
    let suite = Suite::open(SUITE)?;
    let mut package = SOURCE.to_owned();
    if !suite.has(&package) {
        let newest = suite.depends("linux-source")?.into_iter().next();
        package = newest.context("the suite has no linux-source")?;
        steps::say(&format!(
            "    {SUITE} no longer has {SOURCE}: taking {package}"
        ));
    }
    let unpacked = work.join("package");
    suite.unpack(&package, &unpacked)?;
    let archives = unpacked.join("usr/src");
    let archive = fs::read_dir(&archives)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().ends_with(".tar.xz"))
        .context("the package has no archive")?;
    output(
        Command::new("tar")
            .arg("-C")
            .arg(tree)
            .args(["--strip-components=1", "-xf"])
            .arg(archive),
    )?;
    fs::remove_dir_all(unpacked)?;
    Ok(())
}

/// The kernel, named by what it is made of.
fn kernel() -> Result<PathBuf> {
    let digest = Sha256::digest(format!("{SOURCE}\n{CONFIG}"));
    let name: String = digest
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(paths::cache()?.join("uml").join(name).join("linux"))
}

/// What a run gets.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Processors.
    pub processors: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// When the run is given up.
    pub limit: Duration,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            processors: 1,
            memory_mib: 1024,
            limit: Duration::from_secs(300),
        }
    }
}

/// Runs a shell script as root under a fresh kernel. It sees this machine's files, read-only, and
/// empty `/tmp`, `/run` and `/mnt`.
///
/// # Errors
///
/// Where the kernel is not there, does not start, or does not end in time; a script that fails is
/// an [`Outcome`].
pub fn run(machine: &Machine, script: &str) -> Result<Outcome> {
    let kernel = kernel()?;
    if !kernel.exists() {
        bail!("the test bed has no kernel yet: run 'cargo xtask test', which builds it");
    }
    let work = Work::new()?;
    work.begin_image(INIT)?;
    work.pack_image()?;
    let initramfs = work.initramfs();
    fs::write(work.path("command"), script)?;
    fs::create_dir_all(paths::target())?;
    let seen = [paths::root(), paths::target()].map(|folder| format!("{}\n", folder.display()));
    fs::write(work.path("seen"), seen.concat())?;
    let console = File::create(work.path("console"))?;
    let mut command = pinned(machine, &kernel);
    command
        .args([
            &format!("mem={}M", machine.memory_mib),
            &format!("ncpus={}", machine.processors),
            "seccomp=on",
            &format!("initrd={}", initramfs.display()),
            "rdinit=/init",
            &format!("uml_dir={}", work.folder().display()),
            "umid=uml",
            "con0=null,fd:1",
            "con=null",
            "ssl=null",
            "loglevel=5",
            "panic=-1",
            "hung_task_panic=0",
            &format!("bed={}", work.folder().display()),
        ])
        // Its memory lies in /dev/shm then.
        .env_remove("TMPDIR")
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        // Its processes are processes here: one group, to be ended together.
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    if wait_at_most(&mut child, machine.limit)?.is_none() {
        bail!(
            "the bed was ended after {} s; its output and console:\n{}\n{}",
            machine.limit.as_secs(),
            work.text("output"),
            work.text("console")
        );
    }
    work.outcome(work.text("output"))
}

/// With one processor the bed stays on one of ours: wake-ups between them are slow in it.
fn pinned(machine: &Machine, kernel: &Path) -> Command {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if machine.processors > 1 || env::var_os("WASMBLK_BED_UNPINNED").is_some() {
        return Command::new(kernel);
    }
    let mut command = Command::new("taskset");
    command
        .args(["-c", &(NEXT.fetch_add(1, Relaxed) % processors).to_string()])
        .arg(kernel);
    command
}
