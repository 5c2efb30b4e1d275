//! `--dir NAME=PATH[:ro]`: directories that a guest is granted, as words and open.

use std::fmt::{self, Debug, Formatter};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wasmtime_wasi::filesystem::Dir;
use wasmtime_wasi::{FsPerms, OpenMode};

use crate::confine::{Folder, open_folder};
use crate::error::{Error, Result};
use crate::limits;

/// What an operator grants: nothing is opened yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// Where the guest finds it: a path from its root on.
    pub name: String,
    /// The directory, absolute.
    pub path: PathBuf,
    /// The guest may not change anything in it.
    pub read_only: bool,
}

/// The directories of a guest, open as long as the device lives.
#[derive(Default)]
pub struct Directories(Vec<(String, Dir)>);

impl Directory {
    /// Checks what is to be granted. The error says what is wrong.
    ///
    /// # Errors
    ///
    /// Where the name is none, or there is no path.
    pub fn new(
        name: &str,
        path: &Path,
        read_only: bool,
    ) -> std::result::Result<Directory, &'static str> {
        if !is_name(name) {
            return Err("the name is not a path from '/' on, of letters, digits, '-', '_' and '.'");
        }
        if path.as_os_str().is_empty() {
            return Err("there is no path");
        }
        Ok(Directory {
            name: name.to_owned(),
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            read_only,
        })
    }

    /// Reads one `--dir`.
    ///
    /// # Errors
    ///
    /// Says what is expected.
    pub fn parse(words: &str) -> Result<Directory> {
        let wrong = |what: &str| {
            Error::usage(format!(
                "--dir {words}: {what}; expected NAME=PATH, such as /data=/srv/data, and behind the path ':ro' to \
                 keep the guest from writing"
            ))
        };
        let (name, path) = words
            .split_once('=')
            .ok_or_else(|| wrong("there is no '='"))?;
        let (path, read_only) = match path.strip_suffix(":ro") {
            Some(before) => (before, true),
            None => (path, false),
        };
        Directory::new(name, Path::new(path), read_only).map_err(wrong)
    }

    /// Reads all of a command line.
    ///
    /// # Errors
    ///
    /// Names the first that is wrong, or comes twice.
    pub fn parse_all(words: &[String]) -> Result<Vec<Directory>> {
        let mut all: Vec<Directory> = Vec::new();
        for words in words {
            let directory = Directory::parse(words)?;
            if all.iter().any(|other| other.name == directory.name) {
                let name = &directory.name;
                return Err(Error::usage(format!(
                    "--dir {name} is given twice; each directory has a name of its own"
                )));
            }
            all.push(directory);
        }
        Ok(all)
    }

    /// Puts directories over others: one takes the place of that with its name.
    ///
    /// # Errors
    ///
    /// Where there are too many.
    pub fn put_over(mut below: Vec<Directory>, above: Vec<Directory>) -> Result<Vec<Directory>> {
        for directory in above {
            match below.iter_mut().find(|other| other.name == directory.name) {
                Some(place) => *place = directory,
                None => below.push(directory),
            }
        }
        let most = limits::DIRECTORIES_MAX;
        if below.len() > most {
            return Err(Error::usage(format!(
                "there are more than {most} directories"
            )));
        }
        Ok(below)
    }

    /// Opens it.
    fn open(&self) -> Result<Dir> {
        let failed = |why: io::Error| {
            let (name, shown) = (&self.name, self.path.display());
            let remedy = match why.kind() {
                ErrorKind::NotFound => "; make it first, with 'mkdir'",
                ErrorKind::NotADirectory => "; a single file is granted as a --store",
                _ => "",
            };
            Error::failed(format!("cannot open --dir {name}={shown}{remedy}")).because(why)
        };
        let file = open_folder(&self.path, self.read_only).map_err(failed)?;
        // The mode is what a guest hears that asks for it.
        let (perms, mode) = if self.read_only {
            (FsPerms::ReadOnly, OpenMode::READ)
        } else {
            (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE)
        };
        Ok(Dir::new(file, perms, mode, true))
    }
}

/// A path from `/` on, without anything that leads elsewhere.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(plain);
    let parts = name.strip_prefix('/').map(|rest| rest.split('/'));
    name.len() <= limits::NAME_BYTES_MAX && parts.is_some_and(|mut parts| parts.all(is_part))
}

impl Directories {
    /// Opens what was granted.
    ///
    /// # Errors
    ///
    /// Names the directory that cannot be had, and why.
    pub fn open(granted: &[Directory]) -> Result<Directories> {
        let open = |directory: &Directory| Ok((directory.name.clone(), directory.open()?));
        granted
            .iter()
            .map(open)
            .collect::<Result<_>>()
            .map(Directories)
    }

    /// What a process has to keep that serves the guest.
    #[must_use]
    pub fn folders(&self) -> Vec<Folder<'_>> {
        let dirs = self.0.iter().map(|(_, dir)| dir);
        dirs.map(|dir| Folder {
            file: dir.dir.as_fd(),
            read_only: dir.perms.write_not_permitted(),
        })
        .collect()
    }

    /// With the names that the guest has for them.
    pub(super) fn all(&self) -> &[(String, Dir)] {
        &self.0
    }
}

impl Debug for Directories {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}
