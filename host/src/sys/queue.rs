//! The hot path's ring: fetches the requests of one or more hardware queues and commits answers.

use std::fs::File;
use std::io;
use std::iter;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{read_volatile, without_provenance_mut};
use std::time::Duration;

use io_uring::types::{Fixed, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::fs::FallocateFlags;
use zerocopy::IntoBytes;

use super::memory::{Mapping, PAGE_BYTES};
use super::own_ring::{build_ring, restrict};
use super::place::Place;
use crate::block::{Carrier, Ended, Errno, Memory, Transfer, Work};
use crate::store::zeroing;
use crate::ublk::abi::{
    DevInfo, IoCmd, IoDesc, RES_ABORT, auto_buf_reg, data_offset, io as command, op,
};

/// Distance between the descriptor arrays of two queues in `/dev/ublkcN`: room for the greatest
/// depth (`UBLK_MAX_QUEUE_DEPTH`) in whole pages.
const DESCRIPTORS_BYTES_MAX: u64 = 4096 * size_of::<IoDesc>() as u64;

/// Most entries of a ring (`IORING_MAX_ENTRIES` in `io_uring.c`).
const ENTRIES_MAX: u32 = 32768;

/// One thread's ring, with the descriptors of the queues it serves. The slot of a tag is its number in
/// the ring: the first queue's tags come first.
pub struct QueueRing {
    ring: IoUring,
    queues: Vec<Queue>,
    depth: u16,
    place: Place,
    /// The data of requests stays in the kernel, which registers it in the ring by the slot's number.
    zero_copy: bool,
    /// Tags the kernel may still send requests for.
    armed: usize,
    /// Transfers that the kernel has not ended.
    under_way: usize,
    /// Ends that nobody was told of.
    ended: Vec<(u32, Ended)>,
    /// Requests whose data nobody can have.
    unregistered: Vec<u32>,
}

/// What a turn of the ring brings.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request came, with its slot.
    Arrived(u32, &'a IoDesc),
    /// A transfer with this token has ended.
    Ended(u32, Ended),
}

/// In the number of a command: it is a transfer; above is its store, and below its token.
const TRANSFER: u64 = 1 << 32;
const STORE_SHIFT: u32 = 33;

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
        place: Place,
    ) -> io::Result<QueueRing> {
        let depth = info.queue_depth;
        let tags = u32::from(depth) * u32::try_from(queue_ids.len()).unwrap_or(u32::MAX);
        let slots = &place.slots;
        if slots.count() < tags || slots.bytes() < info.max_io_buf_bytes as usize {
            return Err(io::Error::other("the slots do not fit the queues"));
        }
        if info.is_zero_copy() && !place.hidden {
            // Nobody knows then whether all of a read was written.
            return Err(io::Error::other(
                "zero copy is not for a guest that looks at data",
            ));
        }
        let entries = (tags + place.transfers_max).next_power_of_two();
        let ring = build_ring(entries.min(ENTRIES_MAX))?;
        let stores = place.stores.all().iter();
        let files =
            iter::once(device.as_raw_fd()).chain(stores.map(|store| store.file.as_raw_fd()));
        let files: Vec<RawFd> = files.collect();
        ring.submitter().register_files(&files)?;
        let zero_copy = info.is_zero_copy();
        if zero_copy {
            ring.submitter().register_buffers_sparse(tags)?;
        }
        restrict(&ring)?;
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
            place,
            zero_copy,
            armed: 0,
            under_way: 0,
            ended: Vec::new(),
            unregistered: Vec::new(),
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

    /// Sends what was queued, and waits until something has come, or `timeout` is over (`None` is for ever).
    /// Then calls `event` for each request and each end of a transfer that is there. Says whether to go on: no
    /// longer when the device has stopped and the kernel has taken all its tags back.
    ///
    /// # Errors
    ///
    /// Where the ring itself fails. The device cannot go on then.
    pub fn turn(
        &mut self,
        timeout: Option<Duration>,
        mut event: impl FnMut(Event<'_>),
    ) -> io::Result<bool> {
        let timeout = if self.ended.is_empty() {
            timeout
        } else {
            Some(Duration::ZERO)
        };
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
        for (token, ended) in self.ended.drain(..) {
            event(Event::Ended(token, ended));
        }
        for completion in self.ring.completion() {
            let (number, result) = (completion.user_data(), completion.result());
            // All our commands carry a slot or a token, which is below 2^32.
            let low = u32::try_from(number & (TRANSFER - 1)).unwrap_or(u32::MAX);
            if number & TRANSFER != 0 {
                self.under_way -= 1;
                event(Event::Ended(low, ended(&self.place, number, result)));
                continue;
            }
            match result {
                0 => {
                    let desc = descriptor(&self.queues, self.depth, low);
                    if self.zero_copy && desc.op_flags & op::F_NEED_REG_BUF != 0 {
                        // The kernel had no memory to register its data.
                        self.unregistered.push(low);
                    } else {
                        event(Event::Arrived(low, &desc));
                    }
                }
                RES_ABORT => self.armed -= 1,
                error => return Err(io::Error::from_raw_os_error(error.saturating_neg())),
            }
        }
        while let Some(slot) = self.unregistered.pop() {
            self.commit(slot, -libc::EIO)?;
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
        let slots = &self.place.slots;
        let (addr, buffer) = if self.zero_copy {
            (
                0,
                Some(auto_buf_reg(u16::try_from(slot).unwrap_or(u16::MAX))),
            )
        } else {
            (slots.at(slot, 0, slots.bytes()).as_ptr() as u64, None)
        };
        let io = IoCmd {
            q_id: self.queues[queue].id,
            tag,
            result,
            addr,
        };
        let mut bytes = [0; 16];
        bytes.copy_from_slice(io.as_bytes());
        opcode::UringCmd16::new(Fixed(0), operation)
            .cmd(bytes)
            .addr(buffer)
            .build()
            .user_data(slot.into())
    }

    /// A transfer of data that stays in the kernel.
    fn registered(&self, transfer: &Transfer, slot: u32, at: u32) -> squeue::Entry {
        let Transfer { offset, length, .. } = *transfer;
        let store = Fixed(u32::from(transfer.store) + 1);
        // In a registered buffer, addresses count from its begin.
        let inside = without_provenance_mut(at as usize);
        let index = u16::try_from(slot).unwrap_or(u16::MAX);
        let (queue, tag) = place(self.depth, slot);
        let data = data_offset(self.queues[queue].id, tag) + u64::from(at);
        match transfer.work {
            Work::Read => opcode::ReadFixed::new(store, inside, length, index)
                .offset(offset)
                .build(),
            Work::Write { durable } => opcode::WriteFixed::new(store, inside, length, index)
                .offset(offset)
                .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                .build(),
            Work::CopyOut => {
                let memory = self.place.other_side(transfer).as_ptr();
                opcode::Read::new(Fixed(0), memory, length)
                    .offset(data)
                    .build()
            }
            _ => {
                let memory = self.place.other_side(transfer).as_ptr();
                let length = self.place.other_bytes(transfer);
                opcode::Write::new(Fixed(0), memory, length)
                    .offset(data)
                    .build()
            }
        }
    }

    /// A transfer from or to a store.
    fn transfer(&self, transfer: &Transfer) -> squeue::Entry {
        let Transfer { offset, length, .. } = *transfer;
        // File 0 is the device.
        let file = Fixed(u32::from(transfer.store) + 1);
        let address = self.place.address(transfer).as_ptr();
        let range = |how: FallocateFlags| {
            let mode = i32::try_from(how.bits()).unwrap_or_default();
            let range = opcode::Fallocate::new(file, length.into());
            range.offset(offset).mode(mode).build()
        };
        let write = || opcode::Write::new(file, address, length).offset(offset);
        match transfer.work {
            Work::Write { durable: false } => write().build(),
            Work::Write { durable: true } => write().rw_flags(libc::RWF_DSYNC).build(),
            Work::Flush => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
            Work::Discard => range(zeroing(true)),
            Work::WriteZeroes { may_discard } => range(zeroing(may_discard)),
            _ => opcode::Read::new(file, address, length)
                .offset(offset)
                .build(),
        }
    }
}

impl Carrier for QueueRing {
    fn begin(&mut self, token: u32, transfer: &Transfer) -> io::Result<()> {
        let entry = match transfer.memory {
            Memory::Request(slot, at) if self.zero_copy => self.registered(transfer, slot, at),
            _ if transfer.work.is_copy() => {
                self.place.copy(transfer);
                self.ended.push((token, Ok(transfer.length)));
                return Ok(());
            }
            _ => self.transfer(transfer),
        };
        let number = u64::from(transfer.store) << STORE_SHIFT | TRANSFER | u64::from(token);
        push(&mut self.ring, &entry.user_data(number))?;
        self.under_way += 1;
        Ok(())
    }

    fn wait(&mut self, timeout: Duration, ended: &mut dyn FnMut(u32, Ended)) -> io::Result<()> {
        // The device has stopped: requests come no more.
        let told = self.turn(Some(timeout), |event| {
            if let Event::Ended(token, result) = event {
                ended(token, result);
            }
        });
        told.map(drop)
    }
}

impl Drop for QueueRing {
    fn drop(&mut self) {
        // Closing a ring does not wait for what is under way in it: while the kernel has a tag, it
        // may write to the tag's slot, and so for transfers; so this memory stays.
        if self.armed > 0 || self.under_way > 0 {
            Box::leak(Box::new(self.place.clone()));
        }
    }
}

/// How a transfer with this number ended.
fn ended(place: &Place, number: u64, result: i32) -> Ended {
    let store = usize::try_from(number >> STORE_SHIFT).ok();
    let store = store.and_then(|store| place.stores.all().get(store));
    let result =
        u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()));
    match store {
        Some(store) => store.ended(result),
        // A copy.
        None => result.map_err(|_| Errno::EIO),
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

/// Puts one entry into the ring; where that is full, what is in it goes to the kernel first.
fn push(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    for _ in 0..2 {
        // SAFETY: the entry names registered files, and memory of the ring's place, which stays mapped
        // until the kernel has given the tag back or ended the transfer, or for ever (see the end of
        // QueueRing).
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        ring.submit()?;
    }
    Err(io::Error::other("the queue's ring is full"))
}
