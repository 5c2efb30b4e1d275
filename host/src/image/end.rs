//! The ends of a copy.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fcntl_getfl, fcntl_setfl, seek};
use rustix::io::Errno;

use super::claim::{claim, lock, lock_again};
use super::copy::GRAIN_BYTES;
use super::word::Word;
use crate::error::{Context, Error, Result};
use crate::sys::copy_of_fd;

/// What is to be done with an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is read.
    Source,
    /// It is written.
    Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    /// A file of zeros.
    NewFile,
    Disk,
    /// Where it is now, from begin to end.
    Stream,
}

/// An open end.
#[derive(Debug)]
pub struct End {
    /// As it is called in messages.
    pub shown: String,
    /// Its size in bytes, where it has one.
    pub size_bytes: Option<u64>,
    /// What sizes must be multiples of, in bytes.
    pub block_bytes: u32,
    file: File,
    kind: Kind,
    role: Role,
    /// Whoever started this process has it open too, as the same.
    inherited: bool,
    /// Whether zeros can be asked for without sending them. Assumed until it fails.
    can_zero: bool,
    /// Flags of a file that is also somebody else's, to be put back.
    flags_before: Option<OFlags>,
    /// Keeps others off what was open already.
    claim: Option<File>,
}

impl End {
    /// Opens one. Disks are opened past the system's cache, and for writing only if nobody has them mounted.
    ///
    /// # Errors
    ///
    /// Where there is nothing, or nothing of the kind; where it may not be read or written, or is in use.
    pub fn open(word: &Word<'_>, role: Role) -> Result<End> {
        let (file, shown, in_place) = match word {
            Word::Standard => {
                let cloned = match role {
                    Role::Source => io::stdin().as_fd().try_clone_to_owned(),
                    Role::Target => io::stdout().as_fd().try_clone_to_owned(),
                };
                let name = match role {
                    Role::Source => "standard input",
                    Role::Target => "standard output",
                };
                let fd = cloned.map_err(|why| cannot_open(name, why))?;
                (File::from(fd), name.to_owned(), false)
            }
            Word::Inherited(number) => {
                let shown = format!("fd:{number}");
                let fd = copy_of_fd(*number).map_err(|why| cannot_open(&shown, why))?;
                (File::from(fd), shown, true)
            }
            Word::Path(path) => {
                let shown = path.display().to_string();
                let file = open_path(path, role).map_err(|why| cannot_open(&shown, why))?;
                (file, shown, true)
            }
        };
        let mut end = End::new(file, &shown, in_place, role)?;
        end.inherited = !matches!(word, Word::Path(_));
        Ok(end)
    }

    /// One that is open: a disk, or a file.
    ///
    /// # Errors
    ///
    /// As [`End::open`].
    pub fn of(file: File, shown: &str, role: Role) -> Result<End> {
        End::new(file, shown, true, role)
    }

    fn new(file: File, shown: &str, in_place: bool, role: Role) -> Result<End> {
        let failed = |why: io::Error| cannot_open(shown, why);
        let kind = kind_of(&file).map_err(failed)?;
        let mut end = End {
            kind: if in_place { kind } else { Kind::Stream },
            shown: shown.to_owned(),
            size_bytes: None,
            block_bytes: 1,
            file,
            role,
            inherited: false,
            can_zero: true,
            flags_before: None,
            claim: None,
        };
        end.check_access(in_place)?;
        end.measure(kind).map_err(failed)?;
        if in_place && kind == Kind::Stream {
            let message = format!("{shown} is neither a file nor a block device; '-' is for pipes");
            return Err(Error::failed(message));
        }
        Ok(end)
    }

    /// A new file that is to have so many bytes, all of them zeros.
    pub(super) fn new_file(file: File, shown: String, size_bytes: u64) -> io::Result<End> {
        file.set_len(size_bytes)?;
        Ok(End {
            shown,
            size_bytes: Some(size_bytes),
            block_bytes: 1,
            file,
            kind: Kind::NewFile,
            role: Role::Target,
            inherited: false,
            can_zero: true,
            flags_before: None,
            claim: None,
        })
    }

    /// An inherited file may be open for something else.
    fn check_access(&self, in_place: bool) -> Result<()> {
        let (shown, role) = (&self.shown, self.role);
        let flags = fcntl_getfl(&self.file).map_err(|why| cannot_open(shown, why.into()))?;
        let fits = match (flags & OFlags::ACCMODE, role) {
            _ if flags.contains(OFlags::PATH) => false,
            (OFlags::RDWR, _) => true,
            (OFlags::WRONLY, role) => role == Role::Target,
            (_, role) => role == Role::Source,
        };
        let way = match role {
            Role::Source => "reading",
            Role::Target => "writing",
        };
        if !fits {
            return Err(Error::failed(format!("{shown} is not open for {way}")));
        }
        // Every write would go to the end, wherever it belongs.
        if in_place && role == Role::Target && flags.contains(OFlags::APPEND) {
            return Err(Error::failed(format!(
                "{shown} is open for appending; a shell opens it right with '<>', not '>>'"
            )));
        }
        Ok(())
    }

    fn measure(&mut self, kind: Kind) -> io::Result<()> {
        if kind == Kind::Disk {
            self.block_bytes = rustix::fs::ioctl_blksszget(&self.file)?;
        }
        match (self.kind, kind) {
            (Kind::Stream, Kind::File) if self.role == Role::Source => {
                let place = seek(&self.file, SeekFrom::Current(0))?;
                self.size_bytes = Some(self.file.metadata()?.len().saturating_sub(place));
            }
            (Kind::File | Kind::NewFile, _) => self.size_bytes = Some(self.file.metadata()?.len()),
            (Kind::Disk, _) => {
                let place = seek(&self.file, SeekFrom::Current(0))?;
                self.size_bytes = Some(seek(&self.file, SeekFrom::End(0))?);
                seek(&self.file, SeekFrom::Start(place))?;
                let flags = fcntl_getfl(&self.file)?;
                if !flags.contains(OFlags::DIRECT) {
                    fcntl_setfl(&self.file, flags | OFlags::DIRECT)?;
                    self.flags_before = Some(flags);
                }
            }
            (Kind::Stream, _) => {}
        }
        Ok(())
    }

    /// A file becomes as long as what it gets; a disk cannot.
    #[must_use]
    pub fn growing(mut self) -> End {
        if self.kind == Kind::File {
            self.size_bytes = None;
        }
        self
    }

    /// Makes it long enough for what it gets, where it may grow.
    pub(super) fn make_room(&self, bytes: u64) -> Result<()> {
        if self.kind != Kind::File || self.size_bytes.is_some() {
            return Ok(());
        }
        let shown = &self.shown;
        let size = self.file.metadata().map(|about| about.len());
        size.and_then(|size| self.file.set_len(size.max(bytes)))
            .doing(|| format!("cannot make {shown} longer"))
    }

    /// Keeps others off while it is copied: devices whose store a file is, and who would mount a disk.
    pub(super) fn claim(&mut self) -> Result<()> {
        let (shown, role) = (&self.shown, self.role);
        let failed = |why: io::Error| cannot_open(shown, why);
        match kind_of(&self.file).map_err(failed)? {
            Kind::File if self.inherited => {
                self.claim = lock_again(&self.file, shown, role)?;
            }
            Kind::File if self.kind == Kind::File => lock(&self.file, shown, role)?,
            Kind::Disk if !self.inherited => lock(&self.file, shown, role)?,
            Kind::Disk if self.inherited && role == Role::Target => {
                self.claim = claim(&self.file).map_err(failed)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether both are one and the same.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn is_same(&self, other: &End) -> io::Result<bool> {
        let (one, other) = (self.file.metadata()?, other.file.metadata()?);
        let is_disk = |about: &fs::Metadata| about.file_type().is_block_device();
        Ok(if is_disk(&one) && is_disk(&other) {
            one.rdev() == other.rdev()
        } else {
            one.file_type().is_file() && (one.dev(), one.ino()) == (other.dev(), other.ino())
        })
    }

    /// How many zeros follow that need not be read to know them; only whole grains, or up to the end.
    pub(super) fn hole(&self, at: u64) -> u64 {
        let (Kind::File, Some(size)) = (self.kind, self.size_bytes) else {
            return 0;
        };
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => (data - data % GRAIN_BYTES as u64).saturating_sub(at),
            Err(Errno::NXIO) => size.saturating_sub(at),
            // This file system does not tell.
            Err(_) => 0,
        }
    }

    /// Reads until `data` is full, or until the end.
    pub(super) fn fill(&mut self, at: u64, data: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            let read = if self.kind == Kind::Stream {
                self.file.read(&mut data[done..])
            } else {
                self.file.read_at(&mut data[done..], at + done as u64)
            };
            match read {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(self.stuck("read", at + done as u64, why)),
            }
        }
        Ok(done)
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) -> Result<()> {
        if self.kind == Kind::Stream {
            self.file.write_all(data)
        } else {
            self.file.write_all_at(data, at)
        }
        .map_err(|why| self.stuck("write", at, why))
    }

    /// Makes zeros of what is there, without sending them where that can be. `false` where they have to be.
    pub(super) fn zero(&mut self, at: u64, bytes: u64) -> Result<bool> {
        match self.kind {
            Kind::NewFile => return Ok(true),
            Kind::Stream => return Ok(false),
            Kind::File | Kind::Disk if !self.can_zero => return Ok(false),
            Kind::File | Kind::Disk => {}
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, how, at, bytes) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV) => {
                self.can_zero = false;
                Ok(false)
            }
            Err(why) => Err(self.stuck("make zeros", at, why.into())),
        }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn finish(&self) -> Result<()> {
        // A stream may be a file all the same.
        let flushed = kind_of(&self.file).and_then(|kind| match kind {
            Kind::Stream => Ok(()),
            _ => self.file.sync_all(),
        });
        flushed.doing(|| format!("cannot flush {}", self.shown))
    }

    fn stuck(&self, what: &str, at: u64, why: io::Error) -> Error {
        Error::failed(format!("{}: cannot {what} at byte {at}", self.shown)).because(why)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(flags) = self.flags_before {
            let _ = fcntl_setfl(&self.file, flags);
        }
    }
}

fn open_path(path: &Path, role: Role) -> io::Result<File> {
    // Others may wait for somebody when they are opened.
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("it is neither a file nor a block device"));
    }
    let mut flags = 0;
    if kind.is_block_device() {
        flags |= libc::O_DIRECT;
        if role == Role::Target {
            flags |= libc::O_EXCL;
        }
    }
    OpenOptions::new()
        .read(role == Role::Source)
        .write(role == Role::Target)
        .custom_flags(flags)
        .open(path)
}

fn kind_of(file: &File) -> io::Result<Kind> {
    let kind = file.metadata()?.file_type();
    Ok(if kind.is_file() {
        Kind::File
    } else if kind.is_block_device() {
        Kind::Disk
    } else {
        Kind::Stream
    })
}

/// Why an end is not opened, with what would help.
pub fn cannot_open(shown: &str, why: io::Error) -> Error {
    let remedy = match why.kind() {
        ErrorKind::ResourceBusy => " (it is mounted, or in use in another way: end that first)",
        ErrorKind::PermissionDenied => " (whose is it? try sudo)",
        _ if why.raw_os_error() == Some(libc::EBADF) => " (nobody left it open for this process)",
        _ => "",
    };
    Error::failed(format!("cannot open {shown}{remedy}")).because(why)
}
