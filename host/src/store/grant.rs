//! `--store NAME=PATH[:ro][:direct]`, as words.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::limits;

/// What an operator grants: nothing is opened yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The name by which the guest asks for it.
    pub name: String,
    /// A file or block device, absolute.
    pub path: PathBuf,
    /// The guest may not change it. Others may read it as well.
    pub read_only: bool,
    /// The system's cache is passed by (`O_DIRECT`).
    pub direct: bool,
}

impl Grant {
    /// Checks what is to be granted. The error says what is wrong.
    ///
    /// # Errors
    ///
    /// Where the name is none, or there is no path.
    pub fn new(
        name: &str,
        path: &Path,
        read_only: bool,
        direct: bool,
    ) -> std::result::Result<Grant, &'static str> {
        if !is_name(name) {
            return Err("the name is not letters, digits, '-', '_' or '.'");
        }
        if path.as_os_str().is_empty() {
            return Err("there is no path");
        }
        Ok(Grant {
            name: name.to_owned(),
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            read_only,
            direct,
        })
    }

    /// Reads one `--store`.
    ///
    /// # Errors
    ///
    /// Says what is expected.
    pub fn parse(words: &str) -> Result<Grant> {
        let wrong = |what: &str| {
            Error::usage(format!(
                "--store {words}: {what}; expected NAME=PATH, such as data=/srv/disk.img, and behind the \
                 path ':ro' to keep the guest from writing, ':direct' to pass by the system's cache"
            ))
        };
        let (name, mut path) = words
            .split_once('=')
            .ok_or_else(|| wrong("there is no '='"))?;
        let (mut read_only, mut direct) = (false, false);
        while let Some((before, word)) = path.rsplit_once(':') {
            match word {
                "ro" => read_only = true,
                "direct" => direct = true,
                _ => break,
            }
            path = before;
        }
        Grant::new(name, Path::new(path), read_only, direct).map_err(wrong)
    }

    /// Reads all of a command line.
    ///
    /// # Errors
    ///
    /// Names the first that is wrong, or comes twice.
    pub fn parse_all(words: &[String]) -> Result<Vec<Grant>> {
        let mut grants: Vec<Grant> = Vec::new();
        for words in words {
            let grant = Grant::parse(words)?;
            if grants.iter().any(|other| other.name == grant.name) {
                let name = &grant.name;
                return Err(Error::usage(format!(
                    "--store {name} is given twice; each store has a name of its own"
                )));
            }
            grants.push(grant);
        }
        check_count(&grants)?;
        Ok(grants)
    }

    /// Puts grants over others: one takes the place of that with its name.
    ///
    /// # Errors
    ///
    /// Where there are too many.
    pub fn put_over(mut below: Vec<Grant>, above: Vec<Grant>) -> Result<Vec<Grant>> {
        for grant in above {
            match below.iter_mut().find(|other| other.name == grant.name) {
                Some(place) => *place = grant,
                None => below.push(grant),
            }
        }
        check_count(&below)?;
        Ok(below)
    }

    /// The line of a policy file that grants a store with this name.
    #[must_use]
    pub fn line(name: &str) -> String {
        // A dot would be a name inside a name.
        if name.contains('.') {
            format!("stores.\"{name}\" = {{ path = \"PATH\" }}")
        } else {
            format!("stores.{name} = {{ path = \"PATH\" }}")
        }
    }
}

/// Whether a store can have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !name.is_empty() && name.len() <= limits::NAME_BYTES_MAX && name.chars().all(plain)
}

fn check_count(grants: &[Grant]) -> Result<()> {
    let most = limits::STORES_MAX;
    if grants.len() > most {
        return Err(Error::usage(format!("there are more than {most} stores")));
    }
    Ok(())
}
