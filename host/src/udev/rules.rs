//! The rules file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// What is in it.
pub const RULES: &str = include_str!("59-wasmblk.rules");

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

/// Looks for the rules.
#[must_use]
pub fn installed() -> Installed {
    if !Path::new("/run/udev/control").exists() {
        return Installed::NoUdev;
    }
    let mut paths = FOLDERS.iter().map(|folder| Path::new(folder).join(NAME));
    match paths.find(|path| path.exists()) {
        None => Installed::No,
        Some(path) if fs::read_to_string(&path).is_ok_and(|text| text == RULES) => {
            Installed::Yes(path)
        }
        Some(path) => Installed::Other(path),
    }
}

/// Writes the rules into a folder: whoever reads them finds the old ones or the new ones, whole. Gives their path.
///
/// # Errors
///
/// Where the folder is not there, or may not be written.
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
    let path = folder.join(NAME);
    // udev reads files that end with ".rules" only.
    let part = folder.join(format!("{NAME}.{}.part", std::process::id()));
    let written = write_whole(&part).and_then(|()| fs::rename(&part, &path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
        .and_then(|()| File::open(folder)?.sync_all())
        .doing(|| format!("cannot write {} (try sudo, or --dir)", path.display()))?;
    Ok(path)
}

fn write_whole(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(RULES.as_bytes())?;
    file.sync_all()
}
