//! The hot path's ring: fetches the requests of one or more hardware queues and commits answers.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::read_volatile;
use std::slice::from_raw_parts_mut;

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};
use zerocopy::IntoBytes;

use super::memory::Mapping;
use crate::limits;
use crate::ublk::abi::{DevInfo, IoCmd, IoDesc, RES_ABORT, io as command};

/// Distance between the descriptor arrays of two queues in `/dev/ublkcN`: room for the greatest
/// depth (`UBLK_MAX_QUEUE_DEPTH`) in whole pages.
const DESCRIPTORS_BYTES_MAX: u64 = 4096 * size_of::<IoDesc>() as u64;

const PAGE_BYTES: usize = 4096;

/// One request that arrived, while it is answered.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The kernel's descriptor, copied out.
    pub desc: IoDesc,
    /// The tag's whole slot: of a write, the data lies at its begin; of a read, it belongs there.
    pub slot: &'a mut [u8],
}

/// One thread's ring, with the descriptors and data slots of the queues it serves.
///
pub struct QueueRing {
    ring: IoUring,
    queues: Vec<Queue>,
    depth: u16,
    transfer_bytes: usize,
    /// Tags the kernel may still send requests for.
    armed: usize,
}

struct Queue {
    id: u16,
    descriptors: Mapping,
    slots: Mapping,
}

impl std::fmt::Debug for QueueRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueRing")
            .field("armed", &self.armed)
            .finish_non_exhaustive()
    }
}

impl QueueRing {
    /// Makes the ring and maps the memory for some queues of an open device; call it on the thread
    /// that will serve. `info` is the device's own: it says how deep the queues are, and how much the
    /// kernel may copy into a slot.
    ///
    /// # Errors
    ///
    /// Where the system refuses the ring or the memory.
    pub fn new(device: &File, info: &DevInfo, queue_ids: &[u16]) -> io::Result<QueueRing> {
        let depth = info.queue_depth;
        let tags = u32::from(depth) * u32::try_from(queue_ids.len()).unwrap_or(u32::MAX);
        let ring = build_ring(tags.next_power_of_two())?;
        ring.submitter().register_files(&[device.as_raw_fd()])?;
        let transfer_bytes = info.max_io_buf_bytes as usize;
        let queues = queue_ids
            .iter()
            .map(|&id| {
                let bytes = usize::from(depth) * size_of::<IoDesc>();
                let offset = u64::from(id) * DESCRIPTORS_BYTES_MAX;
                let descriptors =
                    Mapping::of_file(device, offset, bytes.next_multiple_of(PAGE_BYTES))?;
                let slots = Mapping::anonymous(usize::from(depth) * stride(transfer_bytes))?;
                Ok(Queue {
                    id,
                    descriptors,
                    slots,
                })
            })
            .collect::<io::Result<Vec<Queue>>>()?;
        Ok(QueueRing {
            ring,
            queues,
            depth,
            transfer_bytes,
            armed: 0,
        })
    }

    /// Asks for the first request of every tag. The device can start once the kernel has all.
    ///
    /// # Errors
    ///
    /// Where the kernel does not take them.
    pub fn fetch_all(&mut self) -> io::Result<()> {
        for queue in 0..self.queues.len() {
            for tag in 0..self.depth {
                let fetch = self.entry(command::FETCH_REQ, queue, tag, -1);
                push(&mut self.ring, &fetch)?;
                self.armed += 1;
            }
        }
        self.ring.submit()?;
        Ok(())
    }

    /// Sends the answers of the last batch and waits for requests; then lets `answer` turn each that
    /// is there into its result (bytes, or a negative errno). Says whether to go on: no longer when
    /// the device has stopped and the kernel has taken all its tags back.
    ///
    /// # Errors
    ///
    /// Where the ring itself fails. The device cannot go on then.
    pub fn serve(&mut self, mut answer: impl FnMut(Incoming<'_>) -> i32) -> io::Result<bool> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => {}
            // A signal, or no memory at the moment: what is there is served, then it is tried again.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) => {}
            Err(error) => return Err(error),
        }
        let mut held = 0;
        loop {
            let next = self.ring.completion().next();
            let Some(completion) = next else { break };
            let (queue, tag) = from_user_data(completion.user_data());
            match completion.result() {
                0 => {
                    let incoming = self.incoming(queue, tag);
                    let result = answer(incoming);
                    let commit = self.entry(command::COMMIT_AND_FETCH_REQ, queue, tag, result);
                    push(&mut self.ring, &commit)?;
                    held += 1;
                    if held == limits::ANSWERS_HELD_MAX {
                        self.ring.submit()?;
                        held = 0;
                    }
                }
                RES_ABORT => self.armed -= 1,
                error => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
            }
        }
        Ok(self.armed > 0)
    }

    /// A request that the kernel has just handed over.
    fn incoming(&mut self, queue: usize, tag: u16) -> Incoming<'_> {
        let Queue {
            descriptors, slots, ..
        } = &self.queues[queue];
        let offset = usize::from(tag) * size_of::<IoDesc>();
        let desc = descriptors.at(offset, size_of::<IoDesc>()).cast::<IoDesc>();
        let offset = usize::from(tag) * stride(self.transfer_bytes);
        let slot = slots.at(offset, self.transfer_bytes);
        // SAFETY: inside the mapping and aligned (24-byte elements in a page). The kernel wrote it
        // before it completed this tag's command, and writes it again only after the next commit.
        let desc = unsafe { read_volatile(desc.as_ptr()) };
        // SAFETY: inside the mapping, any bytes are valid. Only this tag's command names the slot,
        // and that one has completed: the kernel has no use of it before `serve` commits, after
        // `answer` has given the slice back.
        let slot = unsafe { from_raw_parts_mut(slot.as_ptr(), self.transfer_bytes) };
        Incoming { desc, slot }
    }

    /// A FETCH or COMMIT of one tag, with the tag's slot as its buffer.
    fn entry(&self, operation: u32, queue: usize, tag: u16, result: i32) -> squeue::Entry {
        let Queue { id, slots, .. } = &self.queues[queue];
        let slot = slots.at(
            usize::from(tag) * stride(self.transfer_bytes),
            self.transfer_bytes,
        );
        let io = IoCmd {
            q_id: *id,
            tag,
            result,
            addr: slot.as_ptr() as u64,
        };
        let mut bytes = [0; 16];
        bytes.copy_from_slice(io.as_bytes());
        opcode::UringCmd16::new(Fixed(0), operation)
            .cmd(bytes)
            .build()
            .user_data(user_data(queue, tag))
    }
}

impl Drop for QueueRing {
    fn drop(&mut self) {
        // Closing a ring does not wait for what is under way in it: while the kernel has a tag, it
        // may write to the tag's slot, so these mappings stay.
        if self.armed > 0 {
            std::mem::take(&mut self.queues).leak();
        }
    }
}

/// Slots begin on pages, and not all a power of two apart: those would share cache sets.
fn stride(transfer_bytes: usize) -> usize {
    transfer_bytes + PAGE_BYTES
}

fn user_data(queue: usize, tag: u16) -> u64 {
    (queue as u64) << 16 | u64::from(tag)
}

fn from_user_data(user_data: u64) -> (usize, u16) {
    let [low, high, ..] = user_data.to_le_bytes();
    let queue = usize::try_from(user_data >> 16).unwrap_or(usize::MAX);
    (queue, u16::from_le_bytes([low, high]))
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
