//! `--store NAME=PATH[:ro][:direct]`, as words.

use std::path::PathBuf;

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
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > limits::NAME_BYTES_MAX || !name.chars().all(plain) {
            return Err(wrong("the name is not letters, digits, '-', '_' or '.'"));
        }
        let (mut read_only, mut direct) = (false, false);
        while let Some((before, word)) = path.rsplit_once(':') {
            match word {
                "ro" => read_only = true,
                "direct" => direct = true,
                _ => break,
            }
            path = before;
        }
        if path.is_empty() {
            return Err(wrong("there is no path"));
        }
        Ok(Grant {
            name: name.to_owned(),
            path: std::path::absolute(path).unwrap_or_else(|_| path.into()),
            read_only,
            direct,
        })
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
        if grants.len() > limits::STORES_MAX {
            let most = limits::STORES_MAX;
            return Err(Error::usage(format!("there are more than {most} --store")));
        }
        Ok(grants)
    }
}
