//! `stripe`: RAID-0. The chunks of the disk lie on all stores in turn, so that long requests, and many at a
//! time, use all of them. Where one store is lost, all is.
//!
//! Options: `stores=A,B[,...]` the stores, in this order; `chunk` bytes of a chunk (64K); `block` the logical
//! block in bytes (512, or what the stores take). Nothing on the stores says how they belong together: it takes the
//! same options again.
//! Stores: those that `stores` names. Each is used as far as the smallest goes.

use wasmblk_guest::{
    Answer, Data, Errno, Features, Info, Mapper, OpenError, Options, Store, all, export_mapper,
};

struct Stripe {
    stores: Vec<Store>,
    chunk: u64,
}

/// The part of a request that lies in one chunk.
struct Part {
    store: Store,
    at: u64,
    data: Data,
}

/// The part of a range that lies on one store: there it is in one piece.
struct Share {
    store: Store,
    at: u64,
    length: u32,
}

impl Stripe {
    fn parts(&self, offset: u64, data: Data) -> impl Iterator<Item = Part> {
        let (mut at, mut rest) = (offset, data);
        let stores = self.stores.len() as u64;
        std::iter::from_fn(move || {
            if rest.bytes() == 0 {
                return None;
            }
            let (number, inside) = (at / self.chunk, at % self.chunk);
            // No longer than the rest, which is a u32.
            let length = (self.chunk - inside).min(rest.bytes().into()) as u32;
            let (data, later) = rest.split_at(length);
            rest = later;
            at += u64::from(length);
            Some(Part {
                // There are few stores.
                store: self.stores[(number % stores) as usize],
                at: number / stores * self.chunk + inside,
                data,
            })
        })
    }

    /// The part of a request that lies in one chunk as a whole.
    fn one_part(&self, offset: u64, data: Data) -> Option<Part> {
        let first = self.parts(offset, data).next();
        first.filter(|part| part.data.bytes() == data.bytes())
    }

    /// How many of the disk's first bytes lie on a store.
    fn bytes_before(&self, offset: u64, place: usize) -> u64 {
        let row = self.chunk * self.stores.len() as u64;
        let in_row = (offset % row).saturating_sub(place as u64 * self.chunk);
        offset / row * self.chunk + in_row.min(self.chunk)
    }

    fn shares(&self, offset: u64, length: u32) -> impl Iterator<Item = Share> {
        let shares = self.stores.iter().enumerate().map(move |(place, store)| {
            let at = self.bytes_before(offset, place);
            let end = self.bytes_before(offset + u64::from(length), place);
            Share {
                store: *store,
                at,
                // No longer than all, which is a u32.
                length: (end - at) as u32,
            }
        });
        shares.filter(|share| share.length > 0)
    }
}

impl Mapper for Stripe {
    fn open(options: &[(String, String)]) -> Result<(Stripe, Info), OpenError> {
        let options = Options::new("stripe", &["stores", "chunk", "block"], options)?;
        let chunk = options.chunk()?;
        let missing = || {
            let text =
                "'stores' is missing: give --set stores=A,B with the names of two or more stores";
            OpenError::BadOption(text.into())
        };
        let stores = Store::need_all("stores", options.last("stores").ok_or_else(missing)?)?;
        let block = options.block(&stores)?;
        let smallest = stores.iter().map(|store| store.size_bytes).min();
        let rows = smallest.unwrap_or(0) / chunk;
        if rows == 0 {
            return Err(OpenError::BadOption(format!(
                "chunk={chunk}: the smallest store has not so much; give a smaller chunk"
            )));
        }
        let best = stores.iter().map(|store| store.block_bytes).max();
        let info = Info {
            logical_block_bytes: block,
            physical_block_bytes: best.unwrap_or(block).max(block),
            max_transfer_bytes: 1 << 20,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
            // All that there is lies in the stores, for any number of instances.
            features: Features::FUA | Features::REPLICATED | Features::RESTARTABLE,
            ..Info::new(rows * chunk * stores.len() as u64)
        };
        let read_only = stores.iter().any(|store| store.read_only);
        Ok((Stripe { stores, chunk }, info.with_read_only(read_only)))
    }

    async fn read(&self, offset: u64, data: Data) -> Result<Answer, Errno> {
        if let Some(part) = self.one_part(offset, data) {
            return Ok(part.store.answer_read(part.at, data));
        }
        let parts = self.parts(offset, data);
        all(parts.map(|part| async move { part.store.read_to(part.at, part.data).await }))
            .await
            .map(Answer::from)
    }

    async fn write(&self, offset: u64, data: Data, fua: bool) -> Result<Answer, Errno> {
        if let Some(part) = self.one_part(offset, data) {
            return Ok(part.store.answer_write(part.at, data, fua));
        }
        let parts = self.parts(offset, data);
        all(parts.map(|part| async move { part.store.write_from(part.at, part.data, fua).await }))
            .await
            .map(Answer::from)
    }

    async fn flush(&self) -> Result<(), Errno> {
        all(self.stores.iter().map(Store::flush)).await
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        let shares = self.shares(offset, length);
        all(shares.map(|share| async move { share.store.discard(share.at, share.length).await }))
            .await
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        let shares = self.shares(offset, length);
        all(shares.map(|share| async move {
            share.store.write_zeroes(share.at, share.length, may).await
        }))
        .await
    }
}

export_mapper!(Stripe);
