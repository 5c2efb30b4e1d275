//! `linear`: parts of stores, one behind the other, as one disk: to put disks together, or to show a window of
//! one.
//!
//! Options: `map=STORE[,OFFSET[,LENGTH]]` a part, in the order given: from OFFSET (0) on, LENGTH bytes (all that
//! is behind OFFSET); both are multiples of the block. Without `map` the disk is the store `data`, whole.
//! `block` the logical block in bytes (512, or what the stores take).
//! Stores: those that `map` names.

use wasmblk_guest::{
    Answer, Data, Errno, Features, Info, Mapper, OpenError, Options, Store, all, export_mapper,
    parse_size,
};

struct Linear(Vec<Segment>);

/// A part of a store, as a part of the disk.
#[derive(Clone, Copy)]
struct Segment {
    store: Store,
    /// Where it lies in the store.
    offset: u64,
    length: u64,
    /// Where it lies in the disk.
    begin: u64,
}

/// The part of a request that lies in one segment.
#[derive(Clone, Copy)]
struct Part {
    store: Store,
    at: u64,
    length: u32,
}

impl Segment {
    fn parse(words: &str, store: Store, begin: u64, block: u32) -> Result<Segment, OpenError> {
        let bad = |what: &str| OpenError::BadOption(format!("map={words}: {what}"));
        let mut fields = words.split(',').skip(1);
        let mut number = || fields.next().map(parse_size).transpose().map_err(bad);
        let (offset, length) = (number()?.unwrap_or(0), number()?);
        if fields.next().is_some() {
            return Err(bad("expected STORE[,OFFSET[,LENGTH]]"));
        }
        let behind = store.size_bytes.saturating_sub(offset);
        // What is left of a last block is not used.
        let length = length.unwrap_or(behind / u64::from(block) * u64::from(block));
        if !offset.is_multiple_of(block.into()) || !length.is_multiple_of(block.into()) {
            return Err(bad(&format!(
                "offset and length must be multiples of {block}"
            )));
        }
        if length == 0 || length > behind {
            return Err(bad(&format!(
                "the store has {} bytes; it must lie inside",
                store.size_bytes
            )));
        }
        Ok(Segment {
            store,
            offset,
            length,
            begin,
        })
    }
}

/// The name of the store of which a part is.
fn name_of(words: &str) -> &str {
    words.split(',').next().unwrap_or_default()
}

/// Two parts of the disk must not be the same bytes.
fn check_apart(segments: &[Segment], names: &[&str]) -> Result<(), OpenError> {
    for (at, one) in segments.iter().enumerate() {
        for (before, other) in segments[..at].iter().enumerate() {
            let overlap =
                one.offset < other.offset + other.length && other.offset < one.offset + one.length;
            if overlap && name_of(names[at]) == name_of(names[before]) {
                return Err(OpenError::BadOption(format!(
                    "map={} and map={} overlap; each byte of a store may be used once",
                    names[before], names[at]
                )));
            }
        }
    }
    Ok(())
}

impl Linear {
    fn parts(&self, offset: u64, length: u32) -> impl Iterator<Item = Part> {
        let mut place = self
            .0
            .partition_point(|segment| segment.begin + segment.length <= offset);
        let (mut at, mut left) = (offset, length);
        std::iter::from_fn(move || {
            let segment = self.0.get(place).filter(|_| left > 0)?;
            let inside = at - segment.begin;
            // No longer than what is left, which is a u32.
            let length = (segment.length - inside).min(left.into()) as u32;
            let store = segment.store;
            let at_store = segment.offset + inside;
            place += 1;
            at += u64::from(length);
            left -= length;
            Some(Part {
                store,
                at: at_store,
                length,
            })
        })
    }

    /// The part of a request that lies in one segment as a whole.
    fn one_part(&self, offset: u64, data: Data) -> Option<Part> {
        let first = self.parts(offset, data.bytes()).next();
        first.filter(|part| part.length == data.bytes())
    }

    /// The parts of a request, each with its part of the data.
    fn parts_of(&self, offset: u64, data: Data) -> impl Iterator<Item = (Part, Data)> {
        let mut rest = data;
        self.parts(offset, data.bytes()).map(move |part| {
            let (now, later) = rest.split_at(part.length);
            rest = later;
            (part, now)
        })
    }
}

impl Mapper for Linear {
    fn open(options: &[(String, String)]) -> Result<(Linear, Info), OpenError> {
        let options = Options::new("linear", &["map", "block"], options)?;
        let mut names: Vec<&str> = options.all("map").collect();
        if names.is_empty() {
            names.push("data");
        }
        let stores = names.iter().map(|words| Store::need(name_of(words)));
        let stores: Vec<Store> = stores.collect::<Result<_, _>>()?;
        let block = options.block(&stores)?;
        let mut segments = Vec::new();
        let mut size_bytes = 0;
        for (words, store) in names.iter().zip(stores) {
            let segment = Segment::parse(words, store, size_bytes, block)?;
            size_bytes += segment.length;
            segments.push(segment);
        }
        check_apart(&segments, &names)?;
        let best = segments.iter().map(|segment| segment.store.block_bytes);
        let info = Info {
            logical_block_bytes: block,
            physical_block_bytes: best.max().unwrap_or(block).max(block),
            max_transfer_bytes: 1 << 20,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
            // All that there is lies in the stores, for any number of instances.
            features: Features::FUA | Features::REPLICATED | Features::RESTARTABLE,
            ..Info::new(size_bytes)
        };
        let read_only = segments.iter().any(|segment| segment.store.read_only);
        Ok((Linear(segments), info.with_read_only(read_only)))
    }

    async fn read(&self, offset: u64, data: Data) -> Result<Answer, Errno> {
        if let Some(part) = self.one_part(offset, data) {
            return Ok(part.store.answer_read(part.at, data));
        }
        let parts = self.parts_of(offset, data);
        all(parts.map(|(part, data)| async move { part.store.read_to(part.at, data).await }))
            .await
            .map(Answer::from)
    }

    async fn write(&self, offset: u64, data: Data, fua: bool) -> Result<Answer, Errno> {
        if let Some(part) = self.one_part(offset, data) {
            return Ok(part.store.answer_write(part.at, data, fua));
        }
        let parts = self.parts_of(offset, data);
        all(parts
            .map(|(part, data)| async move { part.store.write_from(part.at, data, fua).await }))
        .await
        .map(Answer::from)
    }

    async fn flush(&self) -> Result<(), Errno> {
        all(self.0.iter().map(|segment| segment.store.flush())).await
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        let parts = self.parts(offset, length);
        all(parts.map(|part| async move { part.store.discard(part.at, part.length).await })).await
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        let parts = self.parts(offset, length);
        all(parts
            .map(|part| async move { part.store.write_zeroes(part.at, part.length, may).await }))
        .await
    }
}

export_mapper!(Linear);
