//! The rules file.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

const TEMPLATE: &str = include_str!("59-wasmblk.rules");

/// Stands in it for the program that gives nodes to their owners.
const PROGRAM: &str = "@WASMBLK@";

/// Where an administrator's rules are; they go before a distribution's of the same name.
pub const FOLDER: &str = "/etc/udev/rules.d";

/// Where udev looks for rules: of files with one name, the first counts (udev(7)).
const FOLDERS: [&str; 4] = [
    FOLDER,
    "/run/udev/rules.d",
    "/usr/local/lib/udev/rules.d",
    "/usr/lib/udev/rules.d",
];

const NAME: &str = "59-wasmblk.rules";

/// What this machine has of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Installed {
    /// Nobody needs them: no udev runs.
    NoUdev,
    /// None.
    No,
    /// Those of this version.
    Yes(PathBuf),
    /// Those of another version, or changed ones.
    Other(PathBuf),
}

/// The rules, which name this program.
///
/// # Errors
///
/// Where its path cannot stand in a rule.
pub fn rules() -> Result<String> {
    let program = program()?;
    let shown = program.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+".contains(c);
    if !shown.chars().all(plain) {
        return Err(Error::failed(format!(
            "the path of this program, {shown}, cannot stand in a rule of udev; put it elsewhere"
        )));
    }
    Ok(TEMPLATE.replace(PROGRAM, &shown))
}

fn program() -> Result<PathBuf> {
    env::current_exe().doing(|| "cannot find this program".into())
}

/// Whether a file is the rules, with whatever program.
fn is_ours(text: &str) -> bool {
    let Some((before, after)) = TEMPLATE.split_once(PROGRAM) else {
        return false;
    };
    let program = text
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after));
    program.is_some_and(|path| path.starts_with('/') && !path.contains(['"', '\n']))
}

/// udev runs the program as root: nobody else may be able to put another in its place.
fn check_program() -> Result<()> {
    let program = program()?;
    for part in program.ancestors() {
        let about = fs::metadata(part).doing(|| format!("cannot look at {}", part.display()))?;
        if about.uid() != 0 || about.mode() & 0o022 != 0 {
            return Err(Error::failed(format!(
                "udev would run {} as root, and {} can be changed by others: call it from where only root can write, \
                 such as /usr/local/bin",
                program.display(),
                part.display()
            )));
        }
    }
    Ok(())
}

/// Looks for the rules.
#[must_use]
pub fn installed() -> Installed {
    if !Path::new("/run/udev/control").exists() {
        return Installed::NoUdev;
    }
    let mut paths = FOLDERS.iter().map(|folder| Path::new(folder).join(NAME));
    match paths.find(|path| path.exists()) {
        None => Installed::No,
        Some(path) if fs::read_to_string(&path).is_ok_and(|text| is_ours(&text)) => {
            Installed::Yes(path)
        }
        Some(path) => Installed::Other(path),
    }
}

/// Writes the rules into a folder: whoever reads them finds the old ones or the new ones, whole. Gives their path.
///
/// # Errors
///
/// Where the folder is not there, or may not be written; where others could change the program that the rules name.
pub fn install(folder: &Path) -> Result<PathBuf> {
    let shown = folder.display();
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Error::usage(format!("--dir {shown}: it is not a folder"))),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let message =
                format!("there is no folder {shown}; is udev installed? --dir chooses another");
            return Err(Error::failed(message));
        }
        Err(why) => return Err(Error::failed(format!("cannot look at {shown}")).because(why)),
    }
    check_program()?;
    let rules = rules()?;
    let path = folder.join(NAME);
    // udev reads files that end with ".rules" only.
    let part = folder.join(format!("{NAME}.{}.part", std::process::id()));
    let written = write_whole(&part, &rules).and_then(|()| fs::rename(&part, &path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
        .and_then(|()| File::open(folder)?.sync_all())
        .doing(|| format!("cannot write {} (try sudo, or --dir)", path.display()))?;
    Ok(path)
}

fn write_whole(path: &Path, rules: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(rules.as_bytes())?;
    file.sync_all()
}
