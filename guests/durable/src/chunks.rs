//! A disk whose chunks lie anywhere in a store, in another store, or nowhere.

use std::ops::Range;

use wasmblk_guest::{Data, Errno, Held, Info, Ranges, Store, all};

use crate::buffers::Buffers;
use crate::map::{Map, Place};

/// The disk.
#[derive(Debug)]
pub struct Chunks<M> {
    map: M,
    store: Store,
    base: Option<Store>,
    chunk_bytes: u64,
    size_bytes: u64,
    /// Who reads a chunk, and who changes where it lies.
    ranges: Ranges,
    buffers: Buffers,
}

/// A part of a request that lies in one piece, and where it begins.
#[derive(Clone, Copy, Debug)]
struct Run {
    place: Place,
    length: u32,
}

/// Room that was taken for a request: chunks in their order, and where each lies.
type Taken = Vec<(u64, u64)>;

/// Buffers that are copied through at a time.
const BUFFERS: usize = 4;

/// Chunks that one request makes zeros at most: each may lie elsewhere, and then takes an operation of the store.
const ZEROED_MAX: u64 = 1024;

impl<M: Map> Chunks<M> {
    /// A disk over a store and, where the map says so, a base. Only in `open`.
    pub fn new(map: M, store: Store, base: Option<Store>, sizes: (u64, u64)) -> Chunks<M> {
        let (chunk_bytes, size_bytes) = sizes;
        Chunks {
            map,
            store,
            base,
            chunk_bytes,
            size_bytes,
            ranges: Ranges::default(),
            buffers: Buffers::new(BUFFERS),
        }
    }

    /// What the disk says of itself, with a logical block of so many bytes.
    #[must_use]
    pub fn info(&self, block: u32) -> Info {
        Info {
            logical_block_bytes: block,
            physical_block_bytes: self.store.block_bytes.max(block),
            max_transfer_bytes: 1 << 20,
            discard_granularity_bytes: self.chunk_bytes as u32,
            max_discard_bytes: 1 << 30,
            // A power of two that is not above 2^30.
            max_write_zeroes_bytes: (self.chunk_bytes * ZEROED_MAX).min(1 << 30) as u32,
            ..Info::new(self.size_bytes)
        }
    }

    /// Has data filled.
    ///
    /// # Errors
    ///
    /// The stores'.
    pub async fn read(&self, offset: u64, data: Data) -> Result<(), Errno> {
        let _held = self.hold(offset, data.bytes(), false).await;
        let mut rest = data;
        let runs = self.runs(offset, data.bytes(), &[]);
        all(runs.map(|(at, run)| {
            let (data, later) = rest.split_at(run.length);
            rest = later;
            async move {
                match (run.place, self.base) {
                    (Place::Store(at), _) => self.store.read_to(at, data).await,
                    (Place::Base, Some(base)) => base.read_to(at, data).await,
                    _ => data.fill_with_zeros().await,
                }
            }
        }))
        .await
    }

    /// Has data written. It is durable after a [`Chunks::flush`].
    ///
    /// # Errors
    ///
    /// The stores', and `NoSpace`.
    pub async fn write(&self, offset: u64, data: Data) -> Result<(), Errno> {
        let _held = self.hold_writable(offset, data.bytes()).await;
        let taken = self.make_room(offset, data.bytes()).await?;
        let mut rest = data;
        let runs = self.store_runs(offset, data.bytes(), &taken);
        let written = all(runs.map(|(at, length)| {
            let (data, later) = rest.split_at(length);
            rest = later;
            async move { self.store.write_from(at, data, false).await }
        }))
        .await;
        self.settle(taken, written).await
    }

    /// Makes a range zeros; with `may_discard`, its room becomes free.
    ///
    /// # Errors
    ///
    /// The stores', and `NoSpace`.
    pub async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        let whole = self.whole_chunks(offset, length);
        if !may || whole.is_empty() {
            return self.zero(offset, length, may).await;
        }
        let begin = whole.start * self.chunk_bytes;
        let end = (whole.end * self.chunk_bytes).min(offset + u64::from(length));
        // No longer than the range, which is a u32.
        let (head, tail) = (
            (begin - offset) as u32,
            (offset + u64::from(length) - end) as u32,
        );
        self.zero(offset, head, true).await?;
        self.zero(end, tail, true).await?;
        self.forget(whole).await
    }

    /// Forgets the chunks that lie in a range as a whole, and what else costs nothing.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        let whole = self.whole_chunks(offset, length);
        if whole.is_empty() {
            return Ok(());
        }
        self.forget(whole).await
    }

    /// Makes everything that was answered durable.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn flush(&self) -> Result<(), Errno> {
        self.map.commit().await
    }

    async fn forget(&self, chunks: Range<u64>) -> Result<(), Errno> {
        let begin = chunks.start * self.chunk_bytes;
        let end = chunks.end * self.chunk_bytes;
        let held = self.ranges.hold(begin..end, true).await;
        for chunk in chunks {
            self.map.forget(chunk);
        }
        drop(held);
        self.commit_if_due().await
    }

    /// Makes a range zeros that has room; where it `may_lack` that, it may still have none.
    async fn zero(&self, offset: u64, length: u32, may_lack: bool) -> Result<(), Errno> {
        if length == 0 || may_lack && self.reads_as_zeros(offset, length) {
            return Ok(());
        }
        let _held = self.hold_writable(offset, length).await;
        let taken = self.make_room(offset, length).await?;
        let runs = self.store_runs(offset, length, &taken);
        let written = all(runs
            .map(|(at, length)| async move { self.store.write_zeroes(at, length, false).await }))
        .await;
        self.settle(taken, written).await
    }

    async fn commit_if_due(&self) -> Result<(), Errno> {
        if self.map.is_due() {
            self.map.commit().await?;
        }
        Ok(())
    }

    /// What was taken becomes part of the disk, or is given back.
    async fn settle(&self, taken: Taken, written: Result<(), Errno>) -> Result<(), Errno> {
        for (chunk, at) in taken {
            match written {
                Ok(()) => self.map.publish(chunk, at),
                Err(_) => self.map.give_back(chunk, at),
            }
        }
        written?;
        self.commit_if_due().await
    }

    fn chunks(&self, offset: u64, length: u32) -> Range<u64> {
        let end = offset + u64::from(length);
        offset / self.chunk_bytes..end.div_ceil(self.chunk_bytes)
    }

    /// The chunks of which a range has all that is in the disk.
    fn whole_chunks(&self, offset: u64, length: u32) -> Range<u64> {
        let end = offset + u64::from(length);
        let end = if end == self.size_bytes {
            end.div_ceil(self.chunk_bytes)
        } else {
            end / self.chunk_bytes
        };
        offset.div_ceil(self.chunk_bytes)..end
    }

    fn has_room(&self, offset: u64, length: u32) -> bool {
        let mut chunks = self.chunks(offset, length);
        chunks.all(|chunk| matches!(self.map.place(chunk), Place::Store(_)))
    }

    fn reads_as_zeros(&self, offset: u64, length: u32) -> bool {
        let mut chunks = self.chunks(offset, length);
        chunks.all(|chunk| self.map.place(chunk) == Place::Zeros)
    }

    /// Keeps what lies there where it is; `alone`, for oneself.
    async fn hold(&self, offset: u64, length: u32, alone: bool) -> Held<'_> {
        let chunks = self.chunks(offset, length);
        let (begin, end) = (chunks.start, chunks.end);
        let range = begin * self.chunk_bytes..end * self.chunk_bytes;
        self.ranges.hold(range, alone).await
    }

    /// The same, alone where a chunk has no room yet.
    async fn hold_writable(&self, offset: u64, length: u32) -> Held<'_> {
        loop {
            let alone = !self.has_room(offset, length);
            let held = self.hold(offset, length, alone).await;
            if alone || self.has_room(offset, length) {
                return held;
            }
        }
    }

    /// Takes room for those chunks of a range that have none, and writes there what is around the range.
    async fn make_room(&self, offset: u64, length: u32) -> Result<Taken, Errno> {
        if self.has_room(offset, length) {
            return Ok(Taken::new());
        }
        let taken = match self.take(offset, length) {
            Err(Errno::NoSpace) => {
                self.map.commit().await?;
                self.take(offset, length)?
            }
            taken => taken?,
        };
        match self.fill_around(offset, length, &taken).await {
            Ok(()) => Ok(taken),
            Err(errno) => {
                let outcome = self.settle(taken, Err(errno)).await;
                outcome.map(|()| Taken::new())
            }
        }
    }

    fn take(&self, offset: u64, length: u32) -> Result<Taken, Errno> {
        let mut taken = Taken::new();
        for chunk in self.chunks(offset, length) {
            if matches!(self.map.place(chunk), Place::Store(_)) {
                continue;
            }
            match self.map.take(chunk) {
                Ok(at) => taken.push((chunk, at)),
                Err(errno) => {
                    for (chunk, at) in taken {
                        self.map.give_back(chunk, at);
                    }
                    return Err(errno);
                }
            }
        }
        Ok(taken)
    }

    /// Fills what is taken and lies before or behind a range.
    async fn fill_around(
        &self,
        offset: u64,
        length: u32,
        taken: &[(u64, u64)],
    ) -> Result<(), Errno> {
        let end = offset + u64::from(length);
        for (chunk, at) in [taken.first(), taken.last()].into_iter().flatten() {
            let begin = chunk * self.chunk_bytes;
            let chunk_end = (begin + self.chunk_bytes).min(self.size_bytes);
            if begin < offset {
                self.fill(*chunk, *at, begin..offset).await?;
            }
            if end < chunk_end {
                self.fill(*chunk, *at, end..chunk_end).await?;
            }
            if taken.len() == 1 {
                break;
            }
        }
        Ok(())
    }

    /// Writes to the room of a chunk what a range in it reads as.
    async fn fill(&self, chunk: u64, at: u64, range: Range<u64>) -> Result<(), Errno> {
        let (to, length) = (at + range.start % self.chunk_bytes, range.end - range.start);
        match (self.map.place(chunk), &self.base) {
            (Place::Base, Some(base)) => {
                let from = (base, range.start);
                self.buffers.copy(from, (&self.store, to), length).await
            }
            // A chunk is shorter than 2^32.
            _ => self.store.write_zeroes(to, length as u32, true).await,
        }
    }

    /// A range as pieces: where each begins in the disk, and where it lies. What is taken counts as published.
    fn runs(
        &self,
        offset: u64,
        length: u32,
        taken: &[(u64, u64)],
    ) -> impl Iterator<Item = (u64, Run)> {
        let end = offset + u64::from(length);
        let mut at = offset;
        std::iter::from_fn(move || {
            let begin = at;
            let mut run: Option<Run> = None;
            while at < end {
                let (chunk, inside) = (at / self.chunk_bytes, at % self.chunk_bytes);
                // No longer than the range, which is a u32.
                let length = (self.chunk_bytes - inside).min(end - at) as u32;
                let place = match self.place(chunk, taken) {
                    Place::Store(begin) => Place::Store(begin + inside),
                    other => other,
                };
                match &mut run {
                    None => run = Some(Run { place, length }),
                    Some(run) if run.goes_on_at(place) => run.length += length,
                    Some(_) => break,
                }
                at += u64::from(length);
            }
            run.map(|run| (begin, run))
        })
    }

    /// The pieces of a range of which all has room in the store: where, and how long.
    fn store_runs(
        &self,
        offset: u64,
        length: u32,
        taken: &[(u64, u64)],
    ) -> impl Iterator<Item = (u64, u32)> {
        self.runs(offset, length, taken)
            .filter_map(|(_, run)| match run.place {
                Place::Store(at) => Some((at, run.length)),
                Place::Base | Place::Zeros => None,
            })
    }

    fn place(&self, chunk: u64, taken: &[(u64, u64)]) -> Place {
        match taken.binary_search_by_key(&chunk, |(chunk, _)| *chunk) {
            Ok(found) => Place::Store(taken[found].1),
            Err(_) => self.map.place(chunk),
        }
    }
}

impl Run {
    fn goes_on_at(&self, place: Place) -> bool {
        match (self.place, place) {
            (Place::Store(at), Place::Store(next)) => at + u64::from(self.length) == next,
            (before, next) => before == next,
        }
    }
}
