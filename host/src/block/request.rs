//! One request, and the door it passes.

use std::fmt;

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

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Discard => "discard",
            Op::WriteZeroes => "write-zeroes",
        })
    }
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

/// One word: `write@4096+512`, with `,fua` where it is to be durable; a flush has no place.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request {
            op, offset, length, ..
        } = self;
        match op {
            Op::Flush => write!(f, "{op}")?,
            _ => write!(f, "{op}@{offset}+{length}")?,
        }
        f.write_str(if self.fua { ",fua" } else { "" })
    }
}

/// A request that fits its device. Only [`Request::check`] makes one, so whoever holds it need not
/// ask again about range, alignment, length, or whether the device does that at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked(Request);

impl Checked {
    /// A flush fits every device.
    pub const FLUSH: Checked = Checked(Request {
        op: Op::Flush,
        offset: 0,
        length: 0,
        fua: false,
        may_discard: false,
    });

    /// The same request, durable by itself or not.
    #[must_use]
    pub fn with_fua(self, fua: bool) -> Checked {
        Checked(Request { fua, ..self.0 })
    }

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
    /// Those of [`Geometry::check_range`]; `EOPNOTSUPP` where the device does not do that; `EINVAL`
    /// where it is too long.
    pub fn check(self, geometry: &Geometry) -> Result<Checked, Errno> {
        let length_max = match self.op {
            Op::Flush => return Ok(Checked(self)),
            Op::Read | Op::Write => geometry.max_transfer_bytes,
            Op::Discard => geometry.trim.map_or(0, |trim| trim.max_discard_bytes),
            Op::WriteZeroes => geometry.trim.map_or(0, |trim| trim.max_write_zeroes_bytes),
        };
        geometry.check_range(self.op, self.offset, self.length.into())?;
        if length_max == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.length > length_max {
            return Err(Errno::EINVAL);
        }
        Ok(Checked(self))
    }
}
