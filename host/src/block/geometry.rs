//! Size and shape of a device: what a guest claims, and what is left of it after the check.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Errno, Op};
use crate::limits;

/// What a guest says of itself (`geometry` and `features` in `wit/types.wit`), unchecked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Logical block in bytes; 0 means 512.
    pub logical_block_bytes: u32,
    /// Physical block in bytes; 0 means the logical block.
    pub physical_block_bytes: u32,
    /// Longest read or write in bytes; 0 means the default.
    pub max_transfer_bytes: u32,
    /// The device cannot be written.
    pub read_only: bool,
    /// An acknowledged write is durable.
    pub write_through: bool,
    /// The guest honours FUA itself.
    pub fua: bool,
    /// Random access costs more than sequential access.
    pub rotational: bool,
    /// Several instances may serve the device.
    pub replicated: bool,
    /// A new instance may take the place of one that failed.
    pub restartable: bool,
    /// What the optional interface `trim` says, where the guest has it.
    pub trim: Option<TrimClaims>,
}

/// `trim-limits` in `wit/types.wit`, unchecked. All in bytes; 0 has the meaning given there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "wit/types.wit documents these")]
pub struct TrimClaims {
    pub granularity_bytes: u32,
    pub max_discard_bytes: u32,
    pub max_write_zeroes_bytes: u32,
}

/// Size and shape of a device, checked: every number is inside its limits and fits the others.
/// It does not change while the device lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Size in bytes: a multiple of the logical block, at least one, below 2^63.
    pub size_bytes: u64,
    /// Unit of every request in bytes: a power of two, 512 to 4096.
    pub logical_block_bytes: u32,
    /// Unit below which a write costs a read, in bytes: a power of two.
    pub physical_block_bytes: u32,
    /// Longest read or write in bytes: a multiple of 4096.
    pub max_transfer_bytes: u32,
    /// Requests that would change the device are refused.
    pub read_only: bool,
    /// Writes are durable only after a flush.
    pub volatile_cache: bool,
    /// The guest honours FUA itself; otherwise a flush follows the write.
    pub fua_native: bool,
    /// Random access costs more than sequential access.
    pub rotational: bool,
    /// One instance for each queue, instead of one for all.
    pub replicated: bool,
    /// A new instance may take the place of one that failed.
    pub restartable: bool,
    /// Discard and write-zeroes, where the guest does them.
    pub trim: Option<Trim>,
}

/// Limits of discard and write-zeroes, in bytes, all multiples of the logical block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trim {
    /// Unit in which space is given back: a power of two.
    pub granularity_bytes: u32,
    /// Longest discard; 0 where there is none.
    pub max_discard_bytes: u32,
    /// Longest write-zeroes; 0 where there is none.
    pub max_write_zeroes_bytes: u32,
}

/// What is wrong with a guest's geometry.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum GeometryError {
    #[error("logical-block-bytes is {0}; it must be a power of two from 512 to 4096")]
    LogicalBlock(u32),
    #[error("physical-block-bytes is {0}; it must be a power of two from {1} to 1048576")]
    PhysicalBlock(u32, u32),
    #[error("size-bytes is {0}; it must be a multiple of {1}, not 0, and below 2^63")]
    Size(u64, u32),
    #[error(
        "max-transfer-bytes is {0}; it must be a multiple of 4096, at most {max}",
        max = limits::TRANSFER_BYTES_MAX
    )]
    Transfer(u32),
    #[error("granularity-bytes is {0}; it must be a power of two from {1} to 2^30")]
    Granularity(u32, u32),
}

impl Geometry {
    /// Checks a guest's claims and fills in the defaults.
    ///
    /// # Errors
    ///
    /// Names the first number that is wrong, and what would be right.
    pub fn new(claims: &Claims) -> Result<Geometry, GeometryError> {
        let logical = or_default(claims.logical_block_bytes, 512);
        if !logical.is_power_of_two() || !(512..=4096).contains(&logical) {
            return Err(GeometryError::LogicalBlock(logical));
        }
        let physical = or_default(claims.physical_block_bytes, logical);
        if !physical.is_power_of_two() || !(logical..=1 << 20).contains(&physical) {
            return Err(GeometryError::PhysicalBlock(physical, logical));
        }
        let size = claims.size_bytes;
        if size == 0 || size >= 1 << 63 || !size.is_multiple_of(logical.into()) {
            return Err(GeometryError::Size(size, logical));
        }
        let transfer = or_default(claims.max_transfer_bytes, limits::TRANSFER_BYTES_DEFAULT);
        if !transfer.is_multiple_of(4096) || transfer > limits::TRANSFER_BYTES_MAX {
            return Err(GeometryError::Transfer(transfer));
        }
        Ok(Geometry {
            size_bytes: size,
            logical_block_bytes: logical,
            physical_block_bytes: physical,
            max_transfer_bytes: transfer,
            read_only: claims.read_only,
            volatile_cache: !claims.write_through && !claims.read_only,
            fua_native: claims.fua,
            rotational: claims.rotational,
            replicated: claims.replicated,
            restartable: claims.restartable,
            trim: claims
                .trim
                .map(|trim| Trim::new(&trim, logical))
                .transpose()?,
        })
    }
}

impl Geometry {
    /// Holds a range of any length against the device: the part of [`Request::check`] that does not ask
    /// how much the guest takes at a time. A frontend that splits a request asks it of the whole first.
    ///
    /// # Errors
    ///
    /// `EROFS` where it would change a read-only device; `EINVAL` where it is empty or not of whole
    /// logical blocks; beyond the end of the device `ENOSPC` for a write, `EINVAL` for the rest.
    ///
    /// [`Request::check`]: super::Request::check
    pub fn check_range(&self, op: Op, offset: u64, length_bytes: u64) -> Result<(), Errno> {
        if op != Op::Read && self.read_only {
            return Err(Errno::EROFS);
        }
        let block = u64::from(self.logical_block_bytes);
        let whole = offset.is_multiple_of(block) && length_bytes.is_multiple_of(block);
        if !whole || length_bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let end = offset.checked_add(length_bytes);
        if end.is_none_or(|end| end > self.size_bytes) {
            let write = op == Op::Write || op == Op::WriteZeroes;
            return Err(if write { Errno::ENOSPC } else { Errno::EINVAL });
        }
        Ok(())
    }

    /// Whether it makes zeros without their being sent.
    #[must_use]
    pub fn has_write_zeroes(&self) -> bool {
        (self.trim).is_some_and(|trim| trim.max_write_zeroes_bytes > 0)
    }

    /// The same device for somebody who may not write.
    #[must_use]
    pub fn without_writes(self) -> Geometry {
        Geometry {
            read_only: true,
            volatile_cache: false,
            ..self
        }
    }
}

impl From<&Geometry> for Claims {
    /// The claims that are checked to be the same geometry again, by somebody who does not trust the first check.
    fn from(geometry: &Geometry) -> Claims {
        Claims {
            size_bytes: geometry.size_bytes,
            logical_block_bytes: geometry.logical_block_bytes,
            physical_block_bytes: geometry.physical_block_bytes,
            max_transfer_bytes: geometry.max_transfer_bytes,
            read_only: geometry.read_only,
            write_through: !geometry.volatile_cache,
            fua: geometry.fua_native,
            rotational: geometry.rotational,
            replicated: geometry.replicated,
            restartable: geometry.restartable,
            trim: geometry.trim.map(|trim| TrimClaims {
                granularity_bytes: trim.granularity_bytes,
                max_discard_bytes: trim.max_discard_bytes,
                max_write_zeroes_bytes: trim.max_write_zeroes_bytes,
            }),
        }
    }
}

impl Trim {
    fn new(claims: &TrimClaims, logical: u32) -> Result<Trim, GeometryError> {
        let granularity = or_default(claims.granularity_bytes, logical);
        if !granularity.is_power_of_two() || !(logical..=1 << 30).contains(&granularity) {
            return Err(GeometryError::Granularity(granularity, logical));
        }
        // The rest of a block that no request can have is cut off, not an error.
        let whole_blocks = |bytes: u32| bytes & !(logical.saturating_sub(1));
        Ok(Trim {
            granularity_bytes: granularity,
            max_discard_bytes: whole_blocks(claims.max_discard_bytes),
            max_write_zeroes_bytes: whole_blocks(claims.max_write_zeroes_bytes),
        })
    }
}

/// In the WIT, 0 means "the default".
fn or_default(claimed: u32, default: u32) -> u32 {
    if claimed == 0 { default } else { claimed }
}
