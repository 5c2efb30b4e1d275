//! The kernel's 24-byte descriptor as a request. Pure.

use super::abi::{IoDesc, SECTOR_SHIFT, op};
use crate::block::{Errno, Op, Request};

/// Reads one descriptor.
///
/// # Errors
///
/// `EOPNOTSUPP` for an operation that no parameter of ours offers; `EINVAL` for numbers that do not
/// fit, which the kernel does not send.
pub fn request(desc: &IoDesc) -> Result<Request, Errno> {
    let [code, ..] = desc.op_flags.to_le_bytes();
    let op = match code {
        op::READ => Op::Read,
        op::WRITE => Op::Write,
        op::FLUSH => Op::Flush,
        op::DISCARD => Op::Discard,
        op::WRITE_ZEROES => Op::WriteZeroes,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let (offset, length) = match op {
        Op::Flush => (0, 0),
        _ => (
            desc.start_sector
                .checked_mul(1 << SECTOR_SHIFT)
                .ok_or(Errno::EINVAL)?,
            desc.nr_sectors
                .checked_mul(1 << SECTOR_SHIFT)
                .ok_or(Errno::EINVAL)?,
        ),
    };
    Ok(Request {
        op,
        offset,
        length,
        fua: desc.op_flags & op::F_FUA != 0,
        may_discard: desc.op_flags & op::F_NOUNMAP == 0,
    })
}
