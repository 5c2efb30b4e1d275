//! Carries transfers out one at a time, in any order, some of them much later.

use std::io;
use std::thread;
use std::time::Duration;

use wasmblk::block::{Carrier, Ended, Errno, Memory, Transfer, Work};
use wasmblk::sys::Place;

use super::medium::Medium;
use super::random::Random;

pub(super) struct Power {
    place: Place,
    pub(super) media: Vec<Medium>,
    pending: Vec<Pending>,
    random: Random,
}

/// A transfer under way.
struct Pending {
    token: u32,
    transfer: Transfer,
    /// How much was written when it began.
    mark: u64,
    /// Others come first, most of the time.
    slow: bool,
}

/// One of so many transfers is slow, and is picked one of so many times while there are others.
const SLOW: u64 = 5;
/// Of reads, so that they meet what changes meanwhile.
const SLOW_READ: u64 = 2;

impl Power {
    pub(super) fn new(place: Place, media: Vec<Medium>, seed: u64) -> Power {
        Power {
            place,
            media,
            pending: Vec::new(),
            random: Random(seed),
        }
    }

    /// The bytes that a transfer takes from memory.
    fn taken(&self, transfer: &Transfer) -> Vec<u8> {
        let mut data = vec![0; transfer.length as usize];
        match transfer.memory {
            Memory::Nowhere | Memory::Zeros => {}
            Memory::Request(tag, at) => self.place.slots.get(tag, at as usize, &mut data),
            Memory::Arena(at) => {
                let arena = self.place.arena.as_ref().expect("it has one");
                let count = transfer.length / 8;
                let words = arena.records(at as usize, count).expect("inside");
                for (bytes, [word]) in data.chunks_mut(8).zip(words.first(count)) {
                    bytes.copy_from_slice(&word.to_le_bytes());
                }
            }
        }
        data
    }

    /// The bytes that a transfer puts into memory.
    fn put(&self, transfer: &Transfer, data: &[u8]) {
        match transfer.memory {
            Memory::Nowhere | Memory::Zeros => {}
            Memory::Request(tag, at) => self.place.slots.put(tag, at as usize, data),
            Memory::Arena(at) => {
                let arena = self.place.arena.as_ref().expect("it has one");
                let words = arena.records(at as usize, transfer.length / 8);
                let words = words.expect("inside");
                for (place, bytes) in (0..).zip(data.chunks(8)) {
                    let word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
                    words.put(place, &[word]);
                }
            }
        }
    }

    fn carry_out(&mut self, transfer: &Transfer, mark: u64) -> Ended {
        let Transfer { offset, length, .. } = *transfer;
        if matches!(transfer.work, Work::Fill | Work::CopyIn | Work::CopyOut) {
            self.place.copy(transfer);
            return Ok(length);
        }
        let data = self.taken(transfer);
        let medium = &mut self.media[usize::from(transfer.store)];
        let fails = medium.fails > 0 && self.random.one_in(medium.fails);
        if transfer.work == Work::Flush && (fails || medium.flushes_in_vain) {
            medium.flush_in_vain(mark, &mut self.random);
            return Err(Errno::EIO);
        }
        // What failed may be there all the same.
        if fails && (transfer.work == Work::Read || self.random.one_in(2)) {
            return Err(Errno::EIO);
        }
        match transfer.work {
            Work::Read => {
                let data = medium.read(offset, length as usize);
                self.put(transfer, &data);
            }
            Work::Flush => medium.flush(mark),
            Work::Write { durable: true } => medium.write_durable(offset, &data),
            _ => medium.write(offset, data),
        }
        if fails { Err(Errno::EIO) } else { Ok(length) }
    }

    /// What a power cut now may leave of each store.
    pub(super) fn cut(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let images = (0..).zip(&self.media).map(|(number, medium)| {
            let transfers = self.pending.iter().map(|pending| &pending.transfer);
            let writes = transfers.filter(|transfer| {
                let changes = !matches!(
                    transfer.work,
                    Work::Read | Work::Flush | Work::Fill | Work::CopyIn | Work::CopyOut
                );
                changes && transfer.store == number
            });
            let under_way: Vec<_> = writes
                .map(|transfer| (transfer.offset, self.taken(transfer)))
                .collect();
            medium.cut(&under_way, random)
        });
        images.collect()
    }
}

impl Carrier for Power {
    fn begin(&mut self, token: u32, transfer: &Transfer) -> io::Result<()> {
        let medium = self.media.get(usize::from(transfer.store));
        let mark = medium.map_or(0, Medium::mark);
        let slow = if transfer.work == Work::Read {
            SLOW_READ
        } else {
            SLOW
        };
        self.pending.push(Pending {
            token,
            transfer: *transfer,
            mark,
            slow: self.random.one_in(slow),
        });
        Ok(())
    }

    fn wait(&mut self, timeout: Duration, ended: &mut dyn FnMut(u32, Ended)) -> io::Result<()> {
        if self.pending.is_empty() {
            thread::sleep(timeout);
            return Ok(());
        }
        let mut next = self.random.index(self.pending.len());
        while self.pending[next].slow && !self.random.one_in(SLOW) {
            next = self.random.index(self.pending.len());
        }
        let Pending {
            token,
            transfer,
            mark,
            ..
        } = self.pending.swap_remove(next);
        let result = self.carry_out(&transfer, mark);
        ended(token, result);
        Ok(())
    }
}
