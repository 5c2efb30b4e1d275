//! What goes to the kernel: results and parameters. Pure.

use super::abi::{Params, SECTOR_SHIFT, attr, param};
use crate::block::{Errno, Geometry};

/// The result of one request: bytes done, or an errno with the kernel's minus sign.
#[must_use]
pub fn result(answer: Result<u32, Errno>) -> i32 {
    match answer {
        // Requests are shorter than 2^31 bytes; the kernel looks at this number for reads and writes.
        Ok(bytes) => i32::try_from(bytes).unwrap_or(i32::MAX),
        Err(errno) => -i32::from(errno.number()),
    }
}

/// The device's parameters. FUA is always offered beside a volatile cache: the kernel ignores it
/// without one, and [`serve`](crate::serve) makes it from a flush where the guest has none. `align_bytes` is
/// what data lies at multiples of in memory, where it goes to stores as it is; 1 where it does not matter.
#[must_use]
pub fn params(geometry: &Geometry, align_bytes: u32) -> Params {
    let mut attrs = 0;
    for (set, bits) in [
        (geometry.read_only, attr::READ_ONLY),
        (geometry.rotational, attr::ROTATIONAL),
        (geometry.volatile_cache, attr::VOLATILE_CACHE | attr::FUA),
    ] {
        if set {
            attrs |= bits;
        }
    }
    let physical_shift = shift(geometry.physical_block_bytes);
    let mut params = Params {
        len: 112,
        types: param::BASIC,
        attrs,
        logical_bs_shift: shift(geometry.logical_block_bytes),
        physical_bs_shift: physical_shift,
        io_opt_shift: physical_shift,
        io_min_shift: physical_shift,
        max_sectors: geometry.max_transfer_bytes >> SECTOR_SHIFT,
        dev_sectors: geometry.size_bytes >> SECTOR_SHIFT,
        ..Params::default()
    };
    if let Some(trim) = geometry.trim {
        params.types |= param::DISCARD;
        params.discard_granularity = trim.granularity_bytes;
        params.max_discard_sectors = trim.max_discard_bytes >> SECTOR_SHIFT;
        params.max_write_zeroes_sectors = trim.max_write_zeroes_bytes >> SECTOR_SHIFT;
        params.max_discard_segments = 1;
    }
    if align_bytes > 1 {
        params.types |= param::DMA_ALIGN;
        params.dma_alignment = align_bytes - 1;
    }
    params
}

/// The shift of a power of two below 2^32: less than 32.
fn shift(bytes: u32) -> u8 {
    u8::try_from(bytes.trailing_zeros()).unwrap_or(0)
}
