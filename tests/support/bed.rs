//! What both beds have in common: a working folder, and a shell script to run as root.

use std::any::type_name;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use anyhow::{Context, Result, bail};

use crate::command::{find_program, output, search_path};
use crate::uml::{self, Machine};
use crate::{paths, steps};

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit status of the command.
    pub status: i32,
    /// Its output, both streams.
    pub output: String,
    /// What the kernel said.
    pub console: String,
}

impl Outcome {
    /// Makes sure that the command succeeded, and that the kernel has nothing to complain of.
    ///
    /// # Panics
    ///
    /// Where that is not so; with all that was said.
    #[track_caller]
    pub fn must_be_good(&self) {
        assert!(
            self.status == 0 && self.kernel_complaints().is_empty(),
            "status {}\n{}\nthe kernel: {}",
            self.status,
            self.output,
            self.console
        );
    }

    /// Complaints of the kernel itself: a run that has one has failed, whatever its command said.
    #[must_use]
    pub fn kernel_complaints(&self) -> Vec<&str> {
        let bad = [
            "WARNING:",
            "BUG:",
            "Oops",
            "blocked for more than",
            "Kernel panic",
        ];
        self.console
            .lines()
            .filter(|line| bad.iter().any(|word| line.contains(word)))
            .collect()
    }
}

/// A folder that is removed at the end.
#[derive(Debug)]
pub(crate) struct Work(PathBuf);

impl Work {
    pub(crate) fn new() -> Result<Work> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "wasmblk-bed-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Work(path))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// What a file of the folder says; nothing where it is not there.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read(self.path(name)).map_or_else(
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// The status that the bed's process 1 left.
    pub(crate) fn outcome(&self, output: String) -> Result<Outcome> {
        let console = self.text("console");
        let Ok(status) = self.text("status").trim().parse() else {
            bail!("the bed ended without a status; its output and console:\n{output}\n{console}");
        };
        Ok(Outcome {
            status,
            output,
            console,
        })
    }

    /// Begins the image that the kernel starts with: busybox and process 1.
    pub(crate) fn begin_image(&self, init: &str) -> Result<PathBuf> {
        let image = self.path("image");
        for folder in ["bin", "dev", "proc", "sys", "tmp", "machine", "bed"] {
            fs::create_dir_all(image.join(folder))?;
        }
        let busybox = find_program("busybox").context("busybox is missing: cargo xtask setup")?;
        fs::copy(busybox, image.join("bin/busybox"))?;
        let init_path = image.join("init");
        fs::write(&init_path, init)?;
        output(Command::new("chmod").arg("755").arg(&init_path))?;
        Ok(image)
    }

    /// Where the packed image lies.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.path("initramfs")
    }

    /// Packs the image.
    pub(crate) fn pack_image(&self) -> Result<()> {
        let packed = self.initramfs();
        let pack = format!("find . | cpio --quiet -o -H newc >'{}'", packed.display());
        output(
            Command::new("sh")
                .args(["-c", &pack])
                .current_dir(self.path("image")),
        )?;
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Set where a test runs inside a bed.
const INSIDE: &str = "WASMBLK_INSIDE_BED";

/// How often a test in a bed is to do what it does; who says so is shown what it says.
const CYCLES: &str = "WASMBLK_CYCLES";

/// Runs a test's body under a fresh kernel of its own: this program again, in the bed, with just this
/// test.
///
/// # Panics
///
/// Where the body fails there, the bed does not work, or the kernel complains.
pub fn in_bed<F: FnOnce()>(machine: &Machine, body: F) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    // "all::filesystem::ext4::{{closure}}" is the body of the test "filesystem::ext4".
    let path = type_name::<F>();
    let test = path.split_once("::").map_or(path, |(_, test)| test);
    let test = test.trim_end_matches("::{{closure}}");
    let program = env::current_exe().expect("a test has a program");
    let cycles = env::var(CYCLES).ok();
    let more = cycles.as_ref().map(|cycles| format!("{CYCLES}='{cycles}'"));
    let script = format!(
        "export PATH='{}' HOME=/tmp RUST_BACKTRACE=1 {INSIDE}=1 WASMBLK_CACHE_DIR=/tmp/cache \
         CARGO_TARGET_DIR='{}' {}\n\
         cd /tmp && exec '{}' --exact '{test}' --nocapture --test-threads=1\n",
        search_path(),
        paths::target().display(),
        more.unwrap_or_default(),
        program.display(),
    );
    let outcome = uml::run(machine, &script).unwrap_or_else(|error| panic!("{error:#}"));
    outcome.must_be_good();
    let ran = outcome.output.contains("1 passed");
    assert!(ran, "the bed has no such test: {}", outcome.output);
    if cycles.is_some() {
        steps::say(&outcome.output);
    }
}
