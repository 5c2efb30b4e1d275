//! One thread, one ring, one instance: the loop that every I/O of a device runs through.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::abi::{DevInfo, IoDesc};
use super::{decode, encode};
use crate::block::{Carrier, Errno, Next};
use crate::limits;
use crate::serve::Engine;
use crate::sys::{Event, Place, QueueRing};

/// Makes a worker's ring on its own thread and asks for the first requests. `device` is the open
/// `/dev/ublkcN`, `info` what the kernel said of it.
///
/// # Errors
///
/// Where the system refuses ring or memory.
pub fn fetch(device: &File, info: &DevInfo, queues: &[u16], place: Place) -> io::Result<QueueRing> {
    let mut ring = QueueRing::new(device, info, queues, place)?;
    ring.fetch_all()?;
    Ok(ring)
}

/// Serves until the device stops. All requests that are there go to the guest together; its answers go
/// back to the kernel in the system call that waits for the next requests.
///
/// # Errors
///
/// Where the ring fails: requests may be without an answer then until the process ends.
pub fn serve_queues(ring: &mut QueueRing, engine: &mut Engine<'_>) -> io::Result<()> {
    let mut refused = Vec::new();
    // The guest may have something to do already.
    let mut next = Next::Again;
    loop {
        let mut batch = 0;
        let go_on = ring.turn(wait(next, engine), |event| match event {
            Event::Arrived(slot, desc) => {
                batch += 1;
                if let Err(errno) = begin(engine, slot, desc) {
                    engine.stats().count_error();
                    refused.push((slot, errno));
                }
            }
            Event::Ended(token, ended) => engine.ended(token, ended),
        })?;
        engine.stats().count_batch(batch);
        if !go_on {
            return Ok(());
        }
        for (slot, errno) in refused.drain(..) {
            ring.commit(slot, encode::result(Err(errno)))?;
        }
        next = answer(ring, engine)?;
        for (token, transfer) in engine.transfers() {
            ring.begin(token, &transfer)?;
        }
        if engine.has_transfers() {
            next = Next::Again;
        }
    }
}

/// How long to wait for the ring.
fn wait(next: Next, engine: &Engine<'_>) -> Option<Duration> {
    let time = next.wait();
    if !engine.is_busy() {
        return time;
    }
    Some(time.map_or(limits::BUSY_WAIT_MAX, |time| {
        time.min(limits::BUSY_WAIT_MAX)
    }))
}

/// The door: a descriptor of the kernel becomes a request in the guest's hands.
fn begin(engine: &mut Engine<'_>, slot: u32, desc: &IoDesc) -> Result<(), Errno> {
    engine.begin(slot, decode::request(desc)?)
}

/// Lets the guest work, and commits what it answers. A panic is a mistake of ours: from then on every request
/// is EIO, and the device can still be deleted.
fn answer(ring: &mut QueueRing, engine: &mut Engine<'_>) -> io::Result<Next> {
    let mut outcome = Ok(());
    let mut commit = |slot, result| {
        if let Err(error) = ring.commit(slot, encode::result(result)) {
            outcome = Err(error);
        }
    };
    let polled = catch_unwind(AssertUnwindSafe(|| engine.poll(&mut commit)));
    let next = polled.unwrap_or_else(|_| {
        engine.abandon(&mut commit);
        Next::Submitted
    });
    outcome.map(|()| next)
}
