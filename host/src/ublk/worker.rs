//! One thread, one ring, one instance: the loop that every I/O of a device runs through.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::abi::DevInfo;
use super::{decode, encode};
use crate::block::{Backend, Errno, Geometry};
use crate::serve::serve;
use crate::stats::Stats;
use crate::sys::{Incoming, QueueRing};

/// Makes a worker's ring on its own thread and asks for the first requests. `device` is the open
/// `/dev/ublkcN`, `info` what the kernel said of it.
///
/// # Errors
///
/// Where the system refuses ring or memory.
pub fn fetch(device: &File, info: &DevInfo, queues: &[u16]) -> io::Result<QueueRing> {
    let mut ring = QueueRing::new(device, info, queues)?;
    ring.fetch_all()?;
    Ok(ring)
}

/// Serves until the device stops. Requests are answered in the order they come; the answers of a
/// batch go back to the kernel in the system call that waits for the next batch.
///
/// # Errors
///
/// Where the ring fails: requests may be without an answer then until the process ends.
pub fn serve_queues(
    mut ring: QueueRing,
    geometry: &Geometry,
    backend: &mut dyn Backend,
    stats: &Stats,
) -> io::Result<()> {
    loop {
        let mut batch = 0;
        let go_on = ring.serve(|incoming| {
            batch += 1;
            answer(incoming, geometry, backend, stats)
        })?;
        stats.count_batch(batch);
        if !go_on {
            return Ok(());
        }
    }
}

/// One request, one answer. A panic is a mistake of ours: it costs this request, not the device.
fn answer(
    incoming: Incoming<'_>,
    geometry: &Geometry,
    backend: &mut dyn Backend,
    stats: &Stats,
) -> i32 {
    let Incoming { desc, slot } = incoming;
    let work = || {
        decode::request(&desc)
            .and_then(|request| request.check(geometry))
            .and_then(|checked| serve(&checked, geometry, backend, slot, stats))
    };
    let answer = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Errno::EIO));
    if answer.is_err() {
        stats.count_error();
    }
    encode::result(answer)
}
