//! The hot path's ring: fetches the requests of one or more hardware queues and commits answers.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::read_volatile;
use std::time::Duration;

use io_uring::types::{Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use zerocopy::IntoBytes;

use super::memory::{Mapping, PAGE_BYTES};
use super::slots::Slots;
use crate::ublk::abi::{DevInfo, IoCmd, IoDesc, RES_ABORT, io as command};

/// Distance between the descriptor arrays of two queues in `/dev/ublkcN`: room for the greatest
/// depth (`UBLK_MAX_QUEUE_DEPTH`) in whole pages.
const DESCRIPTORS_BYTES_MAX: u64 = 4096 * size_of::<IoDesc>() as u64;

/// One thread's ring, with the descriptors of the queues it serves. The slot of a tag is its number in
/// the ring: the first queue's tags come first.
pub struct QueueRing {
    ring: IoUring,
    queues: Vec<Queue>,
    depth: u16,
    slots: Slots,
    /// Tags the kernel may still send requests for.
    armed: usize,
}

struct Queue {
    id: u16,
    descriptors: Mapping,
}

impl std::fmt::Debug for QueueRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueRing")
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}

impl QueueRing {
    /// Makes the ring and maps the descriptors of some queues of an open device; call it on the thread
    /// that will serve. `info` is the device's own: it says how deep the queues are, and how much the
    /// kernel may copy into a slot.
    ///
    /// # Errors
    ///
    /// Where the system refuses the ring or the memory, or the slots are too few or too short.
    pub fn new(
        device: &File,
        info: &DevInfo,
        queue_ids: &[u16],
        slots: Slots,
    ) -> io::Result<QueueRing> {
        let depth = info.queue_depth;
        let tags = u32::from(depth) * u32::try_from(queue_ids.len()).unwrap_or(u32::MAX);
        if slots.count() < tags || slots.bytes() < info.max_io_buf_bytes as usize {
            return Err(io::Error::other("the slots do not fit the queues"));
        }
        let ring = build_ring(tags.next_power_of_two())?;
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let queues = queue_ids
            .iter()
            .map(|&id| {
                let bytes = usize::from(depth) * size_of::<IoDesc>();
                let offset = u64::from(id) * DESCRIPTORS_BYTES_MAX;
                let descriptors =
                    Mapping::of_file(device, offset, bytes.next_multiple_of(PAGE_BYTES))?;
                Ok(Queue { id, descriptors })
            })
            .collect::<io::Result<Vec<Queue>>>()?;
        Ok(QueueRing {
            ring,
            queues,
            depth,
            slots,
            armed: 0,
        })
    }

    /// Asks for the first request of every tag. The device can start once the kernel has all.
    ///
    /// # Errors
    ///
    /// Where the kernel does not take them.
    pub fn fetch_all(&mut self) -> io::Result<()> {
        let tags = self.queues.len() * usize::from(self.depth);
        for slot in (0..).take(tags) {
            let fetch = self.entry(command::FETCH_REQ, slot, -1);
            push(&mut self.ring, &fetch)?;
            self.armed += 1;
        }
        self.ring.submit()?;
        Ok(())
    }

    /// Sends the answers that were committed, and waits until there is a request, the end, or `timeout` is
    /// over (`None` is for ever). Then calls `arrived` with the slot and descriptor of each request that is
    /// there. Says whether to go on: no longer when the device has stopped and the kernel has taken all its
    /// tags back.
    ///
    /// # Errors
    ///
    /// Where the ring itself fails. The device cannot go on then.
    pub fn turn(
        &mut self,
        timeout: Option<Duration>,
        mut arrived: impl FnMut(u32, &IoDesc),
    ) -> io::Result<bool> {
        let submitted = match timeout {
            None => self.ring.submit_and_wait(1),
            Some(timeout) => {
                let timeout = Timespec::from(timeout);
                let until = SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &until)
            }
        };
        match submitted {
            Ok(_) => {}
            // The time is over, a signal, or no memory at the moment: what is there is served, then it is
            // tried again.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) => {}
            Err(error) => return Err(error),
        }
        for completion in self.ring.completion() {
            // All our commands carry the slot's number, which is below 2^32.
            let slot = u32::try_from(completion.user_data()).unwrap_or(u32::MAX);
            match completion.result() {
                0 => arrived(slot, &descriptor(&self.queues, self.depth, slot)),
                RES_ABORT => self.armed -= 1,
                error => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
            }
        }
        Ok(self.armed > 0)
    }

    /// Gives a request's result (bytes, or a negative errno) and its slot back to the kernel, with the
    /// next [`QueueRing::turn`].
    ///
    /// # Errors
    ///
    /// Where the ring has no room, which it has for every tag once.
    pub fn commit(&mut self, slot: u32, result: i32) -> io::Result<()> {
        let commit = self.entry(command::COMMIT_AND_FETCH_REQ, slot, result);
        push(&mut self.ring, &commit)
    }

    /// A FETCH or COMMIT of one tag, with the tag's slot as its buffer.
    fn entry(&self, operation: u32, slot: u32, result: i32) -> squeue::Entry {
        let (queue, tag) = place(self.depth, slot);
        let io = IoCmd {
            q_id: self.queues[queue].id,
            tag,
            result,
            addr: self.slots.at(slot, 0, self.slots.bytes()).as_ptr() as u64,
        };
        let mut bytes = [0; 16];
        bytes.copy_from_slice(io.as_bytes());
        opcode::UringCmd16::new(Fixed(0), operation)
            .cmd(bytes)
            .build()
            .user_data(slot.into())
    }
}

impl Drop for QueueRing {
    fn drop(&mut self) {
        // Closing a ring does not wait for what is under way in it: while the kernel has a tag, it
        // may write to the tag's slot, so this memory stays.
        if self.armed > 0 {
            self.slots.keep();
        }
    }
}

/// Copies out the descriptor of a request that the kernel has just handed over.
fn descriptor(queues: &[Queue], depth: u16, slot: u32) -> IoDesc {
    let (queue, tag) = place(depth, slot);
    let offset = usize::from(tag) * size_of::<IoDesc>();
    let desc = queues[queue]
        .descriptors
        .at(offset, size_of::<IoDesc>())
        .cast::<IoDesc>();
    // SAFETY: inside the mapping and aligned (24-byte elements in a page). The kernel wrote it before it
    // completed this tag's command, and writes it again only after the next commit.
    unsafe { read_volatile(desc.as_ptr()) }
}

/// The queue (its place in the ring) and the tag of a slot.
fn place(depth: u16, slot: u32) -> (usize, u16) {
    let queue = slot / u32::from(depth);
    let tag = slot % u32::from(depth);
    (queue as usize, u16::try_from(tag).unwrap_or(u16::MAX))
}

/// A ring for one thread, with completions delivered when that thread asks for them.
fn build_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .build(entries)
}

/// Puts one entry into the ring, which is made large enough for all tags.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the entry names a registered file, and a slot that stays mapped until the kernel has
    // given the tag back, or for ever (see the end of QueueRing).
    unsafe { ring.submission().push(entry) }
        .map_err(|_| io::Error::other("the queue's ring is full"))
}
