//! The seam between every frontend and every backend: one checked request, one answer. Nothing goes
//! round it.

use tracing::trace;

use crate::block::{Backend, Checked, Errno, Geometry, Op};
use crate::stats::Stats;

/// Carries out one request. `slot` is the frontend's buffer: a write's data lies at its begin, a
/// read's data is put there; it is at least as long as the device's longest transfer. The result is
/// the number of bytes done.
///
/// What a backend lacks is made here, once for all frontends: FUA becomes a flush behind the request.
///
/// # Errors
///
/// The backend's.
pub fn serve(
    checked: &Checked,
    geometry: &Geometry,
    backend: &mut dyn Backend,
    slot: &mut [u8],
    stats: &Stats,
) -> Result<u32, Errno> {
    let request = checked.request();
    trace!(?request, "serve");
    stats.count(request);
    let bytes = request.length as usize;
    match request.op {
        Op::Read => backend.read(request.offset, data(slot, bytes)?)?,
        Op::Write => {
            let fua = request.fua && geometry.fua_native;
            backend.write(request.offset, data(slot, bytes)?, fua)?;
        }
        Op::Flush => backend.flush()?,
        Op::Discard => backend.discard(request.offset, request.length)?,
        Op::WriteZeroes => {
            backend.write_zeroes(request.offset, request.length, request.may_discard)?;
        }
    }
    // The contract has FUA for writes only.
    let durable = match request.op {
        Op::Read | Op::Flush => true,
        Op::Write => geometry.fua_native,
        Op::Discard | Op::WriteZeroes => false,
    };
    if request.fua && geometry.volatile_cache && !durable {
        backend.flush()?;
    }
    Ok(request.length)
}

/// The part of the slot that a transfer uses. A frontend whose slots are too short is refused, not
/// trusted.
fn data(slot: &mut [u8], bytes: usize) -> Result<&mut [u8], Errno> {
    slot.get_mut(..bytes).ok_or(Errno::EINVAL)
}
