//! A file that appears when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::end::End;
use crate::error::{Context, Error, Result};

/// A file under another name beside its own, until it is whole. It is removed where it never is.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    part: PathBuf,
    is_whole: bool,
}

impl Part {
    /// Begins a file of so many bytes, all of them zeros.
    ///
    /// # Errors
    ///
    /// Where it cannot be made.
    pub fn begin(path: &Path, size_bytes: u64) -> Result<(Part, End)> {
        let shown = path.display().to_string();
        let Some(name) = path.file_name() else {
            return Err(Error::usage(format!("{shown} is no name of a file")));
        };
        let mut part_name = name.to_owned();
        part_name.push(format!(".{}.part", std::process::id()));
        let this = Part {
            path: path.to_owned(),
            part: path.with_file_name(part_name),
            is_whole: false,
        };
        let end = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&this.part)
            .and_then(|file| End::new_file(file, shown.clone(), size_bytes));
        Ok((this, end.doing(|| format!("cannot make {shown}"))?))
    }

    /// Gives a file that is whole and durable its name.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn end(mut self) -> Result<()> {
        self.rename()
            .doing(|| format!("cannot make {}", self.path.display()))
    }

    fn rename(&mut self) -> io::Result<()> {
        fs::rename(&self.part, &self.path)?;
        self.is_whole = true;
        let folder = self.path.parent().filter(|it| *it != Path::new(""));
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = fs::remove_file(&self.part);
        }
    }
}
