//! `thin`: disks that take room from a common store as they are written to, and give it back. Together they may
//! be larger than the store; when that is full, writes that need room fail with "no space".
//!
//! Store: `pool` the room of all volumes. One of them is served at a time, as a store has one user.
//! Options: `volume=N` the number of the disk; `size` its size, when it is made, or to make it larger;
//! `delete=N` a volume to be deleted before; `chunk` bytes that are taken at a time (64K), fixed when the pool is
//! made; `block` the logical block in bytes (512, or what the pool takes); `format=yes` lets it overwrite a pool
//! that is neither empty nor its own.
//! Memory: 8 bytes for each chunk of the pool, and 4 for each of the volume.
//!
//! The pool begins with a record ([`Twin`]): the volumes, each with its size and its *birth*, a number that no
//! other volume of the pool ever had. Then there is a number for each chunk of the pool ([`Table`]): whose it is
//! (birth and place in the volume), or 0. So a volume is deleted by its line in the record: its birth is of nobody
//! then. A chunk that was given back is used again when the table without it is durable; until then only its own
//! place may have it again. Where the pool does not flush, nothing becomes durable any more until the device is
//! added anew: nobody knows what it lacks.

mod pool;
mod volume;

use wasmblk_durable::Chunks;
use wasmblk_guest::{Answer, Data, Errno, Info, Mapper, OpenError, Options, Store, export_mapper};

use pool::Pool;
use volume::Volume;

struct Thin(Chunks<Volume>);

fn number(options: Options<'_>, key: &str) -> Result<Option<u32>, OpenError> {
    let Some(value) = options.last(key) else {
        return Ok(None);
    };
    let number = value.parse().ok().filter(|number| *number > 0);
    number
        .map(Some)
        .ok_or_else(|| OpenError::BadOption(format!("{key}={value}: expected a number from 1 on")))
}

impl Mapper for Thin {
    fn open(options: &[(String, String)]) -> Result<(Thin, Info), OpenError> {
        let known = ["volume", "size", "delete", "chunk", "block", "format"];
        let options = Options::new("thin", &known, options)?;
        let missing = || OpenError::BadOption("'volume' is missing: give --set volume=1".into());
        let volume = number(options, "volume")?.ok_or_else(missing)?;
        let store = Store::need("pool")?;
        if store.read_only {
            let text = "the store 'pool' is read-only: grant it without ':ro'";
            return Err(OpenError::BadOption(text.into()));
        }
        let block = options.block([&store])?;
        let size = options.size("size")?;
        if let Some(size) = size.filter(|size| *size == 0 || !size.is_multiple_of(block.into())) {
            return Err(OpenError::BadOption(format!(
                "size={size}: expected a multiple of {block}, such as 10G"
            )));
        }
        let mut pool = Pool::open(store, options)?;
        match number(options, "delete")? {
            Some(deleted) if deleted == volume => {
                let text =
                    format!("delete={deleted}: this is the volume to be served; name another");
                return Err(OpenError::BadOption(text));
            }
            Some(deleted) => pool.delete(deleted),
            None => {}
        }
        let served = pool.volume(volume, size)?;
        let size_bytes = served.size_bytes;
        Options::check_size(size_bytes, block)?;
        let map = Volume::open(&pool, served)?;
        if size_bytes > served.before_bytes {
            let cleared = map.clear_behind(store, served.before_bytes);
            cleared.map_err(pool::failed)?;
        }
        let sizes = (pool.chunk_bytes, size_bytes);
        let chunks = Chunks::new(map, store, None, sizes);
        let info = chunks.info(block);
        // Behind all that may refuse.
        pool.save()?;
        Ok((Thin(chunks), info))
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

export_mapper!(Thin);
