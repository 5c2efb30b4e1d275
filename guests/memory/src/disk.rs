//! A RAM disk by chunks.

use std::cell::RefCell;

use wasmblk_guest::{Disk, Errno, Features, Info, OpenError, parse_size};

/// What is allocated at a time: large enough to keep the table small (8 bytes for each chunk of the
/// disk), small enough that scattered writes do not take much more than they hold.
const CHUNK_BYTES: u64 = 64 << 10;

/// The disk, by chunks; a chunk that is not there reads as zeros.
struct Table(Vec<Option<Box<[u8]>>>);

/// The part of one chunk that a request touches.
struct Part {
    chunk: usize,
    start: usize,
    length: usize,
}

/// Splits `length` bytes at `offset` at the borders of chunks.
fn parts(offset: u64, length: u64) -> impl Iterator<Item = Part> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at % CHUNK_BYTES;
        let length = (CHUNK_BYTES - start).min(end - at);
        let chunk = at / CHUNK_BYTES;
        at += length;
        // Each of the three fits usize, as the table of chunks does.
        (length > 0).then_some(Part {
            chunk: chunk as usize,
            start: start as usize,
            length: length as usize,
        })
    })
}

impl Table {
    fn new(size_bytes: u64) -> Option<Table> {
        let chunks = usize::try_from(size_bytes.div_ceil(CHUNK_BYTES)).ok()?;
        let mut table = Vec::new();
        table.try_reserve_exact(chunks).ok()?;
        table.resize_with(chunks, || None);
        Some(Table(table))
    }

    fn read(&self, offset: u64, mut data: &mut [u8]) {
        for part in parts(offset, data.len() as u64) {
            let (now, rest) = data.split_at_mut(part.length);
            match &self.0[part.chunk] {
                Some(chunk) => now.copy_from_slice(&chunk[part.start..][..part.length]),
                None => now.fill(0),
            }
            data = rest;
        }
    }

    /// A chunk to write to, made now if it was not there.
    fn chunk_mut(&mut self, chunk: usize) -> Result<&mut [u8], Errno> {
        Ok(match &mut self.0[chunk] {
            Some(chunk) => chunk,
            empty => empty.insert(new_chunk()?),
        })
    }

    fn write(&mut self, offset: u64, mut data: &[u8]) -> Result<(), Errno> {
        for part in parts(offset, data.len() as u64) {
            let (now, rest) = data.split_at(part.length);
            self.chunk_mut(part.chunk)?[part.start..][..part.length].copy_from_slice(now);
            data = rest;
        }
        Ok(())
    }

    /// Makes a range zeros that keeps its room: later writes to it cannot fail.
    fn zero(&mut self, offset: u64, length: u64) -> Result<(), Errno> {
        for part in parts(offset, length) {
            self.chunk_mut(part.chunk)?[part.start..][..part.length].fill(0);
        }
        Ok(())
    }

    /// Makes a range zeros; chunks that lie in it as a whole are given back.
    fn clear(&mut self, offset: u64, length: u64) {
        for part in parts(offset, length) {
            let entry = &mut self.0[part.chunk];
            if part.length as u64 == CHUNK_BYTES {
                *entry = None;
            } else if let Some(chunk) = entry {
                chunk[part.start..][..part.length].fill(0);
            }
        }
    }
}

/// A chunk of zeros, or the errno for a memory limit that is reached.
fn new_chunk() -> Result<Box<[u8]>, Errno> {
    let mut chunk = Vec::new();
    chunk
        .try_reserve_exact(CHUNK_BYTES as usize)
        .map_err(|_| Errno::NoSpace)?;
    chunk.resize(CHUNK_BYTES as usize, 0);
    Ok(chunk.into_boxed_slice())
}

/// The disk. No request waits, so none finds the table borrowed.
pub(crate) struct Memory(RefCell<Table>);

impl Disk for Memory {
    fn open(options: &[(String, String)]) -> Result<(Memory, Info), OpenError> {
        let mut size = None;
        let mut block = 512;
        let number = |key: &str, value: &str| {
            parse_size(value).map_err(|why| OpenError::BadOption(format!("{key}={value}: {why}")))
        };
        for (key, value) in options {
            match key.as_str() {
                "size" => size = Some(number(key, value)?),
                "block" => block = number(key, value)?,
                _ => {
                    let text = format!("unknown option '{key}'; memory knows: size, block");
                    return Err(OpenError::BadOption(text));
                }
            }
        }
        let missing = || OpenError::BadOption("'size' is missing: give --set size=1G".into());
        let size_bytes = size.ok_or_else(missing)?;
        let table = Table::new(size_bytes).ok_or_else(|| {
            let table = size_bytes.div_ceil(CHUNK_BYTES).saturating_mul(8);
            OpenError::BadOption(format!(
                "size={size_bytes}: its table alone needs {table} bytes, more than this guest may have"
            ))
        })?;
        let info = Info {
            logical_block_bytes: block.try_into().unwrap_or(u32::MAX),
            max_transfer_bytes: 1 << 20,
            features: Features::WRITE_THROUGH,
            discard_granularity_bytes: CHUNK_BYTES as u32,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
            ..Info::new(size_bytes)
        };
        Ok((Memory(RefCell::new(table)), info))
    }

    async fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0.borrow().read(offset, data);
        Ok(())
    }

    async fn write(&self, offset: u64, data: &[u8], _fua: bool) -> Result<(), Errno> {
        self.0.borrow_mut().write(offset, data)
    }

    async fn discard(&self, offset: u64, length: u32) -> Result<(), Errno> {
        self.0.borrow_mut().clear(offset, length.into());
        Ok(())
    }

    async fn write_zeroes(&self, offset: u64, length: u32, may: bool) -> Result<(), Errno> {
        let mut table = self.0.borrow_mut();
        if !may {
            return table.zero(offset, length.into());
        }
        table.clear(offset, length.into());
        Ok(())
    }
}
