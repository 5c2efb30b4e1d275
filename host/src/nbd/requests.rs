//! From a client's bytes to requests in the guest's hands, and from the guest's answers to replies.

use super::connection::{Connection, Export, Filling, Phase, Stop};
use super::decode::{self, Decoded, Header};
use super::encode::{self, Framing, To};
use super::handshake::{Session, Step};
use super::operation::{Kind, Operation, flags_are_known};
use super::pool::{Owner, Pool};
use super::refusal::Refusal;
use super::wire::command;
use crate::block::{Errno, Op, Request};
use crate::limits;

impl Connection {
    /// Takes requests off the input and lets their pieces begin, until something stops it.
    pub(super) fn issue(&mut self, export: &mut Export<'_, '_>) {
        if self.stop == Stop::Ending {
            return;
        }
        for _ in 0..limits::NBD_TURN_REQUESTS_MAX {
            let step = match self.current {
                _ if self.skipping > 0 => self.skip(),
                Some(current) => self.go_on(current, export),
                None => self.message(export),
            };
            if let Err(stop) = step {
                self.stop = stop;
                return;
            }
        }
        self.stop = Stop::Turn;
    }

    fn skip(&mut self) -> Result<(), Stop> {
        let bytes = usize::try_from(self.skipping).unwrap_or(usize::MAX);
        let bytes = bytes.min(self.staging.bytes().len());
        self.staging.used(bytes);
        self.skipping -= bytes as u64;
        if self.skipping > 0 {
            return Err(Stop::Input);
        }
        Ok(())
    }

    fn message(&mut self, export: &mut Export<'_, '_>) -> Result<(), Stop> {
        if self.is_full() {
            return Err(Stop::Full);
        }
        match &mut self.phase {
            Phase::Handshake(handshake) => {
                if self.start_tls {
                    return Err(Stop::Tls);
                }
                let (input, offer) = (self.staging.bytes(), export.offer);
                let step = self
                    .outgoing
                    .head(|output| handshake.step(input, offer, output));
                self.haggled(step)
            }
            Phase::Transmit(session) => {
                let session = *session;
                self.request(session, export)
            }
        }
    }

    fn haggled(&mut self, step: Step) -> Result<(), Stop> {
        match step {
            Step::Incomplete => return Err(Stop::Input),
            Step::Used(bytes) => self.staging.used(bytes),
            Step::Transmit(bytes, session) => {
                self.staging.used(bytes);
                self.phase = Phase::Transmit(session);
            }
            Step::StartTls(bytes) => {
                self.staging.used(bytes);
                // What came in the open must not be taken for encrypted.
                if !self.staging.is_empty() {
                    return Err(Stop::Ending);
                }
                self.start_tls = true;
            }
            Step::Close => return Err(Stop::Ending),
        }
        Ok(())
    }

    /// One request's header.
    fn request(&mut self, session: Session, export: &mut Export<'_, '_>) -> Result<(), Stop> {
        let extended = session.framing == Framing::Extended;
        let (header, bytes) = match decode::header(self.staging.bytes(), extended) {
            Decoded::Incomplete => return Err(Stop::Input),
            Decoded::Garbage => return Err(Stop::Ending),
            Decoded::Request(header, bytes) => (header, bytes),
        };
        let payload_bytes = header.payload_bytes(extended);
        // A payload that is too long cannot be skipped with a bound; the client was told the limit.
        if header.command == command::DISC || payload_bytes > limits::NBD_PAYLOAD_BYTES_MAX.into() {
            return Err(Stop::Ending);
        }
        self.staging.used(bytes);
        self.writes_much = payload_bytes >= limits::NBD_LARGE_WRITE_BYTES;
        let to = To {
            framing: session.framing,
            cookie: header.cookie,
            offset: header.offset,
        };
        if let Err(refusal) = self.let_in(header, to, session, export) {
            self.skipping = payload_bytes;
            self.refuse(refusal, to, &header, export);
        }
        Ok(())
    }

    fn let_in(
        &mut self,
        header: Header,
        to: To,
        session: Session,
        export: &Export<'_, '_>,
    ) -> Result<(), Refusal> {
        let geometry = export.engine.geometry();
        if !flags_are_known(&header, session) {
            return Err(Refusal::Flags);
        }
        if header.command == command::BLOCK_STATUS && session.block_status {
            geometry
                .check_range(Op::Read, header.offset, header.length)
                .map_err(Refusal::Range)?;
            let length = header.length;
            self.outgoing
                .head(|output| encode::allocated(output, to, length));
            return Ok(());
        }
        let operation = Operation::new(header, session, export.offer)?;
        let place = self.operations.iter().position(Option::is_none);
        let place = place.unwrap_or_else(|| {
            self.operations.push(None);
            self.operations.len() - 1
        });
        if operation.kind == Kind::ReadWhole {
            self.reading += operation.collected.len();
        }
        self.operations[place] = Some(operation);
        self.current = Some(place);
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal, to: To, header: &Header, export: &Export<'_, '_>) {
        export.engine.stats().count_error();
        let geometry = export.engine.geometry();
        self.outgoing
            .head(|output| refusal.reply(output, to, header, geometry));
    }

    /// Lets one more piece of the current operation begin.
    fn go_on(&mut self, current: usize, export: &mut Export<'_, '_>) -> Result<(), Stop> {
        let geometry = export.engine.geometry();
        let next = self.operations[current]
            .as_ref()
            .and_then(|operation| Some((operation.kind, operation.piece(geometry)?)));
        let Some((kind, piece)) = next else {
            self.current = None;
            self.end_if_over(current, export);
            return Ok(());
        };
        // What is collected was counted as a whole.
        let reads = piece.op == Op::Read && kind != Kind::ReadWhole;
        if reads && self.is_full() {
            return Err(Stop::Full);
        }
        let slot = match self.filling {
            Some(filling) => filling.slot,
            None => export
                .pool
                .take(self.owner(current, &piece))
                .ok_or(Stop::Slots)?,
        };
        match kind {
            Kind::Write => self.fill(slot, piece, export.pool)?,
            Kind::WriteOfZeros => export.pool.slots.zero(slot, 0, piece.length as usize),
            _ => {}
        }
        if let Some(operation) = &mut self.operations[current] {
            operation.begin(&piece);
        }
        if reads {
            self.reading += piece.length as usize;
        }
        if let Err(errno) = export.engine.begin(slot, piece) {
            self.answered(slot, Err(errno), export);
        }
        Ok(())
    }

    fn owner(&self, operation: usize, piece: &Request) -> Owner {
        Owner {
            client: self.place,
            serial: self.serial,
            operation,
            offset: piece.offset,
            bytes: piece.length,
        }
    }

    /// Moves a write's data from the staging buffer to its slot; what is not there yet is read straight
    /// into it.
    fn fill(&mut self, slot: u32, piece: Request, pool: &Pool) -> Result<(), Stop> {
        let mut filling = self.filling.take().unwrap_or(Filling {
            slot,
            filled: 0,
            piece,
        });
        let wanted = piece.length as usize - filling.filled;
        let staged = self.staging.bytes();
        let now = &staged[..wanted.min(staged.len())];
        pool.slots.put(slot, filling.filled, now);
        filling.filled += now.len();
        let now = now.len();
        self.staging.used(now);
        if now < wanted {
            self.filling = Some(filling);
            return Err(Stop::Input);
        }
        Ok(())
    }

    /// A piece is answered; its slot is given back, at the latest when its data is sent.
    pub(super) fn answered(
        &mut self,
        slot: u32,
        result: Result<u32, Errno>,
        export: &mut Export<'_, '_>,
    ) {
        let owner = export.pool.owner(slot);
        let Some(operation) = &mut self.operations[owner.operation] else {
            export.pool.give_back(slot);
            return;
        };
        let bytes = owner.bytes as usize;
        self.skipping += operation.answered(result.map(drop));
        if self.skipping > 0
            && let Some(filling) = self.filling.take()
        {
            // Of the piece that is coming in, some has come.
            self.skipping -= filling.filled as u64;
            export.pool.give_back(filling.slot);
        }
        match operation.kind {
            Kind::Read => {
                self.reading -= bytes;
                if result.is_ok() && operation.error().is_none() {
                    let (to, last) = (operation.to(), operation.is_complete());
                    self.outgoing
                        .head(|output| encode::data(output, to, last, owner.offset, bytes as u64));
                    self.outgoing.slot(slot, bytes);
                    if last && self.current != Some(owner.operation) {
                        self.operations[owner.operation] = None;
                    }
                    return;
                }
            }
            Kind::ReadWhole => {
                let at = usize::try_from(owner.offset - operation.header.offset).unwrap_or(0);
                if let Some(data) = operation.collected.get_mut(at..at + bytes) {
                    export.pool.slots.get(slot, 0, data);
                }
            }
            Kind::Cache => self.reading -= bytes,
            _ => {}
        }
        export.pool.give_back(slot);
        self.end_if_over(owner.operation, export);
    }

    /// Sends the last reply of an operation all of whose pieces are answered.
    fn end_if_over(&mut self, place: usize, export: &Export<'_, '_>) {
        let over = self.operations[place]
            .take_if(|operation| operation.is_over() && self.current != Some(place));
        let Some(operation) = over else { return };
        if operation.kind == Kind::ReadWhole {
            self.reading -= operation.collected.len();
        }
        let to = operation.to();
        match (operation.error(), operation.kind) {
            (Some(errno), _) => {
                let geometry = export.engine.geometry();
                let refusal = Refusal::Guest(errno);
                self.outgoing
                    .head(|output| refusal.reply(output, to, &operation.header, geometry));
            }
            // Its last chunk was the last reply.
            (None, Kind::Read) => {}
            (None, Kind::ReadWhole) => {
                let Header { offset, length, .. } = operation.header;
                self.outgoing
                    .head(|output| encode::data(output, to, true, offset, length));
                self.outgoing.own(operation.collected);
            }
            (None, _) => self.outgoing.head(|output| encode::done(output, to)),
        }
    }
}
