//! `mirror`: RAID-1. Every leg has all data; reads take turns between the legs, writes go to all.
//!
//! Options: `legs=A,B[,C[,D]]` the stores, always in this order; `block` the logical block in bytes (512, or what
//! the legs take). When the mirror is made: `id` a word that tells it from other mirrors; `region` how much a bit
//! of the dirty log stands for (4M, or more where the disk is large); `format=yes` lets it overwrite a leg that
//! is neither empty nor its own. `degraded=yes`: legs may be missing, and with them what only they have. `rate`
//! bytes a second that are copied to make legs equal (64M); `calm-ms` after which time without a write a region
//! is clean (1000); `retry-ms` after which time a leg that is out is tried again (60000; 0 for never), but not
//! one that could not be read when the mirror was opened.
//! Stores: those that `legs` names. Memory: 5 bytes for each region, of which there are at most 31808.
//!
//! Each leg begins with a record of 4 KiB ([`wasmblk_durable::Twin`]), the same on all: what the mirror is, how
//! each leg is, and one bit for each region that is dirty. Before a region is written to, its bit is on all legs;
//! it goes when nobody wrote there for a while and all legs were flushed. So after a power cut legs differ in
//! dirty regions only, in what was not flushed: these are read from the first leg until they are copied from there
//! to the others. If that leg fails before, the next takes its place, with what it has of what was not flushed.
//!
//! A leg that fails is out: before anything is answered that it lacks, the others have that in their records.
//! While a leg is out no bit goes, so what it lacks when it comes back is what is dirty. It is written to again
//! from then on, and read from when all that has been copied. A leg that is new, or whose record is older than it
//! must be, gets everything.

mod assemble;
mod bell;
mod legs;
mod record;
mod regions;
mod resync;

use std::rc::Rc;
use std::time::Duration;

use wasmblk_guest::{
    Answer, Data, Errno, Features, Info, Mapper, OpenError, Options, Scratch, export_mapper,
    run_in_background,
};

use legs::{DATA_BEGIN, Legs};
use resync::{PIECE_BYTES, Pace};

struct Mirror(Rc<Legs>);

const KNOWN: [&str; 9] = [
    "legs", "block", "id", "region", "format", "degraded", "rate", "calm-ms", "retry-ms",
];

fn pace(options: Options<'_>) -> Result<Pace, OpenError> {
    let number = |key: &str, default: u64| Ok(options.size(key)?.unwrap_or(default));
    let rate = number("rate", 64 << 20)?;
    if rate == 0 {
        let text = "rate=0: legs would never be equal; give some bytes a second, such as 64M";
        return Err(OpenError::BadOption(text.into()));
    }
    Ok(Pace {
        rate,
        calm: Duration::from_millis(number("calm-ms", 1000)?),
        retry: Duration::from_millis(number("retry-ms", 60_000)?),
    })
}

impl Mapper for Mirror {
    fn open(options: &[(String, String)]) -> Result<(Mirror, Info), OpenError> {
        let options = Options::new("mirror", &KNOWN, options)?;
        let pace = pace(options)?;
        let (legs, [block, physical_block]) = assemble::assemble(options)?;
        let legs = Rc::new(legs);
        let info = Info {
            logical_block_bytes: block,
            physical_block_bytes: physical_block,
            max_transfer_bytes: 1 << 20,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
            // All that was answered is on the legs; what they do not know is found out again.
            features: Features::FUA | Features::RESTARTABLE,
            ..Info::new(legs.shape.size_bytes)
        };
        let buffer = Scratch::new(PIECE_BYTES as usize);
        run_in_background(resync::run(legs.clone(), pace, buffer));
        Ok((Mirror(legs), info))
    }

    async fn read(&self, offset: u64, data: Data) -> Result<Answer, Errno> {
        self.0.read(offset, data).await.map(Answer::from)
    }

    async fn write(&self, offset: u64, data: Data, fua: bool) -> Result<Answer, Errno> {
        let write = async |store: wasmblk_guest::Store| {
            store.write_from(DATA_BEGIN + offset, data, fua).await
        };
        let changed = self.0.change(offset, data.bytes(), write).await;
        changed.map(Answer::from)
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.0.flush().await
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        // Legs that forget may remember differently.
        self.write_zeroes(offset, length, true).await
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        let zero = async |store: wasmblk_guest::Store| {
            store.write_zeroes(DATA_BEGIN + offset, length, may).await
        };
        self.0.change(offset, length, zero).await
    }
}

export_mapper!(Mirror);
