//! The record of a pool: its volumes.

use wasmblk_durable::{Area, BODY_BYTES, Kind, Table, Twin};
use wasmblk_guest::{Errno, OpenError, Options, Store};

static KIND: Kind = Kind {
    name: "thin",
    magic: *b"WBLKTHIN",
    version: 1,
};

/// Most volumes of a pool: their lines, behind the head, fit the record.
const VOLUMES_MAX: usize = 250;
/// Chunk (8), slots (4), next birth (4).
const HEAD_BYTES: usize = 16;
/// Number (4), birth (4), size (8).
const LINE_BYTES: usize = 16;
const _: () = assert!(HEAD_BYTES + VOLUMES_MAX * LINE_BYTES <= BODY_BYTES);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    number: u32,
    birth: u32,
    size_bytes: u64,
}

/// A volume that is to be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    pub(crate) birth: u32,
    /// As the record in the store has it; 0 where it has no such volume.
    pub(crate) before_bytes: u64,
    pub(crate) size_bytes: u64,
}

/// What is known of a pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) store: Store,
    pub(crate) chunk_bytes: u64,
    /// Chunks that it has.
    pub(crate) slots: u32,
    next_birth: u32,
    lines: Vec<Line>,
    twin: Twin,
    is_new: bool,
    is_saved: bool,
}

impl Pool {
    /// Reads the record, or begins a pool that has none: it has one after [`Pool::save`].
    pub(crate) fn open(store: Store, options: Options<'_>) -> Result<Pool, OpenError> {
        let chunk_bytes = options.chunk()?;
        let slots = slots(store.size_bytes, chunk_bytes);
        let area = Area {
            store,
            name: "pool",
            bytes: data_begin(slots),
            format: options.is_yes("format")?,
        };
        let (twin, body) = Twin::open(&KIND, &area)?;
        let mut pool = Pool {
            store,
            chunk_bytes,
            slots,
            next_birth: 1,
            lines: Vec::new(),
            twin,
            is_new: body.is_none(),
            is_saved: false,
        };
        if let Some(body) = body {
            pool.decode(&body);
            pool.is_saved = true;
            pool.check(options)?;
        } else if slots == 0 {
            return Err(OpenError::Other(format!(
                "the store 'pool' has {} bytes, too few for one chunk of {chunk_bytes}",
                store.size_bytes
            )));
        }
        Ok(pool)
    }

    fn check(&self, options: Options<'_>) -> Result<(), OpenError> {
        let chunk = self.chunk_bytes;
        if options.last("chunk").is_some() && options.chunk()? != chunk {
            return Err(OpenError::BadOption(format!(
                "chunk: the pool was made with chunk={chunk}; leave it out"
            )));
        }
        let needs = data_begin(self.slots).saturating_add(u64::from(self.slots) * chunk);
        if self.store.size_bytes < needs {
            return Err(OpenError::Other(format!(
                "the store 'pool' has {} bytes, and was made with at least {needs}: it is not all there",
                self.store.size_bytes
            )));
        }
        Ok(())
    }

    /// The place of a slot in the store.
    pub(crate) fn data_begin(&self) -> u64 {
        data_begin(self.slots)
    }

    /// Whether a volume has this birth.
    pub(crate) fn has_birth(&self, birth: u32) -> bool {
        self.lines.iter().any(|line| line.birth == birth)
    }

    /// Forgets a volume, where there is one: what it has is free when the record is saved.
    pub(crate) fn delete(&mut self, number: u32) {
        let before = self.lines.len();
        self.lines.retain(|line| line.number != number);
        self.is_saved &= before == self.lines.len();
    }

    /// A volume, which is made where it is not there.
    pub(crate) fn volume(&mut self, number: u32, size: Option<u64>) -> Result<Served, OpenError> {
        let bad = |text: String| Err(OpenError::BadOption(text));
        if let Some(line) = self.lines.iter_mut().find(|line| line.number == number) {
            let size_bytes = size.unwrap_or(line.size_bytes);
            if size_bytes < line.size_bytes {
                return bad(format!(
                    "size={size_bytes}: volume {number} has {} bytes, and cannot become smaller",
                    line.size_bytes
                ));
            }
            let before_bytes = std::mem::replace(&mut line.size_bytes, size_bytes);
            self.is_saved &= size_bytes == before_bytes;
            return Ok(Served {
                birth: line.birth,
                before_bytes,
                size_bytes,
            });
        }
        let Some(size_bytes) = size else {
            return bad(format!(
                "there is no volume {number}; to make it, give --set size=10G"
            ));
        };
        if self.lines.len() == VOLUMES_MAX || self.next_birth == u32::MAX {
            return bad(format!(
                "volume={number}: the pool has no room for a further one; delete one with --set delete=N"
            ));
        }
        let birth = self.next_birth;
        self.next_birth += 1;
        self.lines.push(Line {
            number,
            birth,
            size_bytes,
        });
        self.is_saved = false;
        Ok(Served {
            birth,
            before_bytes: 0,
            size_bytes,
        })
    }

    /// Makes the record durable, where it has changed.
    pub(crate) fn save(&mut self) -> Result<(), OpenError> {
        if self.is_saved {
            return Ok(());
        }
        let (body, next) = (self.encode(), self.twin.generation() + 1);
        let saved = if self.is_new {
            self.twin.make_now(next, &body)
        } else {
            self.twin.write_now(next, &body)
        };
        saved.map_err(failed)?;
        (self.is_new, self.is_saved) = (false, true);
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        body.extend(self.chunk_bytes.to_le_bytes());
        body.extend(self.slots.to_le_bytes());
        body.extend(self.next_birth.to_le_bytes());
        for line in &self.lines {
            body.extend(line.number.to_le_bytes());
            body.extend(line.birth.to_le_bytes());
            body.extend(line.size_bytes.to_le_bytes());
        }
        body
    }

    fn decode(&mut self, body: &[u8]) {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&body[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        self.chunk_bytes = long(0);
        self.slots = word(8);
        self.next_birth = word(12);
        let lines = (0..VOLUMES_MAX).map(|line| HEAD_BYTES + line * LINE_BYTES);
        let lines = lines.map(|at| Line {
            number: word(at),
            birth: word(at + 4),
            size_bytes: long(at + 8),
        });
        self.lines = lines.take_while(|line| line.number != 0).collect();
    }
}

/// What the operator is told where the pool fails.
pub(crate) fn failed(errno: Errno) -> OpenError {
    OpenError::Other(format!("the store 'pool' cannot be written: {errno:?}"))
}

/// Where the first chunk lies.
fn data_begin(slots: u32) -> u64 {
    Twin::BYTES + Table::bytes(slots.into())
}

/// How many chunks a store has room for, each with its number in the table.
fn slots(size_bytes: u64, chunk_bytes: u64) -> u32 {
    let room = size_bytes.saturating_sub(Twin::BYTES);
    let mut slots = room / chunk_bytes;
    loop {
        let needs = Table::bytes(slots) + slots * chunk_bytes;
        if needs <= room {
            return u32::try_from(slots).unwrap_or(u32::MAX);
        }
        slots -= (needs - room).div_ceil(chunk_bytes).min(slots);
    }
}
