//! One request of a client on its way: the pieces that the guest takes, and what came of them. Pure.

use super::decode::Header;
use super::encode::{Framing, To};
use super::handshake::{Offer, Session};
use super::refusal::Refusal;
use super::wire::command;
use crate::block::{Errno, Geometry, Op, Request};
use crate::limits;

/// How a request is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Each piece is sent when it is there.
    Read,
    /// All pieces are collected, then sent: the client takes the data in one chunk only.
    ReadWhole,
    /// Read, and not sent: what lies behind the guest may keep it.
    Cache,
    Write,
    Flush,
    Trim,
    WriteZeroes,
    /// Zeros for a guest that has no write-zeroes.
    WriteOfZeros,
}

/// A request that was let in. It is split where it is longer than the guest takes at a time.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) header: Header,
    pub(super) kind: Kind,
    framing: Framing,
    /// Where the next piece begins.
    next: u64,
    /// Bytes from there that no piece has yet; of a flush, 1 until it has begun.
    left: u64,
    in_flight: u32,
    error: Option<Errno>,
    /// What [`Kind::ReadWhole`] collects.
    pub(super) collected: Vec<u8>,
}

impl Operation {
    /// Lets a request other than DISC and BLOCK_STATUS in, as a whole, so that none of its pieces is done
    /// before another is refused.
    pub(super) fn new(
        header: Header,
        session: Session,
        offer: &Offer,
    ) -> Result<Operation, Refusal> {
        let geometry = &offer.geometry;
        let (op, kind) = match header.command {
            command::READ => (Op::Read, read_kind(&header, session, geometry)?),
            command::WRITE => (Op::Write, Kind::Write),
            command::FLUSH => (Op::Flush, Kind::Flush),
            command::TRIM => (Op::Discard, Kind::Trim),
            command::CACHE => (Op::Read, Kind::Cache),
            command::WRITE_ZEROES => (Op::WriteZeroes, zeroes_kind(&header, offer)?),
            _ => return Err(Refusal::Command),
        };
        if kind != Kind::Flush {
            geometry
                .check_range(op, header.offset, header.length)
                .map_err(Refusal::Range)?;
        }
        if kind == Kind::Trim && geometry.trim.is_none_or(|trim| trim.max_discard_bytes == 0) {
            return Err(Refusal::Lacks);
        }
        let mut collected = Vec::new();
        if kind == Kind::ReadWhole {
            // Not more than the longest payload.
            collected.resize(usize::try_from(header.length).unwrap_or(0), 0);
        }
        Ok(Operation {
            header,
            kind,
            framing: session.framing,
            next: header.offset,
            left: if kind == Kind::Flush {
                1
            } else {
                header.length
            },
            in_flight: 0,
            error: None,
            collected,
        })
    }

    pub(super) fn to(&self) -> To {
        To {
            framing: self.framing,
            cookie: self.header.cookie,
            offset: self.header.offset,
        }
    }

    /// The next piece, if there is one.
    pub(super) fn piece(&self, geometry: &Geometry) -> Option<Request> {
        let trim = geometry.trim;
        let (op, length_max) = match self.kind {
            Kind::Read | Kind::ReadWhole | Kind::Cache => (Op::Read, piece_bytes_max(geometry)),
            Kind::Write | Kind::WriteOfZeros => (Op::Write, piece_bytes_max(geometry)),
            Kind::Flush => (Op::Flush, 0),
            Kind::Trim => (Op::Discard, trim.map_or(0, |trim| trim.max_discard_bytes)),
            Kind::WriteZeroes => (
                Op::WriteZeroes,
                trim.map_or(0, |trim| trim.max_write_zeroes_bytes),
            ),
        };
        let length = u32::try_from(self.left).unwrap_or(u32::MAX).min(length_max);
        (self.left > 0).then_some(Request {
            op,
            offset: if op == Op::Flush { 0 } else { self.next },
            length,
            fua: self.header.has(command::FLAG_FUA),
            may_discard: !self.header.has(command::FLAG_NO_HOLE),
        })
    }

    /// The next piece is under way.
    pub(super) fn begin(&mut self, piece: &Request) {
        self.in_flight += 1;
        self.next = self.next.saturating_add(piece.length.into());
        self.left = match piece.op {
            Op::Flush => 0,
            _ => self.left.saturating_sub(piece.length.into()),
        };
    }

    /// A piece is answered. After an error, no further piece begins; bytes of a write's payload that no
    /// piece has are the result.
    pub(super) fn answered(&mut self, result: Result<(), Errno>) -> u64 {
        self.in_flight = self.in_flight.saturating_sub(1);
        match result {
            Ok(()) => 0,
            Err(errno) => self.fail(errno),
        }
    }

    /// No further piece begins.
    pub(super) fn fail(&mut self, errno: Errno) -> u64 {
        self.error.get_or_insert(errno);
        let left = std::mem::take(&mut self.left);
        if self.kind == Kind::Write { left } else { 0 }
    }

    pub(super) fn error(&self) -> Option<Errno> {
        self.error
    }

    /// All pieces are answered.
    pub(super) fn is_over(&self) -> bool {
        self.in_flight == 0 && self.left == 0
    }

    /// Whether a piece of a read is all there is.
    pub(super) fn is_complete(&self) -> bool {
        self.is_over() && self.error.is_none()
    }
}

/// Longest piece of a read or write.
fn piece_bytes_max(geometry: &Geometry) -> u32 {
    geometry.max_transfer_bytes.min(limits::NBD_PIECE_BYTES_MAX)
}

/// A read has a limit. Where its reply cannot be made of several chunks, its pieces have to wait for each
/// other.
fn read_kind(header: &Header, session: Session, geometry: &Geometry) -> Result<Kind, Refusal> {
    if header.length > limits::NBD_PAYLOAD_BYTES_MAX.into() {
        return Err(Refusal::TooLong);
    }
    let one_chunk = session.framing == Framing::Simple || header.has(command::FLAG_DF);
    if one_chunk && header.length > piece_bytes_max(geometry).into() {
        // Before that much memory is taken for it.
        geometry
            .check_range(Op::Read, header.offset, header.length)
            .map_err(Refusal::Range)?;
        return Ok(Kind::ReadWhole);
    }
    Ok(Kind::Read)
}

fn zeroes_kind(header: &Header, offer: &Offer) -> Result<Kind, Refusal> {
    if header.has(command::FLAG_FAST_ZERO) && !offer.fast_zero {
        return Err(Refusal::Slow);
    }
    Ok(if offer.geometry.has_write_zeroes() {
        Kind::WriteZeroes
    } else {
        Kind::WriteOfZeros
    })
}

/// Whether the client set only flags that this command has, and that were agreed on.
pub(super) fn flags_are_known(header: &Header, session: Session) -> bool {
    let own = match header.command {
        command::READ if session.framing != Framing::Simple => command::FLAG_DF,
        command::WRITE if session.framing == Framing::Extended => command::FLAG_PAYLOAD_LEN,
        command::WRITE_ZEROES => command::FLAG_NO_HOLE | command::FLAG_FAST_ZERO,
        command::BLOCK_STATUS => command::FLAG_REQ_ONE,
        _ => 0,
    };
    header.flags & !(own | command::FLAG_FUA) == 0
}
