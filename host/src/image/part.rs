//! A file that appears when it is whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with, syncfs};
use rustix::io::Errno;

use super::claim::{lock, path_of};
use super::end::{End, Role, cannot_open};
use crate::error::{Context, Error, Result};

/// A file that gets its name when it is whole, and is gone where it never is.
#[derive(Debug)]
pub struct Part {
    path: PathBuf,
    file: File,
    /// Its name until then, where the file system has no files without one: beside its own.
    part: Option<PathBuf>,
    /// Whether it may replace another.
    force: bool,
    /// What it replaces, which meanwhile no device has for writing.
    old: Option<File>,
}

impl Part {
    /// Begins a file of so many bytes, all of them zeros. One that it replaces gives it its mode and owner.
    ///
    /// # Errors
    ///
    /// Where it cannot be made, or what it replaces is in use.
    pub fn begin(path: &Path, size_bytes: u64, force: bool) -> Result<(Part, End)> {
        let shown = path.display().to_string();
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.file_name().is_none() || is_folder {
            return Err(Error::usage(format!("{shown} is no name of a file")));
        }
        let failed = || format!("cannot make {shown}");
        // Where there is a link, what it leads to is replaced.
        let there = fs::canonicalize(path).ok().filter(|_| force);
        let old = there.as_deref().map(open_old).transpose();
        let old = old.map_err(|why| cannot_open(&shown, why))?;
        let path = there.unwrap_or_else(|| path.to_owned());
        if let Some(old) = &old {
            // Who reads it keeps it as it was.
            lock(old, &shown, Role::Source)?;
        }
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        let (part, file) = make(&path, mode).doing(failed)?;
        let this = Part {
            path,
            file,
            part,
            force,
            old,
        };
        if let Some(old) = &this.old {
            take_over(&this.file, old).doing(failed)?;
        }
        let end = this.file.try_clone();
        let end = end.and_then(|file| End::new_file(file, shown.clone(), size_bytes));
        Ok((this, end.doing(failed)?))
    }

    /// Gives a file that is whole and durable its name.
    ///
    /// # Errors
    ///
    /// The system's; where there is one by now that it may not replace.
    pub fn end(mut self) -> Result<()> {
        let named = self.give_name().and_then(|()| self.flush_name());
        let shown = self.path.display();
        named.map_err(|why| match why.kind() {
            ErrorKind::AlreadyExists => Error::failed(format!(
                "{shown} was made by somebody else meanwhile; --force replaces it"
            )),
            _ => Error::failed(format!("cannot make {shown}")).because(why),
        })
    }

    fn give_name(&mut self) -> io::Result<()> {
        let own = path_of(&self.file);
        let link = |name: &Path| Ok(linkat(CWD, &own, CWD, name, AtFlags::SYMLINK_FOLLOW)?);
        let part = match self.part.take() {
            None if !self.force => return link(&self.path),
            // A link replaces nothing; a renaming does.
            None => beside(&self.path, link)?.0,
            Some(part) => part,
        };
        let part = self.part.insert(part);
        rename(part, &self.path, self.force)?;
        self.part = None;
        Ok(())
    }

    fn flush_name(&self) -> io::Result<()> {
        match File::open(folder_of(&self.path)) {
            // It may be for writing only.
            Err(why) if why.kind() == ErrorKind::PermissionDenied => Ok(syncfs(&self.file)?),
            folder => folder?.sync_all(),
        }
    }
}

/// Opens what is replaced. Who may not read it may replace it all the same, if the folder is his; then nothing tells
/// whether it is in use.
fn open_old(path: &Path) -> io::Result<File> {
    match File::open(path) {
        Err(why) if why.kind() == ErrorKind::PermissionDenied => OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open(path),
        opened => opened,
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = fs::remove_file(part);
        }
    }
}

/// A new file, without a name where that can be: then nothing is left of it, however this process ends.
fn make(path: &Path, mode: u32) -> io::Result<(Option<PathBuf>, File)> {
    let mut how = OpenOptions::new();
    how.write(true).mode(mode);
    let nameless = how
        .clone()
        .custom_flags(libc::O_TMPFILE)
        .open(folder_of(path));
    if let Ok(file) = nameless
        && path_of(&file).exists()
    {
        return Ok((None, file));
    }
    let (part, file) = beside(path, |part| how.create_new(true).open(part))?;
    Ok((Some(part), file))
}

/// Makes something in the folder of a path, under a name that nothing has.
fn beside<T>(
    path: &Path,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let mut number = std::process::id();
    loop {
        let name = path.with_file_name(format!("wasmblk-{number}.part"));
        match make(&name) {
            Err(why) if why.kind() == ErrorKind::AlreadyExists => number = number.wrapping_add(1),
            made => return Ok((name, made?)),
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|it| *it != Path::new(""));
    folder.unwrap_or(Path::new("."))
}

/// Gives a new file the owner of another where this process may, and its mode.
fn take_over(new: &File, old: &File) -> io::Result<()> {
    let old = old.metadata()?;
    let mut mode = old.mode() & 0o777;
    let group = Some(old.gid());
    let given = fchown(new, Some(old.uid()), group).or_else(|_| fchown(new, None, group));
    if given.is_err() {
        // Its group is another one, which may do what everybody may.
        mode &= 0o707 | (mode & 0o007) << 3;
    }
    new.set_permissions(Permissions::from_mode(mode))
}

fn rename(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    if force {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // This file system has only the one that replaces.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        Err(Errno::INVAL | Errno::NOSYS) => Err(ErrorKind::AlreadyExists.into()),
        renamed => Ok(renamed?),
    }
}
