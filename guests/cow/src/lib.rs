//! `cow`: a disk that begins as another one, which stays as it is. What is written goes to a store of its own.
//!
//! Stores: `base` what the disk begins as, read-only; `overlay` what is written. The overlay may be smaller than
//! the base: when it is full, writes to chunks that are not in it fail with "no space".
//! Options: `chunk` bytes that are taken at a time (64K), fixed when the overlay is made; `block` the logical
//! block in bytes (512, or what the stores take); `format=yes` lets it overwrite an overlay that is neither empty
//! nor its own.
//! Memory: 8 bytes for each chunk of the base.
//!
//! The overlay begins with a record ([`Twin`]) of what it is, then has a number for each chunk of the base
//! ([`Table`]: 0 as in the base, 1 zeros, from 2 on 2 more than where it lies), then chunks. The first write to a
//! chunk copies the rest of it from the base. A write is in the overlay, and its chunk is found, after the next
//! flush: the map is written when the data is durable. A chunk that is given up is used again when the map
//! without it is durable. Where the overlay does not flush, nothing becomes durable any more until the device is
//! added anew: nobody knows what it lacks.

mod overlay;

use wasmblk_durable::{Area, BODY_BYTES, Chunks, Kind, Table, Twin};
use wasmblk_guest::{Answer, Data, Errno, Info, Mapper, OpenError, Options, Store, export_mapper};

use overlay::Overlay;

struct Cow(Chunks<Overlay>);

static KIND: Kind = Kind {
    name: "cow",
    magic: *b"WBLKCOW\0",
    version: 1,
};

/// What the record says.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    base_bytes: u64,
    chunk_bytes: u64,
}

impl Shape {
    fn chunks(self) -> u64 {
        self.base_bytes.div_ceil(self.chunk_bytes)
    }

    /// Where in the overlay the first chunk lies.
    fn data_begin(self) -> u64 {
        Twin::BYTES + Table::bytes(self.chunks())
    }

    fn to_body(self) -> [u8; 16] {
        let mut body = [0; 16];
        body[..8].copy_from_slice(&self.base_bytes.to_le_bytes());
        body[8..].copy_from_slice(&self.chunk_bytes.to_le_bytes());
        body
    }

    fn from_body(body: &[u8]) -> Shape {
        debug_assert_eq!(body.len(), BODY_BYTES);
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&body[at..at + 8]);
            u64::from_le_bytes(number)
        };
        Shape {
            base_bytes: number(0),
            chunk_bytes: number(8),
        }
    }
}

/// Finds out what the overlay is. Where it is to become one, with the record that is to be made.
fn shape(
    (base, overlay): (Store, Store),
    options: Options<'_>,
    block: u32,
) -> Result<(Shape, Option<Twin>), OpenError> {
    // What is left of a last block is not used.
    let wanted = Shape {
        base_bytes: base.size_bytes / u64::from(block) * u64::from(block),
        chunk_bytes: options.chunk()?,
    };
    let area = Area {
        store: overlay,
        name: "overlay",
        bytes: wanted.data_begin(),
        format: options.is_yes("format")?,
    };
    let (twin, body) = Twin::open(&KIND, &area)?;
    let Some(body) = body else {
        return Ok((wanted, Some(twin)));
    };
    let found = Shape::from_body(&body);
    Options::check_size(found.base_bytes, block)?;
    let (was, is) = (found.base_bytes, wanted.base_bytes);
    if was != is {
        return Err(OpenError::Other(format!(
            "the overlay is of a base of {was} bytes, and this base has {is}: grant it the base that it was made \
             for, or give --set format=yes with an overlay whose first {} bytes are zeros",
            Twin::BYTES
        )));
    }
    let chunk = found.chunk_bytes;
    if options.last("chunk").is_some() && wanted != found {
        return Err(OpenError::BadOption(format!(
            "chunk: the overlay was made with chunk={chunk}; leave it out"
        )));
    }
    Ok((found, None))
}

impl Mapper for Cow {
    fn open(options: &[(String, String)]) -> Result<(Cow, Info), OpenError> {
        let options = Options::new("cow", &["chunk", "block", "format"], options)?;
        let (base, overlay) = (Store::need("base")?, Store::need("overlay")?);
        let block = options.block([&base, &overlay])?;
        if overlay.read_only {
            let text = "the store 'overlay' is read-only: grant it without ':ro'";
            return Err(OpenError::BadOption(text.into()));
        }
        let (shape, to_make) = shape((base, overlay), options, block)?;
        let map = Overlay::open(overlay, shape)?;
        let sizes = (shape.chunk_bytes, shape.base_bytes);
        let chunks = Chunks::new(map, overlay, Some(base), sizes);
        let info = chunks.info(block);
        // Behind all that may refuse.
        if let Some(twin) = to_make {
            let made = twin.make_now(1, &shape.to_body());
            made.map_err(|errno| {
                OpenError::Other(format!("the overlay cannot be written: {errno:?}"))
            })?;
        }
        Ok((Cow(chunks), info))
    }

    async fn read(&self, offset: u64, data: Data) -> Result<Answer, Errno> {
        self.0.read(offset, data).await.map(Answer::from)
    }

    async fn write(&self, offset: u64, data: Data, _fua: bool) -> Result<Answer, Errno> {
        self.0.write(offset, data).await.map(Answer::from)
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        self.0.discard(offset, length).await
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        self.0.write_zeroes(offset, length, may).await
    }
}

export_mapper!(Cow);
