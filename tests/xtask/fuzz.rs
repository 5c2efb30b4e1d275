//! `cargo xtask fuzz`: libFuzzer by cargo-fuzz, on what `tests/fuzz` has.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use tests::command::{output, search_path};
use tests::paths;
use tests::steps::{say, step};

/// Options of `fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which of them, by its file in tests/fuzz [default: all, one after the other].
    target: Option<String>,
    /// How long each is tried.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Put inputs into the corpus that reach code which no other of it does, and leave there as few as do.
    #[arg(long)]
    keep: bool,
}

/// The version that is installed.
const CARGO_FUZZ: &str = "0.13.2";

/// Longest input in bytes. What is kept is for people too, and for each run of the tests.
const BYTES_MAX: u32 = 4096;

pub(crate) fn run(options: &Options) -> Result<()> {
    let targets = targets()?;
    let chosen: Vec<&String> = match &options.target {
        None => targets.iter().collect(),
        Some(name) => targets.iter().filter(|target| *target == name).collect(),
    };
    if chosen.is_empty() {
        bail!("no such target; there are: {}", targets.join(" "));
    }
    step("cargo-fuzz", install)?;
    for target in chosen {
        fuzz(target, options)?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let entries = fs::read_dir(paths::root().join("tests/fuzz/targets"))?;
    let names = entries.flatten().filter_map(|entry| {
        let path = entry.path();
        Some(path.file_stem()?.to_str()?.to_owned())
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

fn root() -> Result<PathBuf> {
    Ok(paths::cache()?.join("cargo-fuzz").join(CARGO_FUZZ))
}

fn install() -> Result<()> {
    let root = root()?;
    if root.join("bin/cargo-fuzz").exists() {
        return Ok(());
    }
    output(
        Command::new("cargo")
            .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--root"])
            .arg(root)
            // Its binary is not ours.
            .env_remove("CARGO_TARGET_DIR"),
    )?;
    Ok(())
}

fn fuzz(target: &str, options: &Options) -> Result<()> {
    let corpus = paths::root().join("tests/fuzz/corpus").join(target);
    // What is found in passing is not part of the repository.
    let found = paths::target().join("fuzz-corpus").join(target);
    let broken = paths::target().join("fuzz-broken").join(target);
    for folder in [&corpus, &found, &broken] {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    say(&format!("==> {target}"));
    let words = [
        format!("-max_total_time={}", options.seconds),
        format!("-max_len={BYTES_MAX}"),
        "-timeout=20".into(),
        "-rss_limit_mb=4096".into(),
        "-print_final_stats=1".into(),
        format!("-artifact_prefix={}/", broken.display()),
    ];
    let folders = [found.clone(), corpus.clone()];
    call(target, &folders, &words).with_context(|| {
        format!(
            "an input is found that breaks something: it is in {}",
            broken.display()
        )
    })?;
    if options.keep {
        let least = paths::target().join("fuzz-least").join(target);
        let _ = fs::remove_dir_all(&least);
        fs::create_dir_all(&least)?;
        // Which code they reach, not how often: the fewer there are, the more each is worth a look.
        let words = ["-set_cover_merge=1", "-use_counters=0"].map(str::to_owned);
        call(target, &[least.clone(), corpus.clone(), found], &words)?;
        fs::remove_dir_all(&corpus)?;
        fs::create_dir_all(&corpus)?;
        for entry in fs::read_dir(&least)? {
            let path = entry?.path();
            let name = path.file_name().context("a name")?;
            fs::copy(&path, corpus.join(name))?;
        }
    }
    Ok(())
}

/// Runs the fuzzer. No sanitizer is needed, which only unstable compilers have: the targets are safe code.
fn call(target: &str, folders: &[PathBuf], words: &[String]) -> Result<()> {
    let path = format!("{}:{}", root()?.join("bin").display(), search_path());
    let status = Command::new("cargo")
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(paths::root().join("tests/fuzz"))
        .arg("--target-dir")
        .arg(paths::target().join("fuzz"))
        .arg(target)
        .args(folders)
        .arg("--")
        .args(words)
        .env("PATH", path)
        .env_remove("RUSTFLAGS")
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(paths::root())
        .status()?;
    if !status.success() {
        bail!("cargo fuzz run {target}: {status}");
    }
    Ok(())
}
