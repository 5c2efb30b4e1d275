//! What an author writes.

use crate::bindings::wasmblk::block::types::{Errno, Features, Geometry, OpenError, TrimLimits};

/// What a disk says of itself. Start from [`Info::new`] and change what is different.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// Size in bytes: a multiple of the logical block.
    pub size_bytes: u64,
    /// Smallest unit of every request, in bytes: a power of two from 512 to 4096.
    pub logical_block_bytes: u32,
    /// Unit below which a write costs a read, in bytes: a power of two from the logical block to 1 MiB.
    pub physical_block_bytes: u32,
    /// Longest read or write in bytes: a multiple of 4096, at most 1 MiB; 0 means 512 KiB. By `export_ring!`
    /// every request in flight has that much of the guest's memory.
    pub max_transfer_bytes: u32,
    /// What is special about it.
    pub features: Features,
    /// Unit in which discards give space back, in bytes; 0 means the logical block.
    pub discard_granularity_bytes: u32,
    /// Longest discard in bytes; 0 means that there is none.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes in bytes; 0 means that zeros come as ordinary writes.
    pub max_write_zeroes_bytes: u32,
}

impl Info {
    /// A disk of this size in bytes and with nothing special.
    #[must_use]
    pub fn new(size_bytes: u64) -> Info {
        Info {
            size_bytes,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            max_transfer_bytes: 0,
            features: Features::empty(),
            discard_granularity_bytes: 0,
            max_discard_bytes: 0,
            max_write_zeroes_bytes: 0,
        }
    }

    /// The same, and without writes where it is `read_only`.
    #[must_use]
    pub fn with_read_only(mut self, read_only: bool) -> Info {
        if read_only {
            self.features = self.features | Features::READ_ONLY;
        }
        self
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry {
            size_bytes: self.size_bytes,
            logical_block_bytes: self.logical_block_bytes,
            physical_block_bytes: self.physical_block_bytes,
            max_transfer_bytes: self.max_transfer_bytes,
            features: self.features,
        }
    }

    pub(crate) fn trim(&self) -> TrimLimits {
        TrimLimits {
            granularity_bytes: self.discard_granularity_bytes,
            max_discard_bytes: self.max_discard_bytes,
            max_write_zeroes_bytes: self.max_write_zeroes_bytes,
        }
    }
}

/// A block device. The host has checked every request: it is inside the device, not empty, of whole logical
/// blocks, and not longer than the longest transfer. Requests run beside each other where they wait, so
/// what changes is behind a cell.
#[expect(
    async_fn_in_trait,
    reason = "one thread; nobody needs to name these futures"
)]
pub trait Disk: Sized + 'static {
    /// Makes the disk. `options` are the operator's `--set key=value`.
    ///
    /// # Errors
    ///
    /// `BadOption` where an option is at fault, `Other` for any other reason; the text is for the operator.
    fn open(options: &[(String, String)]) -> Result<(Self, Info), OpenError>;

    /// Fills all of `data` from `offset`. What `data` holds before is of no meaning.
    ///
    /// # Errors
    ///
    /// As `device.read` in the WIT.
    async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes all of `data` at `offset`; with `fua`, which only disks with that feature see, durably.
    ///
    /// # Errors
    ///
    /// As `device.write` in the WIT.
    async fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno>;

    /// Makes every write that was answered before durable. The default does nothing: right only for disks
    /// with `WRITE_THROUGH`, or with nothing to lose.
    ///
    /// # Errors
    ///
    /// As `device.flush` in the WIT.
    async fn flush(&self) -> Result<(), Errno> {
        Ok(())
    }

    /// Forgets `length` bytes at `offset`. Called only where `max_discard_bytes` is above 0.
    ///
    /// # Errors
    ///
    /// As `trim.discard` in the WIT.
    async fn discard(&self, _offset: u64, _length: u32) -> Result<(), Errno> {
        Err(Errno::NotSupported)
    }

    /// Makes `length` bytes at `offset` zeros; with `may_discard` their space may be given back. Called only
    /// where `max_write_zeroes_bytes` is above 0.
    ///
    /// # Errors
    ///
    /// As `trim.write-zeroes` in the WIT.
    async fn write_zeroes(
        &self,
        _offset: u64,
        _length: u32,
        _may_discard: bool,
    ) -> Result<(), Errno> {
        Err(Errno::NotSupported)
    }
}
