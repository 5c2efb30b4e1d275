//! What guests keep in stores beside data, so that it survives a power cut at any time. Of a store this is
//! assumed: a sector of 512 bytes is written as a whole or not at all, and what was written before a flush is
//! there after it. Everything else may be lost, in any order.
//!
//! * [`Twin`]: one record of 4 KiB that is replaced as a whole.
//! * [`Table`]: many numbers, of which a few change at a time.
//! * [`Chunks`]: a disk whose chunks lie where a [`Map`] says, with room that is taken as it is needed.

mod buffers;
mod chunks;
mod map;
mod space;
mod sum;
mod table;
mod twin;

pub use buffers::Buffers;
pub use chunks::Chunks;
pub use map::{Map, Place};
pub use space::Space;
pub use sum::{crc32c, hash};
pub use table::Table;
pub use twin::{Area, BODY_BYTES, Body, Kind, Twin};
