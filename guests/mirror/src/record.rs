//! What each leg keeps of the mirror: one record, the same on all of them but for whose it is.

use wasmblk_durable::{BODY_BYTES, Kind};

/// Most legs.
pub(crate) const LEGS_MAX: usize = 4;

/// Bytes of the record before the bits of regions.
const HEAD_BYTES: usize = 96;

/// Most regions: one bit each.
pub(crate) const REGIONS_MAX: u64 = (BODY_BYTES - HEAD_BYTES) as u64 * 8;

pub(crate) static KIND: Kind = Kind {
    name: "mirror",
    magic: *b"WBLKMIRR",
    version: 1,
};

/// How a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It has all data, but in regions that are dirty perhaps not what the others have.
    In,
    /// It is written to; in regions that are dirty it may have old data.
    Rebuilding,
    /// It is not used. It has all data but that of regions that were dirty at any time since.
    Out,
}

impl State {
    fn from_byte(byte: u8) -> State {
        match byte {
            0 => State::In,
            1 => State::Rebuilding,
            _ => State::Out,
        }
    }
}

/// What is fixed when a mirror is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) id: u64,
    pub(crate) size_bytes: u64,
    pub(crate) region_bytes: u64,
    pub(crate) legs: usize,
}

/// The record, without whose it is.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) shape: Shape,
    pub(crate) states: [State; LEGS_MAX],
    /// Of legs that are out, the generation of the newest record that they must have.
    pub(crate) left: [u64; LEGS_MAX],
    /// Of each leg, the generation of the newest record that it can have from those who wrote this one.
    pub(crate) sent: [u64; LEGS_MAX],
    /// One bit for each region.
    pub(crate) dirty: Vec<u8>,
}

impl Record {
    /// As bytes, for the leg in this place.
    pub(crate) fn encode(&self, place: usize) -> Vec<u8> {
        let mut body = Vec::with_capacity(BODY_BYTES);
        body.extend(self.shape.id.to_le_bytes());
        body.extend(self.shape.size_bytes.to_le_bytes());
        body.extend(self.shape.region_bytes.to_le_bytes());
        body.extend([self.shape.legs as u8, place as u8, 0, 0]);
        body.extend(self.states.map(|state| state as u8));
        let generations = self.left.iter().chain(&self.sent);
        body.extend(generations.flat_map(|generation| generation.to_le_bytes()));
        body.extend(&self.dirty);
        body
    }

    /// From bytes, with the place of the leg that has it.
    pub(crate) fn decode(body: &[u8]) -> (Record, usize) {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&body[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let record = Record {
            shape: Shape {
                id: number(0),
                size_bytes: number(8),
                region_bytes: number(16),
                legs: body[24].into(),
            },
            states: std::array::from_fn(|place| State::from_byte(body[28 + place])),
            left: std::array::from_fn(|place| number(32 + place * 8)),
            sent: std::array::from_fn(|place| number(64 + place * 8)),
            dirty: body[HEAD_BYTES..].to_vec(),
        };
        (record, body[25].into())
    }
}
