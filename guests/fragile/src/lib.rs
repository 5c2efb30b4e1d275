//! `fragile`: a store passed through this guest's memory, by a guest that breaks. Each instance adds 1 to the
//! number that the store `count` begins with; the first `panics` ones panic at their first read of the device's
//! second block of 4 KiB.
//!
//! Options: `panics` (1); `restartable` (yes); `memory` to take, and the longest `transfer`, in bytes (none; 64K).
//! Stores `data` and `count`.

use std::cell::Cell;

use wasmblk_guest::{Disk, Errno, Features, Info, OpenError, Store, export_ring, parse_size};

struct Fragile {
    data: Store,
    breaks: Cell<bool>,
}

const BLOCK_BYTES: usize = 4096;

/// Data that makes this guest as large as an ordinary one, for the bench of its restart.
static BALLAST: [u8; 1 << 20] = [7; 1 << 20];

/// Takes memory for good.
fn take(bytes: u64) {
    std::hint::black_box(vec![1_u8; bytes as usize]).leak();
}

impl Disk for Fragile {
    fn open(options: &[(String, String)]) -> Result<(Fragile, Info), OpenError> {
        let (mut panics, mut features, mut transfer) = (1, Features::RESTARTABLE, 64 << 10);
        for (key, value) in options {
            match (key.as_str(), value.as_str()) {
                ("panics", number) => panics = number.parse().unwrap_or(1),
                ("memory", bytes) => take(parse_size(bytes).unwrap_or(0)),
                ("transfer", bytes) => transfer = parse_size(bytes).unwrap_or(0) as u32,
                ("restartable", "no") => features = Features::empty(),
                ("restartable", _) => {}
                _ => return Err(OpenError::BadOption(format!("unknown option '{key}'"))),
            }
        }
        std::hint::black_box(&BALLAST);
        let (data, count) = (Store::need("data")?, Store::need("count")?);
        let failed = |errno: Errno| OpenError::Other(format!("the store 'count': {errno:?}"));
        let mut number = [0; 8];
        count.read_now(0, &mut number).map_err(failed)?;
        let before = u64::from_le_bytes(number);
        count
            .write_now(0, &(before + 1).to_le_bytes())
            .map_err(failed)?;
        let disk = Fragile {
            data,
            breaks: Cell::new(before < panics),
        };
        let info = Info {
            max_transfer_bytes: transfer,
            features,
            ..Info::new(data.size_bytes)
        };
        Ok((disk, info))
    }

    async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let end = offset + data.len() as u64;
        if self.breaks.get() && offset < 2 * BLOCK_BYTES as u64 && end > BLOCK_BYTES as u64 {
            panic!("told to panic");
        }
        self.data.read(offset, data).await
    }

    async fn write(&self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Errno> {
        self.data.write(offset, data).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        self.data.flush().await
    }
}

export_ring!(Fragile);
