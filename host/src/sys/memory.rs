//! Memory that is mapped, not allocated.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr::{NonNull, null_mut, without_provenance_mut};
use std::slice;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Slots, arenas and descriptors begin on pages of this size, as the WIT says too.
pub(super) const PAGE_BYTES: usize = 4096;

/// A mapping, unmapped when dropped. It gives out addresses only; who reads or writes through them
/// argues for that.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; `base` is never used without `&self`.
unsafe impl Send for Mapping {}

// SAFETY: through a shared mapping only addresses are had.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh zeroed memory, which takes pages only as they are touched.
    pub(super) fn anonymous(bytes: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address the kernel chooses touches no memory that exists.
        let base = unsafe { mmap_anonymous(null_mut(), bytes, protection, MapFlags::PRIVATE) }?;
        Mapping::of(base.cast(), bytes)
    }

    /// Part of a file, for reading.
    pub(super) fn of_file(file: &File, offset: u64, bytes: usize) -> io::Result<Mapping> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: a new mapping at an address the kernel chooses touches no memory that exists.
        let base = unsafe { mmap(null_mut(), bytes, ProtFlags::READ, flags, file, offset) }?;
        Mapping::of(base.cast(), bytes)
    }

    /// All of some shared memory, at an address, where the system likes that.
    pub(super) fn shared(memory: &Shared, bytes: usize, hint: usize) -> io::Result<Mapping> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let hint = without_provenance_mut(hint);
        // SAFETY: a new mapping touches no memory that exists: without MAP_FIXED, the kernel takes another address
        // where there is some at this one.
        let base = unsafe { mmap(hint, bytes, protection, MapFlags::SHARED, &memory.0, 0) }?;
        Mapping::of(base.cast(), bytes)
    }

    fn of(base: *mut u8, bytes: usize) -> io::Result<Mapping> {
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, bytes })
    }

    /// The address `offset` bytes in.
    ///
    /// # Panics
    ///
    /// Where `length` bytes from there are not inside: only a mistake of the caller can cause that.
    pub(super) fn at(&self, offset: usize, length: usize) -> NonNull<u8> {
        assert!(
            offset <= self.bytes && length <= self.bytes - offset,
            "outside of the mapping"
        );
        // SAFETY: the line above keeps the result inside the mapping, which lives as long as self.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of our own mmap, and addresses given out do not
        // outlive the structures that hold the mapping.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "our own mapping");
    }
}

/// Memory without an address, which can be mapped more than once.
#[derive(Debug)]
pub(super) struct Shared(OwnedFd);

impl Shared {
    /// Fresh zeroed memory, which takes pages only as they are touched. Its length is fixed, so that what is
    /// mapped is there.
    pub(super) fn new(bytes: usize) -> io::Result<Shared> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create(c"wasmblk-arena", flags)?;
        ftruncate(&memory, bytes as u64)?;
        fcntl_add_seals(
            &memory,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )?;
        Ok(Shared(memory))
    }

    /// Maps it in the place of what is mapped at an address.
    ///
    /// # Safety
    ///
    /// All `bytes` from `address` on, whole pages, are memory that can be read and written, into which there
    /// is no reference, and whose content nobody needs.
    pub(super) unsafe fn map_over(&self, address: NonNull<u8>, bytes: usize) -> io::Result<()> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the caller's promise: what is replaced is plain memory that is not looked at.
        unsafe {
            mmap(
                address.as_ptr().cast(),
                bytes,
                protection,
                flags,
                &self.0,
                0,
            )
        }?;
        Ok(())
    }
}

/// Memory on pages, for reading and writing past the system's cache.
#[derive(Debug)]
pub struct AlignedBytes(Mapping);

impl AlignedBytes {
    /// Zeros.
    ///
    /// # Errors
    ///
    /// Where there is not so much.
    pub fn new(bytes: usize) -> io::Result<AlignedBytes> {
        Mapping::anonymous(bytes).map(AlignedBytes)
    }

    /// All of them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: a private mapping that nobody else has an address of, borrowed as long as self is.
        unsafe { slice::from_raw_parts_mut(self.0.base.as_ptr(), self.0.bytes) }
    }
}
