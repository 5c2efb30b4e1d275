//! `memory`: a RAM disk. Only what was written takes memory; discarded blocks give it back to be
//! used for others. Everything is lost with the instance.
//!
//! Options: `size` in bytes, with K, M, G or T (required); `block` the logical block in bytes (512).

wit_bindgen::generate!({ world: "disk-with-trim", path: "../../wit" });

use std::cell::RefCell;

use exports::wasmblk::block::{device, trim};
use wasmblk::block::host::{Level, log};
use wasmblk::block::types::Errno;
use wasmblk_guest::parse_size;

/// What is allocated at a time: large enough to keep the table small (8 bytes for each chunk of the
/// disk), small enough that scattered writes do not take much more than they hold.
const CHUNK_BYTES: u64 = 64 << 10;

/// The disk, by chunks; a chunk that is not there reads as zeros.
struct Disk(Vec<Option<Box<[u8]>>>);

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

impl Disk {
    fn new(size_bytes: u64) -> Option<Disk> {
        let chunks = usize::try_from(size_bytes.div_ceil(CHUNK_BYTES)).ok()?;
        let mut table = Vec::new();
        table.try_reserve_exact(chunks).ok()?;
        table.resize_with(chunks, || None);
        Some(Disk(table))
    }

    fn read(&self, offset: u64, length: u32) -> Vec<u8> {
        let mut data = Vec::with_capacity(length as usize);
        for part in parts(offset, length.into()) {
            match &self.0[part.chunk] {
                Some(chunk) => data.extend_from_slice(&chunk[part.start..][..part.length]),
                None => data.resize(data.len() + part.length, 0),
            }
        }
        data
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

thread_local! {
    static DISK: RefCell<Disk> = const { RefCell::new(Disk(Vec::new())) };
}

struct Memory;

impl device::Guest for Memory {
    fn open(options: Vec<(String, String)>) -> Result<device::Geometry, device::OpenError> {
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        let mut size = None;
        let mut block = 512;
        let number = |key: &str, value: &str| {
            parse_size(value)
                .map_err(|why| device::OpenError::BadOption(format!("{key}={value}: {why}")))
        };
        for (key, value) in &options {
            match key.as_str() {
                "size" => size = Some(number(key, value)?),
                "block" => block = number(key, value)?,
                _ => {
                    let text = format!("unknown option '{key}'; memory knows: size, block");
                    return Err(device::OpenError::BadOption(text));
                }
            }
        }
        let missing =
            || device::OpenError::BadOption("'size' is missing: give --set size=1G".into());
        let size_bytes = size.ok_or_else(missing)?;
        let disk = Disk::new(size_bytes).ok_or_else(|| {
            let table = size_bytes.div_ceil(CHUNK_BYTES).saturating_mul(8);
            device::OpenError::BadOption(format!(
                "size={size_bytes}: its table alone needs {table} bytes, more than this guest may have"
            ))
        })?;
        DISK.set(disk);
        Ok(device::Geometry {
            size_bytes,
            logical_block_bytes: block.try_into().unwrap_or(u32::MAX),
            physical_block_bytes: 4096,
            max_transfer_bytes: 1 << 20,
            features: device::Features::WRITE_THROUGH,
        })
    }

    fn read(offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        Ok(DISK.with_borrow(|disk| disk.read(offset, length)))
    }

    fn write(offset: u64, data: Vec<u8>, _fua: bool) -> Result<(), Errno> {
        DISK.with_borrow_mut(|disk| disk.write(offset, &data))
    }

    fn flush() -> Result<(), Errno> {
        Ok(())
    }
}

impl trim::Guest for Memory {
    fn limits() -> trim::TrimLimits {
        trim::TrimLimits {
            granularity_bytes: CHUNK_BYTES as u32,
            max_discard_bytes: 1 << 30,
            max_write_zeroes_bytes: 1 << 30,
        }
    }

    fn discard(offset: u64, length: u32) -> Result<(), Errno> {
        DISK.with_borrow_mut(|disk| disk.clear(offset, length.into()));
        Ok(())
    }

    fn write_zeroes(offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        DISK.with_borrow_mut(|disk| {
            if !may_discard {
                return disk.zero(offset, length.into());
            }
            disk.clear(offset, length.into());
            Ok(())
        })
    }
}

export!(Memory);
