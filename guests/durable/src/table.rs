//! Many numbers in a store, of which a few change at a time. Each sector has 63 of them and a checksum; a sector
//! of zeros has zeros. A sector is written as a whole or not at all, so at any time a store has of each number
//! what it was at the last commit, or what the commit under way makes of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use wasmblk_guest::{Errno, Level, OpenError, Ranges, Scratch, Store, log};

use crate::sum::crc32c;

const SECTOR_BYTES: usize = 512;
/// Sectors are written with those beside them, as stores with `direct` want it.
const BLOCK_BYTES: usize = 4096;
/// Checksum of all but itself, and number of the sector.
const HEAD_BYTES: usize = 8;
const IN_SECTOR: usize = (SECTOR_BYTES - HEAD_BYTES) / 8;
const IN_BLOCK: usize = BLOCK_BYTES / SECTOR_BYTES * IN_SECTOR;
/// Bytes that are written at a time.
const RUN_BYTES: usize = 64 << 10;
/// Bytes that are read at a time.
const STEP_BYTES: u64 = 1 << 20;

/// Changes that are best committed: they take memory.
const FRESH_MAX: usize = 16 << 10;

/// The numbers, all of them in memory too: 8 bytes each.
#[derive(Debug)]
pub struct Table {
    store: Store,
    begin: u64,
    entries: RefCell<Vec<u64>>,
    /// What changed since the last commit began: as it is in the store.
    fresh: RefCell<BTreeMap<usize, u64>>,
    /// What the commit under way writes: as it was before.
    under_way: RefCell<BTreeMap<usize, u64>>,
    turn: Ranges,
    buffer: RefCell<Option<Scratch>>,
    /// The store did not flush. It says so once, and what it then lacks nobody knows: so nothing that it is told
    /// from here on may lead there.
    has_lost: Cell<bool>,
}

impl Table {
    /// Bytes that so many numbers take in a store.
    #[must_use]
    pub fn bytes(count: u64) -> u64 {
        count.div_ceil(IN_BLOCK as u64) * BLOCK_BYTES as u64
    }

    /// Reads so many numbers from `begin` on. Only in `open`.
    ///
    /// # Errors
    ///
    /// Where they cannot be read, or a checksum does not match, or there is no memory for them.
    pub fn open(store: Store, begin: u64, count: u64) -> Result<Table, OpenError> {
        let mut entries = Vec::new();
        let length = usize::try_from(count).ok();
        let room = length.and_then(|length| entries.try_reserve_exact(length + IN_BLOCK).ok());
        room.ok_or_else(|| {
            OpenError::Other(format!(
                "no memory for a map of {count} chunks, {} bytes; give more with --memory-mib, or a larger chunk \
                 when it is made",
                count.saturating_mul(8)
            ))
        })?;
        let bytes = Table::bytes(count);
        let mut part = vec![0; bytes.min(STEP_BYTES) as usize];
        let mut at = 0;
        while at < bytes {
            let part = &mut part[..(bytes - at).min(STEP_BYTES) as usize];
            let read = store.read_now(begin + at, part);
            read.map_err(|errno| OpenError::Other(format!("its map cannot be read: {errno:?}")))?;
            for sector in part.chunks(SECTOR_BYTES) {
                decode(sector, entries.len() / IN_SECTOR, &mut entries)?;
            }
            at += part.len() as u64;
        }
        // The last block has more than there are.
        entries.truncate(length.unwrap_or(0));
        Ok(Table {
            store,
            begin,
            entries: RefCell::new(entries),
            fresh: RefCell::default(),
            under_way: RefCell::default(),
            turn: Ranges::default(),
            buffer: RefCell::new(Some(Scratch::new(RUN_BYTES))),
            has_lost: Cell::new(false),
        })
    }

    /// Looks at all numbers; those of which `keep` says no are zero from here on, without a commit: what the
    /// store has of them is of no meaning. Only in `open`.
    pub fn retain(&self, mut keep: impl FnMut(usize, u64) -> bool) {
        for (place, entry) in self.entries.borrow_mut().iter_mut().enumerate() {
            if *entry != 0 && !keep(place, *entry) {
                *entry = 0;
            }
        }
    }

    /// One number.
    #[must_use]
    pub fn get(&self, place: usize) -> u64 {
        self.entries.borrow()[place]
    }

    /// Changes a number. The store has it after the next commit.
    pub fn set(&self, place: usize, value: u64) {
        let before = std::mem::replace(&mut self.entries.borrow_mut()[place], value);
        self.fresh.borrow_mut().entry(place).or_insert(before);
    }

    /// Whether the store has this number as it is.
    #[must_use]
    pub fn is_settled(&self, place: usize) -> bool {
        let (fresh, under_way) = (self.fresh.borrow(), self.under_way.borrow());
        !fresh.contains_key(&place) && !under_way.contains_key(&place)
    }

    /// Whether so much changed that a commit is due.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.fresh.borrow().len() > FRESH_MAX
    }

    /// Makes everything durable: first what was written to the store before this call, then all changes.
    ///
    /// # Errors
    ///
    /// The store's: then of each change nothing is known until a later commit is done. Where it did not flush,
    /// none is.
    pub async fn commit(&self) -> Result<(), Errno> {
        let _turn = self.turn.turn().await;
        if self.has_lost.get() {
            return Err(Errno::Io);
        }
        let changes = self.fresh.take();
        if changes.is_empty() {
            return self.flush().await;
        }
        self.under_way.replace(changes);
        // It is there, as there is one turn at a time.
        let mut buffer = self.buffer.take().ok_or(Errno::Io)?;
        let written = self.write_changes(&mut buffer).await;
        self.buffer.replace(Some(buffer));
        let changes = self.under_way.take();
        if written.is_err() {
            let mut fresh = self.fresh.borrow_mut();
            // What changed again meanwhile is still what it was before both.
            fresh.extend(changes);
        }
        written
    }

    async fn flush(&self) -> Result<(), Errno> {
        let flushed = self.store.flush().await;
        if let Err(errno) = flushed {
            self.has_lost.set(true);
            let text = format!(
                "a store did not flush: {errno:?}; nothing becomes durable until the device is added anew"
            );
            log(Level::Error, &text);
        }
        flushed
    }

    async fn write_changes(&self, buffer: &mut Scratch) -> Result<(), Errno> {
        self.flush().await?;
        let mut next = self.next_changed(0);
        while let Some(block) = next {
            let mut blocks = 0;
            while next == Some(block + blocks) && blocks < RUN_BYTES / BLOCK_BYTES {
                let place = &mut buffer.bytes_mut()[blocks * BLOCK_BYTES..][..BLOCK_BYTES];
                self.encode(block + blocks, place);
                blocks += 1;
                next = self.next_changed(block + blocks);
            }
            let at = self.begin + (block * BLOCK_BYTES) as u64;
            let bytes = &buffer.bytes()[..blocks * BLOCK_BYTES];
            self.store.write(at, bytes).await?;
        }
        self.flush().await
    }

    /// The first block from this one on that the commit under way changes.
    fn next_changed(&self, block: usize) -> Option<usize> {
        let under_way = self.under_way.borrow();
        let (place, _) = under_way.range(block * IN_BLOCK..).next()?;
        Some(place / IN_BLOCK)
    }

    /// A block as the commit under way leaves it: without what changed since it began.
    fn encode(&self, block: usize, bytes: &mut [u8]) {
        let (entries, fresh) = (self.entries.borrow(), self.fresh.borrow());
        let mut place = block * IN_BLOCK;
        for (number, sector) in (place / IN_SECTOR..).zip(bytes.chunks_mut(SECTOR_BYTES)) {
            sector.fill(0);
            for word in sector[HEAD_BYTES..].chunks_mut(8) {
                let live = entries.get(place).copied().unwrap_or(0);
                let entry = fresh.get(&place).copied().unwrap_or(live);
                word.copy_from_slice(&entry.to_le_bytes());
                place += 1;
            }
            if sector.iter().any(|byte| *byte != 0) {
                sector[4..8].copy_from_slice(&(number as u32).to_le_bytes());
                let sum = crc32c(&sector[4..]);
                sector[..4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

fn decode(sector: &[u8], number: usize, entries: &mut Vec<u64>) -> Result<(), OpenError> {
    if sector.iter().any(|byte| *byte != 0) {
        let sum = crc32c(&sector[4..]).to_le_bytes();
        if sector[..4] != sum || sector[4..8] != (number as u32).to_le_bytes() {
            return Err(OpenError::Other(format!(
                "sector {number} of its map is damaged: a checksum does not match"
            )));
        }
    }
    for word in sector[HEAD_BYTES..].chunks(8) {
        let mut entry = [0; 8];
        entry.copy_from_slice(word);
        entries.push(u64::from_le_bytes(entry));
    }
    Ok(())
}
