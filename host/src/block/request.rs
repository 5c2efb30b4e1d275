//! One request, and the door it passes.

use super::{Errno, Geometry};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the field")]
pub enum Op {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

/// One request as a frontend decoded it. Nothing is known of its numbers yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// Where it begins, in bytes; 0 for a flush.
    pub offset: u64,
    /// How long it is, in bytes; 0 for a flush.
    pub length: u32,
    /// A write must be durable before it is answered.
    pub fua: bool,
    /// The space of zeros may be given back.
    pub may_discard: bool,
}

/// A request that fits its device. Only [`Request::check`] makes one, so whoever holds it need not
/// ask again about range, alignment, length, or whether the device does that at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked(Request);

impl Checked {
    /// The request itself.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.0
    }
}

impl Request {
    /// Lets a request in, or says with which errno it is refused.
    ///
    /// # Errors
    ///
    /// Those of [`Request::check_range`]; `EOPNOTSUPP` where the device does not do that; `EINVAL`
    /// where it is too long.
    pub fn check(self, geometry: &Geometry) -> Result<Checked, Errno> {
        let length_max = match self.op {
            Op::Flush => return Ok(Checked(self)),
            Op::Read | Op::Write => geometry.max_transfer_bytes,
            Op::Discard => geometry.trim.map_or(0, |trim| trim.max_discard_bytes),
            Op::WriteZeroes => geometry.trim.map_or(0, |trim| trim.max_write_zeroes_bytes),
        };
        self.check_range(geometry)?;
        if length_max == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.length > length_max {
            return Err(Errno::EINVAL);
        }
        Ok(Checked(self))
    }

    /// The part of the check that does not ask how much the guest takes at a time: a frontend that
    /// splits a request asks it of the whole first.
    ///
    /// # Errors
    ///
    /// `EROFS` where it would change a read-only device; `EINVAL` where it is empty or not of whole
    /// logical blocks; beyond the end of the device `ENOSPC` for a write, `EINVAL` for the rest.
    pub fn check_range(&self, geometry: &Geometry) -> Result<(), Errno> {
        if self.op != Op::Read && geometry.read_only {
            return Err(Errno::EROFS);
        }
        let block = geometry.logical_block_bytes;
        let whole = self.offset.is_multiple_of(block.into()) && self.length.is_multiple_of(block);
        if !whole || self.length == 0 {
            return Err(Errno::EINVAL);
        }
        let end = self.offset.checked_add(self.length.into());
        if end.is_none_or(|end| end > geometry.size_bytes) {
            let write = self.op == Op::Write || self.op == Op::WriteZeroes;
            return Err(if write { Errno::ENOSPC } else { Errno::EINVAL });
        }
        Ok(())
    }
}
