//! What an author writes for a disk that only says where data lies.

use crate::answer::Answer;
use crate::data::Data;
use crate::{Errno, Info, OpenError};

/// A block device that does not look at data: it says which bytes of which stores a request is about, and the
/// host moves them, at best without that they enter user space. As for [`Disk`](crate::Disk), the host has
/// checked every request, and requests run beside each other where they wait.
#[expect(
    async_fn_in_trait,
    reason = "one thread; nobody needs to name these futures"
)]
pub trait Mapper: Sized + 'static {
    /// Makes the disk. `options` are the operator's `--set key=value`.
    ///
    /// # Errors
    ///
    /// `BadOption` where an option is at fault, `Other` for any other reason; the text is for the operator.
    fn open(options: &[(String, String)]) -> Result<(Self, Info), OpenError>;

    /// Has all of `data` filled, or says from where: what lies at `offset` of this disk.
    ///
    /// # Errors
    ///
    /// As `device.read` in the WIT.
    async fn read(&self, offset: u64, data: Data) -> Result<Answer, Errno>;

    /// Has all of `data` written, or says where to: it belongs at `offset` of this disk; with `fua`, which only
    /// disks with that feature see, durably.
    ///
    /// # Errors
    ///
    /// As `device.write` in the WIT.
    async fn write(&self, offset: u64, data: Data, fua: bool) -> Result<Answer, Errno>;

    /// Makes every write that was answered before durable.
    ///
    /// # Errors
    ///
    /// As `device.flush` in the WIT.
    async fn flush(&self) -> Result<(), Errno>;

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
