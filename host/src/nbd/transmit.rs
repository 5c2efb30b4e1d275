//! One request of the transmission phase: check, serve, reply. Longer requests than the guest takes are
//! split here; what it cannot do is made from what it can.

use super::decode::Header;
use super::encode;
use super::handshake::Session;
use super::wire::{chunk, command};
use crate::block::{Backend, Errno, Geometry, Op, Request};
use crate::limits;
use crate::serve::serve;
use crate::stats::Stats;

/// What all connections of a device share.
pub struct Export<'a> {
    /// Size and shape.
    pub geometry: Geometry,
    /// What serves.
    pub backend: &'a mut dyn Backend,
    /// Counters.
    pub stats: &'a Stats,
    /// Zeros to write for a guest that has no write-zeroes, as many as its longest transfer.
    pub zeros: Vec<u8>,
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export")
            .field("geometry", &self.geometry)
            .finish_non_exhaustive()
    }
}

impl Export<'_> {
    /// Carries out one request other than DISC and appends its reply. `payload` is a write's data.
    pub(super) fn answer(
        &mut self,
        header: &Header,
        payload: &mut [u8],
        session: Session,
        output: &mut Vec<u8>,
    ) {
        let begin = output.len();
        let outcome = match header.command {
            _ if !flags_are_known(header, session) => Err(Errno::EINVAL),
            command::READ => return self.read(header, session, output),
            command::WRITE => self.pieces(Op::Write, header, payload),
            command::FLUSH => self.one(request(Op::Flush, 0, 0, header), &mut []),
            command::TRIM => self.trim(header),
            command::WRITE_ZEROES => self.write_zeroes(header),
            command::BLOCK_STATUS if session.block_status => {
                let outcome = self.check_whole(Op::Read, header);
                if outcome.is_ok() {
                    encode::allocated_chunk(output, header.cookie, header.length);
                    return;
                }
                outcome
            }
            _ => Err(Errno::EINVAL),
        };
        debug_assert_eq!(output.len(), begin, "nothing was replied yet");
        self.reply(header, outcome, session, output);
    }

    /// The reply to a request without data.
    fn reply(
        &mut self,
        header: &Header,
        outcome: Result<(), Errno>,
        session: Session,
        output: &mut Vec<u8>,
    ) {
        let error = outcome.map_or_else(encode::error_number, |()| 0);
        if let Err(errno) = outcome {
            self.stats.count_error();
            if session.structured {
                encode::error_chunk(output, header.cookie, error, &errno.to_string());
                return;
            }
        }
        if session.structured {
            output.extend_from_slice(&encode::only_chunk(header.cookie, chunk::NONE, 0));
        } else {
            output.extend_from_slice(&encode::simple_reply(header.cookie, error));
        }
    }

    /// A read fills its place in the output; where it fails, the reply there becomes an error.
    fn read(&mut self, header: &Header, session: Session, output: &mut Vec<u8>) {
        let begin = output.len();
        if header.length == 0 || header.length > limits::NBD_PAYLOAD_BYTES_MAX {
            return self.reply(header, Err(Errno::EINVAL), session, output);
        }
        if session.structured {
            let head = encode::only_chunk(header.cookie, chunk::OFFSET_DATA, 8 + header.length);
            output.extend_from_slice(&head);
            output.extend_from_slice(&header.offset.to_be_bytes());
        } else {
            output.extend_from_slice(&encode::simple_reply(header.cookie, 0));
        }
        let data = output.len();
        output.resize(data + header.length as usize, 0);
        if let Err(errno) = self.pieces(Op::Read, header, &mut output[data..]) {
            output.truncate(begin);
            self.reply(header, Err(errno), session, output);
        }
    }

    fn trim(&mut self, header: &Header) -> Result<(), Errno> {
        self.check_whole(Op::Discard, header)?;
        match self.geometry.trim.map_or(0, |trim| trim.max_discard_bytes) {
            0 => Err(Errno::EOPNOTSUPP),
            length_max => self.without_data(Op::Discard, header, length_max),
        }
    }

    fn write_zeroes(&mut self, header: &Header) -> Result<(), Errno> {
        self.check_whole(Op::WriteZeroes, header)?;
        let length_max = self
            .geometry
            .trim
            .map_or(0, |trim| trim.max_write_zeroes_bytes);
        if length_max > 0 {
            return self.without_data(Op::WriteZeroes, header, length_max);
        }
        let mut zeros = std::mem::take(&mut self.zeros);
        let mut outcome = Ok(());
        let (mut offset, mut left) = (header.offset, header.length as usize);
        while left > 0 && outcome.is_ok() {
            let now = left.min(zeros.len());
            let length = u32::try_from(now).unwrap_or(u32::MAX);
            outcome = self.one(
                request(Op::Write, offset, length, header),
                &mut zeros[..now],
            );
            offset = offset.saturating_add(now as u64);
            left -= now;
        }
        self.zeros = zeros;
        outcome
    }

    /// Discard and write-zeroes in pieces that the guest takes.
    fn without_data(&mut self, op: Op, header: &Header, length_max: u32) -> Result<(), Errno> {
        let (mut offset, mut left) = (header.offset, header.length);
        while left > 0 {
            let now = left.min(length_max);
            self.one(request(op, offset, now, header), &mut [])?;
            offset = offset.saturating_add(now.into());
            left -= now;
        }
        Ok(())
    }

    /// A read or write in pieces that the guest takes.
    fn pieces(&mut self, op: Op, header: &Header, data: &mut [u8]) -> Result<(), Errno> {
        self.check_whole(op, header)?;
        let mut offset = header.offset;
        for piece in data.chunks_mut(self.geometry.max_transfer_bytes as usize) {
            let length = u32::try_from(piece.len()).map_err(|_| Errno::EINVAL)?;
            self.one(request(op, offset, length, header), piece)?;
            offset = offset.saturating_add(length.into());
        }
        Ok(())
    }

    fn one(&mut self, request: Request, data: &mut [u8]) -> Result<(), Errno> {
        let checked = request.check(&self.geometry)?;
        serve(&checked, &self.geometry, self.backend, data, self.stats).map(drop)
    }

    /// Refuses a request as a whole, so that none of its pieces is done before another is refused.
    fn check_whole(&self, op: Op, header: &Header) -> Result<(), Errno> {
        request(op, header.offset, header.length, header).check_range(&self.geometry)
    }
}

/// Whether the client set only flags that this command has, and that were agreed on.
fn flags_are_known(header: &Header, session: Session) -> bool {
    let own = match header.command {
        command::READ if session.structured => command::FLAG_DF,
        command::WRITE_ZEROES => command::FLAG_NO_HOLE,
        command::BLOCK_STATUS => command::FLAG_REQ_ONE,
        _ => 0,
    };
    header.flags & !(own | command::FLAG_FUA) == 0
}

/// A piece of a client's request, with its flags.
fn request(op: Op, offset: u64, length: u32, header: &Header) -> Request {
    Request {
        op,
        offset,
        length,
        fua: header.has(command::FLAG_FUA),
        may_discard: !header.has(command::FLAG_NO_HOLE),
    }
}
