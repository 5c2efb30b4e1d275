//! A record that is replaced as a whole: two places, of which the one that is not the newest is written next.

use std::cell::{Cell, RefCell};

use wasmblk_guest::{Errno, OpenError, Scratch, Store};

use crate::sum::crc32c;

/// Bytes of one place: magic (8), version (4), checksum (4) of all but itself, generation (8), body.
const PLACE_BYTES: usize = 4096;
const HEAD_BYTES: usize = 24;
const SUM: std::ops::Range<usize> = 12..16;

/// Bytes of a record that are the guest's.
pub const BODY_BYTES: usize = PLACE_BYTES - HEAD_BYTES;

/// Longest read or write at a time while a guest opens.
const STEP_BYTES: usize = 1 << 20;

/// Whose record it is.
#[derive(Debug)]
pub struct Kind {
    /// The guest's name.
    pub name: &'static str,
    /// What the record begins with.
    pub magic: [u8; 8],
    /// The layout that this guest knows.
    pub version: u32,
}

/// The part of a store that is not data, and begins with the record.
#[derive(Clone, Copy, Debug)]
pub struct Area<'a> {
    /// The store, at whose begin it is.
    pub store: Store,
    /// Its name, for messages.
    pub name: &'a str,
    /// How long it is.
    pub bytes: u64,
    /// What is in it that is not this guest's may be overwritten.
    pub format: bool,
}

impl Area<'_> {
    fn check_size(&self, kind: &Kind, needs: u64) -> Result<(), OpenError> {
        let (name, has) = (self.name, self.store.size_bytes);
        if has >= needs {
            return Ok(());
        }
        Err(other(format!(
            "store '{name}' has {has} bytes; {} needs {needs} for itself alone",
            kind.name
        )))
    }
}

/// The two places of a record, at the begin of a store.
#[derive(Debug)]
pub struct Twin {
    kind: &'static Kind,
    store: Store,
    /// The place with the newest record.
    newest: Cell<usize>,
    generation: Cell<u64>,
    /// Where a record is put together.
    buffer: RefCell<Option<Scratch>>,
}

/// A record without what [`Twin`] keeps in it.
pub type Body = Box<[u8]>;

/// What is in one place.
enum Place {
    Empty,
    /// A record, and its version, generation and body.
    Record(u32, u64, Body),
    /// A record that was not written to its end, or has rotted.
    Damaged,
    Other,
}

impl Twin {
    /// Bytes that it takes.
    pub const BYTES: u64 = 2 * PLACE_BYTES as u64;

    /// Looks for the record of a store, and gives its body: nothing where the area is all zeros, or may be
    /// overwritten, or was being made when the power went. Then [`Twin::make_now`] makes it. Only in `open`.
    ///
    /// # Errors
    ///
    /// Where there is something else, or of another version, or damaged.
    pub fn open(kind: &'static Kind, area: &Area<'_>) -> Result<(Twin, Option<Body>), OpenError> {
        let Area { store, name, .. } = *area;
        area.check_size(kind, Twin::BYTES)?;
        let twin = Twin {
            kind,
            store,
            newest: Cell::new(1),
            generation: Cell::new(0),
            buffer: RefCell::new(Some(Scratch::new(PLACE_BYTES))),
        };
        let places = [twin.look(0, name)?, twin.look(1, name)?];
        if let Some(body) = twin.newest_of(&places, area)? {
            return Ok((twin, Some(body)));
        }
        area.check_size(kind, area.bytes)?;
        let begun = match places {
            [Place::Empty, Place::Empty] => is_zero(area, 0)?,
            // The first record goes to the first place.
            [Place::Damaged, Place::Empty] => is_zero(area, PLACE_BYTES as u64)?,
            _ => false,
        };
        if !begun && !area.format {
            let damaged = places.iter().any(|place| matches!(place, Place::Damaged));
            let what = if damaged {
                format!(
                    "what {} keeps at the begin of store '{name}' is damaged",
                    kind.name
                )
            } else {
                format!("store '{name}' is neither empty nor of {}", kind.name)
            };
            return Err(other(format!(
                "{what}; to lose what is in it, give --set format=yes"
            )));
        }
        if !begun {
            make_zero(area)?;
        }
        Ok((twin, None))
    }

    /// The newest of the records, where there is one.
    fn newest_of(&self, places: &[Place], area: &Area<'_>) -> Result<Option<Body>, OpenError> {
        let mut newest = None;
        for (number, place) in places.iter().enumerate() {
            if let Place::Record(version, generation, body) = place
                && newest.is_none_or(|(_, before, _, _)| *generation > before)
            {
                newest = Some((number, *generation, *version, body));
            }
        }
        let Some((number, generation, version, body)) = newest else {
            return Ok(None);
        };
        if version != self.kind.version {
            if area.format {
                return Ok(None);
            }
            return Err(other(format!(
                "store '{}' is of {} version {version}; this one knows version {}: use the guest that made \
                 it, or, to lose what is in it, give --set format=yes",
                area.name, self.kind.name, self.kind.version
            )));
        }
        self.newest.set(number);
        self.generation.set(generation);
        Ok(Some(body.clone()))
    }

    fn look(&self, number: usize, name: &str) -> Result<Place, OpenError> {
        let mut bytes = vec![0; PLACE_BYTES];
        let read = self
            .store
            .read_now((number * PLACE_BYTES) as u64, &mut bytes);
        read.map_err(|errno| unreadable(name, errno))?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Place::Empty);
        }
        if bytes[..8] != self.kind.magic {
            return Ok(Place::Other);
        }
        let sum = number_at(&bytes, SUM);
        bytes[SUM].fill(0);
        if sum != crc32c(&bytes) {
            return Ok(Place::Damaged);
        }
        let version = number_at(&bytes, 8..12);
        let mut generation = [0; 8];
        generation.copy_from_slice(&bytes[16..24]);
        let body = bytes[HEAD_BYTES..].into();
        Ok(Place::Record(version, u64::from_le_bytes(generation), body))
    }

    /// The generation of the newest record: each has a higher one than that before.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    fn encode(&self, generation: u64, body: &[u8], bytes: &mut [u8]) {
        bytes.fill(0);
        bytes[..8].copy_from_slice(&self.kind.magic);
        bytes[8..12].copy_from_slice(&self.kind.version.to_le_bytes());
        bytes[16..24].copy_from_slice(&generation.to_le_bytes());
        bytes[HEAD_BYTES..][..body.len()].copy_from_slice(body);
        let sum = crc32c(bytes);
        bytes[SUM].copy_from_slice(&sum.to_le_bytes());
    }

    /// Writes the first record to an area of zeros. A power cut leaves either nothing, or what
    /// [`Twin::open`] knows as begun. Only in `open`.
    ///
    /// # Errors
    ///
    /// The store's.
    pub fn make_now(&self, generation: u64, body: &[u8]) -> Result<(), Errno> {
        // Its first sector alone, so that of the rest nothing can be there without it.
        let mut bytes = vec![0; PLACE_BYTES];
        bytes[..8].copy_from_slice(&self.kind.magic);
        self.store.write_now(0, &bytes)?;
        self.store.flush_now()?;
        self.newest.set(1);
        self.write_now(generation, body)
    }

    /// Replaces the record, and waits until that is durable. Only in `open`.
    ///
    /// # Errors
    ///
    /// The store's: then either record may be found.
    pub fn write_now(&self, generation: u64, body: &[u8]) -> Result<(), Errno> {
        let mut bytes = vec![0; PLACE_BYTES];
        self.encode(generation, body, &mut bytes);
        let number = 1 - self.newest.get();
        self.store
            .write_now((number * PLACE_BYTES) as u64, &bytes)?;
        self.store.flush_now()?;
        self.newest.set(number);
        self.generation.set(generation);
        Ok(())
    }

    /// Replaces the record; it is durable when this is done. One at a time.
    ///
    /// # Errors
    ///
    /// As [`Twin::write_now`].
    pub async fn write(&self, generation: u64, body: &[u8]) -> Result<(), Errno> {
        let Some(mut buffer) = self.buffer.take() else {
            return Err(Errno::Io);
        };
        self.encode(generation, body, buffer.bytes_mut());
        let number = 1 - self.newest.get();
        let at = (number * PLACE_BYTES) as u64;
        let written = self.store.write_durable(at, buffer.bytes()).await;
        self.buffer.replace(Some(buffer));
        written?;
        self.newest.set(number);
        self.generation.set(generation);
        Ok(())
    }
}

fn number_at(bytes: &[u8], range: std::ops::Range<usize>) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[range]);
    u32::from_le_bytes(number)
}

fn is_zero(area: &Area<'_>, begin: u64) -> Result<bool, OpenError> {
    let mut bytes = vec![0; STEP_BYTES];
    let mut at = begin;
    while at < area.bytes {
        let part = &mut bytes[..(area.bytes - at).min(STEP_BYTES as u64) as usize];
        let read = area.store.read_now(at, part);
        read.map_err(|errno| unreadable(area.name, errno))?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

fn make_zero(area: &Area<'_>) -> Result<(), OpenError> {
    let bytes = vec![0; STEP_BYTES];
    let mut at = 0;
    while at < area.bytes {
        let part = &bytes[..(area.bytes - at).min(STEP_BYTES as u64) as usize];
        let written = area.store.write_now(at, part);
        written.map_err(|errno| unwritable(area.name, errno))?;
        at += part.len() as u64;
    }
    let flushed = area.store.flush_now();
    flushed.map_err(|errno| unwritable(area.name, errno))
}

fn unreadable(name: &str, errno: Errno) -> OpenError {
    other(format!("store '{name}' cannot be read: {errno:?}"))
}

fn unwritable(name: &str, errno: Errno) -> OpenError {
    other(format!("store '{name}' cannot be written: {errno:?}"))
}

fn other(text: String) -> OpenError {
    OpenError::Other(text)
}
