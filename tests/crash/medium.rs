//! A store of which is known what a power cut leaves: a file with all that was written, and beside it what is
//! durable, and what was written since.

use std::fs::File;
use std::os::unix::fs::FileExt;

use tests::backing::Backing;

use super::random::Random;

const SECTOR: usize = 512;

pub(super) struct Medium {
    file: File,
    durable: Vec<u8>,
    changes: Vec<Change>,
    written: u64,
    /// One in so many transfers ends with an error; 0 is none.
    pub(super) fails: u64,
    /// No flush succeeds.
    pub(super) flushes_in_vain: bool,
    /// Flushes that failed.
    pub(super) failed_flushes: u64,
}

/// A write that no flush has followed.
#[derive(Clone)]
pub(super) struct Change {
    number: u64,
    pub(super) at: usize,
    pub(super) data: Vec<u8>,
}

impl Medium {
    /// What is in the file now is durable.
    pub(super) fn new(backing: &Backing) -> Medium {
        Medium {
            file: backing.file(),
            durable: backing.content(),
            changes: Vec::new(),
            written: 0,
            fails: 0,
            flushes_in_vain: false,
            failed_flushes: 0,
        }
    }

    pub(super) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.file.read_exact_at(&mut data, at).expect("it is read");
        data
    }

    pub(super) fn content(&self) -> Vec<u8> {
        self.read(0, self.durable.len())
    }

    /// Makes the file what it was at another time.
    pub(super) fn put(&self, content: &[u8]) {
        self.file.write_all_at(content, 0).expect("it is written");
    }

    pub(super) fn write(&mut self, at: u64, data: Vec<u8>) {
        self.file.write_all_at(&data, at).expect("it is written");
        self.written += 1;
        self.changes.push(Change {
            number: self.written,
            at: usize::try_from(at).expect("short"),
            data,
        });
    }

    /// Writes what is durable at once; nothing older can be found there any more.
    pub(super) fn write_durable(&mut self, at: u64, data: &[u8]) {
        self.file.write_all_at(data, at).expect("it is written");
        let begin = usize::try_from(at).expect("short");
        let end = begin + data.len();
        self.durable[begin..end].copy_from_slice(data);
        for change in &mut self.changes {
            let (from, to) = (
                change.at.max(begin),
                (change.at + change.data.len()).min(end),
            );
            if from < to {
                let newer = &data[from - begin..to - begin];
                change.data[from - change.at..to - change.at].copy_from_slice(newer);
            }
        }
    }

    /// How much was written by now.
    pub(super) fn mark(&self) -> u64 {
        self.written
    }

    /// What was written before the mark is durable.
    pub(super) fn flush(&mut self, mark: u64) {
        for change in std::mem::take(&mut self.changes) {
            if change.number <= mark {
                self.durable[change.at..][..change.data.len()].copy_from_slice(&change.data);
            } else {
                self.changes.push(change);
            }
        }
    }

    /// A flush fails: what it could not write the system gives up, and says so this once.
    pub(super) fn flush_in_vain(&mut self, mark: u64, random: &mut Random) {
        self.failed_flushes += 1;
        self.changes
            .retain(|change| change.number > mark || random.one_in(2));
        self.flush(mark);
    }

    /// What a power cut may leave: what is durable, and of all later writes, those under way as well, none, all,
    /// some, or some sectors.
    pub(super) fn cut(&self, under_way: &[(u64, Vec<u8>)], random: &mut Random) -> Vec<u8> {
        let mut image = self.durable.clone();
        let later = self.changes.iter().map(|change| (change.at, &change.data));
        let under_way = under_way
            .iter()
            .map(|(at, data)| (usize::try_from(*at).expect("short"), data));
        let how = random.below(5);
        for (at, data) in later.chain(under_way) {
            let whole = match how {
                0 => continue,
                1 => true,
                _ => random.one_in(2),
            };
            for (sector, bytes) in data.chunks(SECTOR).enumerate() {
                let there = match how {
                    1 | 2 => whole,
                    // Torn.
                    _ => random.one_in(2),
                };
                if there {
                    image[at + sector * SECTOR..][..bytes.len()].copy_from_slice(bytes);
                }
            }
        }
        image
    }
}
