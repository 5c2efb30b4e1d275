//! Stores that are open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fcntl_getfl, major, minor, seek};

use super::grant::Grant;
use super::shape::Shape;
use crate::block::{Ended, Errno};
use crate::error::{Error, Result};
use crate::sys::{AlignedBytes, lock_file};

/// Unit of `O_DIRECT` where the system does not tell.
const DIRECT_BLOCK_BYTES: u32 = 4096;

/// The stores of a device. Their numbers are their places.
#[derive(Debug, Default)]
pub struct Stores(Vec<Store>);

/// One file or block device, open and locked.
#[derive(Debug)]
pub struct Store {
    /// The name by which the guest asks for it.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Size and limits.
    pub shape: Shape,
    is_disk: bool,
    /// Open as long as the device lives.
    pub file: File,
}

impl Stores {
    /// Opens and locks what was granted.
    ///
    /// # Errors
    ///
    /// Names the store that cannot be had, and why.
    pub fn open(grants: &[Grant]) -> Result<Stores> {
        grants
            .iter()
            .map(Store::open)
            .collect::<Result<_>>()
            .map(Stores)
    }

    /// The same of files that somebody has opened with rights of his own.
    ///
    /// # Errors
    ///
    /// Names the store that is not what was granted.
    pub fn of(grants: &[Grant], files: Vec<File>) -> Result<Stores> {
        if grants.len() != files.len() {
            return Err(Error::usage("each store takes one open file"));
        }
        let open = grants.iter().zip(files);
        open.map(|(grant, file)| Store::of(grant, file))
            .collect::<Result<_>>()
            .map(Stores)
    }

    /// The open files, for another process.
    #[must_use]
    pub fn into_files(self) -> Vec<File> {
        self.0.into_iter().map(|store| store.file).collect()
    }

    /// All of them, by number.
    #[must_use]
    pub fn all(&self) -> &[Store] {
        &self.0
    }

    /// Their shapes, by number.
    #[must_use]
    pub fn shapes(&self) -> Vec<Shape> {
        self.0.iter().map(|store| store.shape).collect()
    }
}

impl Store {
    fn open(grant: &Grant) -> Result<Store> {
        let shown = grant.path.display();
        let name = &grant.name;
        let failed = |why: io::Error| {
            let remedy = match why.kind() {
                ErrorKind::NotFound => "; make it first, a file for instance with 'truncate -s 1G'",
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if !grant.read_only => {
                    "; behind the path, ':ro' asks for reading only"
                }
                ErrorKind::ResourceBusy => {
                    "; it is mounted, or in use in another way: end that first"
                }
                ErrorKind::InvalidInput if grant.direct => {
                    "; leave out ':direct': this file system does not have it"
                }
                _ => "",
            };
            Error::failed(format!("cannot open --store {name}={shown}{remedy}")).because(why)
        };
        // Others may wait for somebody when they are opened.
        let kind = fs::metadata(&grant.path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::failed(format!(
                "--store {name}={shown} is neither a file nor a block device"
            )));
        }
        let mut flags = libc::O_CLOEXEC;
        if grant.direct {
            flags |= libc::O_DIRECT;
        }
        if kind.is_block_device() && !grant.read_only {
            // Not while the system, or somebody who says the same, uses it.
            flags |= libc::O_EXCL;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(!grant.read_only)
            .custom_flags(flags)
            .open(&grant.path)
            .map_err(failed)?;
        Store::measured(grant, file)
    }

    /// Takes a file that is open already. It must be what [`Store::open`] would have opened.
    fn of(grant: &Grant, file: File) -> Result<Store> {
        let wrong = |what: &str| {
            let (name, shown) = (&grant.name, grant.path.display());
            Error::usage(format!("--store {name}={shown}: the open file {what}"))
        };
        let (flags, about) = (fcntl_getfl(&file), file.metadata());
        let (Ok(flags), Ok(about)) = (flags, about) else {
            return Err(wrong("cannot be looked at"));
        };
        let kind = about.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(wrong("is neither a file nor a block device"));
        }
        let access = flags & OFlags::ACCMODE;
        let fits = access == OFlags::RDWR || grant.read_only && access == OFlags::RDONLY;
        if flags.contains(OFlags::PATH) || !fits {
            return Err(wrong("is not open for what is granted"));
        }
        if flags.contains(OFlags::DIRECT) != grant.direct {
            return Err(wrong(
                "passes by the system's cache, or does not, unlike the grant",
            ));
        }
        Store::measured(grant, file)
    }

    /// Locks and measures it.
    fn measured(grant: &Grant, file: File) -> Result<Store> {
        let (name, shown) = (&grant.name, grant.path.display());
        let failed = |why: io::Error| {
            Error::failed(format!("cannot use --store {name}={shown}")).because(why)
        };
        lock(&file, grant)?;
        let is_disk = !file.metadata().map_err(failed)?.is_file();
        let (size_bytes, block_bytes) = measure(&file).map_err(failed)?;
        if !block_bytes.is_power_of_two() || !(512..=4096).contains(&block_bytes) {
            return Err(Error::failed(format!(
                "--store {name}={shown} has blocks of {block_bytes} bytes; they may be 512 to 4096"
            )));
        }
        if size_bytes < 512 {
            return Err(Error::failed(format!(
                "--store {name}={shown} has {size_bytes} bytes, and must have at least 512"
            )));
        }
        let align_bytes = if grant.direct { block_bytes } else { 1 };
        let range_align_bytes = if is_disk { block_bytes } else { 1 };
        Ok(Store {
            name: name.clone(),
            path: grant.path.clone(),
            shape: Shape {
                size_bytes,
                block_bytes,
                align_bytes,
                range_align_bytes,
                read_only: grant.read_only,
            },
            is_disk,
            file,
        })
    }

    /// Fills all of `data`, from inside the store, and waits for it.
    ///
    /// # Errors
    ///
    /// `EINVAL` beyond the end; the system's.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> std::result::Result<(), Errno> {
        self.shape.check_range(offset, data.len() as u64)?;
        let align = u64::from(self.shape.align_bytes);
        if align == 1 {
            return (self.file.read_exact_at(data, offset)).map_err(|why| self.errno(&why));
        }
        // Whole blocks around it.
        let begin = offset / align * align;
        let end = (offset + data.len() as u64).next_multiple_of(align);
        let inside = usize::try_from(offset - begin).map_err(|_| Errno::EINVAL)?;
        let whole = usize::try_from(end - begin).map_err(|_| Errno::EINVAL)?;
        let mut blocks = AlignedBytes::new(whole).map_err(|why| self.errno(&why))?;
        let wanted = inside + data.len();
        let mut done = 0;
        while done < wanted {
            let part = &mut blocks.bytes_mut()[done..];
            match self.file.read_at(part, begin + done as u64) {
                Ok(0) => return Err(Errno::EIO),
                Ok(bytes) => done += bytes,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => return Err(self.errno(&why)),
            }
        }
        data.copy_from_slice(&blocks.bytes_mut()[inside..wanted]);
        Ok(())
    }

    /// Writes all of `data` inside the store, and waits for it.
    ///
    /// # Errors
    ///
    /// `EROFS` where it may not be changed; `EINVAL` beyond the end, or where it is not aligned as the store
    /// wants it; the system's.
    pub fn write(&self, offset: u64, data: &[u8]) -> std::result::Result<(), Errno> {
        self.shape.check_change(offset, data.len() as u64)?;
        let align = self.shape.align_bytes as usize;
        if align == 1 {
            return (self.file.write_all_at(data, offset)).map_err(|why| self.errno(&why));
        }
        if !offset.is_multiple_of(align as u64) || !data.len().is_multiple_of(align) {
            return Err(Errno::EINVAL);
        }
        let mut blocks = AlignedBytes::new(data.len()).map_err(|why| self.errno(&why))?;
        blocks.bytes_mut().copy_from_slice(data);
        self.file
            .write_all_at(blocks.bytes_mut(), offset)
            .map_err(|why| self.errno(&why))
    }

    /// Makes all that was written durable, and waits for it.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn flush(&self) -> std::result::Result<(), Errno> {
        self.ended(self.file.sync_data().map(|()| 0)).map(drop)
    }

    /// Makes bytes inside the store zeros, without keeping their room where it `may_discard`, and waits for
    /// it.
    ///
    /// # Errors
    ///
    /// As for [`Store::write`]; `EOPNOTSUPP` where the file system has no way but to write zeros, or the disk none for
    /// parts of its blocks.
    pub fn write_zeroes(
        &self,
        offset: u64,
        length: u32,
        may_discard: bool,
    ) -> std::result::Result<(), Errno> {
        self.shape.check_change(offset, length.into())?;
        if !self.shape.has_range(offset, length) {
            return Err(Errno::EOPNOTSUPP);
        }
        let how = zeroing(may_discard);
        fallocate(&self.file, how, offset, length.into()).map_err(|why| self.errno(&why.into()))
    }

    /// What a transfer came to. One that moved nothing is done where the disk is there: one without a cache of its
    /// own is not asked for a flush, and so does not fail when it is gone.
    pub fn ended(&self, result: io::Result<u32>) -> Ended {
        match result {
            Ok(0) if self.is_cut_off() => Err(Errno::EIO),
            Ok(bytes) => Ok(bytes),
            Err(why) => Err(self.errno(&why)),
        }
    }

    /// What the system's error is to whoever uses this store.
    fn errno(&self, why: &io::Error) -> Errno {
        let errno = why.raw_os_error().map_or(Errno::EIO, Errno::of_store);
        if errno == Errno::ENOSPC && self.is_cut_off() {
            return Errno::EIO;
        }
        errno
    }

    /// Whether this is a disk that has lost its end, or all of it, as one does that is pulled out. The system has
    /// "no space" for writes behind the end; but room that is made elsewhere would not help.
    fn is_cut_off(&self) -> bool {
        self.is_disk
            && seek(&self.file, SeekFrom::End(0)).is_ok_and(|end| end < self.shape.size_bytes)
    }
}

/// How bytes of a store become zeros, with their room given back where that `may_discard`.
#[must_use]
pub fn zeroing(may_discard: bool) -> FallocateFlags {
    let how = if may_discard {
        FallocateFlags::PUNCH_HOLE
    } else {
        FallocateFlags::ZERO_RANGE
    };
    how | FallocateFlags::KEEP_SIZE
}

/// Nobody else may use a store, unless all only read it.
fn lock(file: &File, grant: &Grant) -> Result<()> {
    let Grant { name, path, .. } = grant;
    let shown = path.display();
    match lock_file(file, !grant.read_only) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::failed(format!(
            "--store {name}={shown} is in use: stop the device that has it, or grant it to both (or twice) with ':ro'"
        ))),
        Err(why) => Err(Error::failed(format!("cannot lock --store {name}={shown}")).because(why)),
    }
}

/// Size and block of a file or block device, in bytes.
fn measure(file: &File) -> io::Result<(u64, u32)> {
    let about = file.metadata()?;
    if about.is_file() {
        return Ok((about.len(), DIRECT_BLOCK_BYTES));
    }
    let number = about.rdev();
    let of_system = |what: &str| -> io::Result<u64> {
        let (major, minor) = (major(number), minor(number));
        let mut text = String::new();
        let attribute = format!("/sys/dev/block/{major}:{minor}/{what}");
        File::open(attribute)?.read_to_string(&mut text)?;
        text.trim().parse().map_err(io::Error::other)
    };
    let sectors = of_system("size")?;
    // A partition's limits are those of its disk.
    let block = of_system("queue/logical_block_size")
        .or_else(|_| of_system("../queue/logical_block_size"))
        .unwrap_or(512);
    let block = u32::try_from(block).unwrap_or(DIRECT_BLOCK_BYTES);
    Ok((sectors.saturating_mul(512), block))
}
