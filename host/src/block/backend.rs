//! One call for each request: the contract `device` in Rust.

use super::Errno;

/// Something that holds blocks: the Rust twin of `wit/device.wit` and `wit/trim.wit`.
///
/// Callers pass only ranges that [`Request::check`](super::Request::check) accepted; offsets and
/// lengths are in bytes.
pub trait Backend {
    /// Whether it has ended in the middle of the last call, whose result then means nothing.
    fn has_ended(&self) -> bool {
        false
    }

    /// A number that changes several times each second while it works, where there is one: answers wait for each
    /// other only as long as it stays the same.
    fn ticks(&self) -> u64 {
        0
    }

    /// Fills all of `data` from `offset`.
    ///
    /// # Errors
    ///
    /// The errno for the request; the content of `data` is then undefined.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes all of `data` at `offset`; with `fua` durably, where the geometry claims `fua`.
    ///
    /// # Errors
    ///
    /// The errno for the request; the content of the range is then undefined.
    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Errno>;

    /// Makes every write that returned before durable.
    ///
    /// # Errors
    ///
    /// The errno for the request; nothing is promised of the writes since the last success.
    fn flush(&mut self) -> Result<(), Errno>;

    /// Forgets `length` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// The errno for the request.
    fn discard(&mut self, offset: u64, length: u32) -> Result<(), Errno>;

    /// Makes `length` bytes at `offset` zeros; with `may_discard` their space may be given back.
    ///
    /// # Errors
    ///
    /// The errno for the request.
    fn write_zeroes(&mut self, offset: u64, length: u32, may_discard: bool) -> Result<(), Errno>;
}
