//! Debian's packages: programs for this machine, and single files of other releases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};

use crate::command::{find_program, logged, output};
use crate::{paths, steps};

/// apt has locks of its own, but fails where it would have to wait.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Installs the packages whose programs are missing: pairs of program and package.
///
/// # Errors
///
/// Where this is no Debian, or its packages cannot be had.
pub fn install(wanted: &[(&str, &str)]) -> Result<()> {
    let mut packages: Vec<&str> = wanted
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    let _lock = lock();
    steps::say(&format!("    installing {}", packages.join(" ")));
    let log = paths::cache()?.join("apt.log");
    let get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
            .args(arguments);
        logged(&mut command, &log)
    };
    get(&["update"]).context("is this a Debian, and are we root?")?;
    let install =
        |more: &[&str]| get(&[&["install", "--no-install-recommends"], more, &packages].concat());
    // A machine that has some packages of the release's backports needs the rest from there too.
    let backports = format!("{}-backports", codename()?);
    install(&[]).or_else(|_| install(&["-t", &backports]))
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line
        .context("/etc/os-release names no release")?
        .trim_matches('"')
        .to_owned())
}

/// Another release of Debian, seen through lists of its own: this machine's sources stay as they are.
pub(crate) struct Suite {
    options: Vec<String>,
}

impl Suite {
    /// Fetches the lists of a suite such as `trixie-backports`, from the mirror this machine uses.
    pub(crate) fn open(name: &str) -> Result<Suite> {
        let _lock = lock();
        let state = paths::cache()?.join("apt").join(name);
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(folder))?;
        }
        let sources = state.join("sources.list");
        let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
        fs::write(
            &sources,
            format!("deb [signed-by={keys}] {} {name} main\n", mirror()?),
        )?;
        let shown = |path: PathBuf| path.display().to_string();
        let settings = [
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", shown(state.join("lists"))),
            format!("Dir::Cache={}", shown(state.join("cache"))),
            "Dir::State::status=/dev/null".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
        ];
        let options = settings
            .into_iter()
            .flat_map(|setting| ["-o".to_owned(), setting])
            .collect();
        let suite = Suite { options };
        output(suite.apt("apt-get").args(["-q", "update"]))?;
        Ok(suite)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Whether there is a package (`name` or `name=version`).
    pub(crate) fn has(&self, package: &str) -> bool {
        output(self.apt("apt-cache").args(["show", package])).is_ok_and(|text| !text.is_empty())
    }

    /// The packages that a package depends on.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = output(self.apt("apt-cache").args(["depends", package]))?;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// The versions of a package, newest first.
    pub(crate) fn versions(&self, package: &str) -> Result<Vec<String>> {
        let text = output(self.apt("apt-cache").args(["madison", package]))?;
        let version = |line: &str| Some(line.split('|').nth(1)?.trim().to_owned());
        Ok(text.lines().filter_map(version).collect())
    }

    /// Downloads packages with all that they need, and unpacks them into a folder: programs with their libraries, that
    /// run where it is the root. Nothing is set up.
    pub(crate) fn unpack_root(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let _lock = lock();
        let downloads = folder.with_extension("download");
        let _ = fs::remove_dir_all(&downloads);
        fs::create_dir_all(downloads.join("partial"))?;
        let place = format!("Dir::Cache::archives={}", downloads.display());
        let mut get = self.apt("apt-get");
        get.args(["-q", "-y", "--no-install-recommends", "--download-only"]);
        output(get.args(["-o", &place, "install"]).args(packages))?;
        for entry in fs::read_dir(&downloads)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "deb") {
                output(Command::new("dpkg").arg("-x").arg(path).arg(folder))?;
            }
        }
        fs::remove_dir_all(&downloads)?;
        Ok(())
    }

    /// Downloads a package and unpacks its files into a folder.
    pub(crate) fn unpack(&self, package: &str, folder: &Path) -> Result<()> {
        let _lock = lock();
        let downloads = folder.with_extension("download");
        let _ = fs::remove_dir_all(&downloads);
        fs::create_dir_all(&downloads)?;
        output(
            self.apt("apt-get")
                .args(["-q", "download", package])
                .current_dir(&downloads),
        )?;
        for entry in fs::read_dir(&downloads)? {
            output(
                Command::new("dpkg")
                    .arg("-x")
                    .arg(entry?.path())
                    .arg(folder),
            )?;
        }
        fs::remove_dir_all(&downloads)?;
        Ok(())
    }
}

/// The Debian mirror in this machine's sources.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN)|$(LABEL)|$(REPO_URI)";
    let ask = || output(Command::new("apt-get").args(["indextargets", "--format", format]));
    let find = |text: String| {
        text.lines()
            .find_map(|line| line.strip_prefix("Debian|Debian|").map(str::to_owned))
    };
    if let Some(uri) = find(ask()?) {
        return Ok(uri);
    }
    // Without lists, apt does not know who its sources are.
    output(Command::new("apt-get").args(["-q", "update"]))?;
    match find(ask()?) {
        Some(uri) => Ok(uri),
        None => bail!("apt knows no Debian mirror; is this a Debian?"),
    }
}
