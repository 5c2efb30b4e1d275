//! One client: its socket, what it sent, and what it is to be sent. Nothing here waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use super::channel::Channel;
use super::handshake::{Handshake, Offer, Session};
use super::operation::{Kind, Operation};
use super::outgoing::Outgoing;
use super::pool::Pool;
use super::staging::Staging;
use super::tls::Tls;
use crate::block::Request;
use crate::limits;
use crate::serve::Engine;
use crate::sys::SlotRange;

/// What all connections of a device share.
pub(super) struct Export<'a, 'b> {
    pub(super) offer: &'a Offer,
    pub(super) tls: Option<&'a Tls>,
    pub(super) engine: &'a mut Engine<'b>,
    pub(super) pool: &'a mut Pool,
}

/// Why a connection's input is not worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It ends before the message does.
    Input,
    /// No slot is free.
    Slots,
    /// The client has as much under way, or unread, as it may.
    Full,
    /// The answer to STARTTLS is not sent yet: what comes before that came in the open.
    Tls,
    /// The others have their turn.
    Turn,
    /// Nothing more is taken from this client.
    Ending,
}

pub(super) enum Phase {
    Handshake(Handshake),
    Transmit(Session),
}

/// A write's piece whose data is still coming.
#[derive(Clone, Copy)]
pub(super) struct Filling {
    pub(super) slot: u32,
    pub(super) filled: usize,
    pub(super) piece: Request,
}

pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) phase: Phase,
    pub(super) staging: Staging,
    pub(super) operations: Vec<Option<Operation>>,
    /// The operation whose pieces have not all begun; the requests behind it wait.
    pub(super) current: Option<usize>,
    pub(super) filling: Option<Filling>,
    /// Bytes of a refused write's data that are still to come.
    pub(super) skipping: u64,
    /// The last request was a large write. Its like is expected next, whose data is to go straight to its slot.
    pub(super) writes_much: bool,
    /// Bytes of reads that are under way.
    pub(super) reading: usize,
    pub(super) outgoing: Outgoing,
    pub(super) stop: Stop,
    pub(super) start_tls: bool,
    pub(super) place: usize,
    pub(super) serial: u64,
    /// When a byte last moved, or the client came.
    pub(super) since: Instant,
}

impl Connection {
    /// Greets a new client, whose socket does not block.
    pub(super) fn new(socket: OwnedFd, place: usize, serial: u64) -> Connection {
        let mut outgoing = Outgoing::default();
        let handshake = outgoing.head(Handshake::begin);
        Connection {
            channel: Channel::new(socket),
            phase: Phase::Handshake(handshake),
            staging: Staging::new(),
            operations: Vec::new(),
            current: None,
            filling: None,
            skipping: 0,
            writes_much: false,
            reading: 0,
            outgoing,
            stop: Stop::Input,
            start_tls: false,
            place,
            serial,
            since: Instant::now(),
        }
    }

    /// Whether it has haggled, or left its replies unread, for too long.
    pub(super) fn is_overdue(&self) -> bool {
        let haggles = matches!(self.phase, Phase::Handshake(_));
        (haggles || self.has_unsent()) && self.since.elapsed() > limits::NBD_CLIENT_TIMEOUT
    }

    /// Whether something waits for room in the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.outgoing.bytes() > 0 || self.channel.has_unsent()
    }

    /// Whether it is done with, and can be closed.
    pub(super) fn is_over(&self) -> bool {
        let idle = self.operations.iter().all(Option::is_none);
        self.stop == Stop::Ending && idle && !self.has_unsent()
    }

    /// Whether input waits inside the encryption, where no event tells of it.
    pub(super) fn has_input(&self) -> bool {
        self.stop == Stop::Input && self.channel.has_input()
    }

    /// Whether as much is under way, or unread, as one client may have.
    pub(super) fn is_full(&self) -> bool {
        self.outgoing.bytes() + self.reading >= limits::NBD_CLIENT_BYTES_MAX
    }

    /// A haggling client has one time limit in all; later, every byte that moves begins it anew.
    fn touch(&mut self) {
        if matches!(self.phase, Phase::Transmit(_)) {
            self.since = Instant::now();
        }
    }

    /// Reads once: the rest of a large write straight into its slot, everything else into the staging
    /// buffer.
    pub(super) fn receive(&mut self, pool: &Pool) -> io::Result<()> {
        let direct = self
            .filling
            .filter(|_| self.channel.is_plain() && self.staging.is_empty())
            .map(|filling| SlotRange {
                slot: filling.slot,
                offset: filling.filled,
                bytes: filling.piece.length as usize - filling.filled,
            });
        let mut room = self.staging.room();
        if self.writes_much && self.channel.is_plain() {
            let most = room.len().min(limits::NBD_HEADS_BYTES);
            room = &mut room[..most];
        }
        let read = match self.channel.read(&pool.slots, direct, room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                return Ok(());
            }
            read => read?,
        };
        self.touch();
        let into_slot = direct.map_or(0, |range| range.bytes.min(read));
        if let Some(filling) = &mut self.filling {
            filling.filled += into_slot;
        }
        self.staging.received(read - into_slot);
        Ok(())
    }

    /// Sends as much as the client takes now.
    pub(super) fn send(&mut self, export: &mut Export<'_, '_>) -> io::Result<()> {
        let taken = |it: &Connection| (it.outgoing.bytes(), it.channel.sent_bytes());
        let before = taken(self);
        self.outgoing.send(&mut self.channel, export.pool)?;
        if taken(self) != before {
            self.touch();
        }
        if self.start_tls && self.outgoing.bytes() == 0 {
            self.start_tls = false;
            let tls = export.tls.ok_or(io::ErrorKind::Unsupported)?;
            self.channel.encrypt(tls)?;
            if self.stop == Stop::Tls {
                self.stop = Stop::Input;
            }
        }
        Ok(())
    }

    /// Copies replies that this client does not read out of their slots.
    ///
    /// # Errors
    ///
    /// Where one is to be had no more.
    pub(super) fn free_slots(&mut self, pool: &mut Pool) -> io::Result<()> {
        self.outgoing.free_slots(pool)
    }

    /// Whether a piece's data may be sent from where they are.
    pub(super) fn takes_pages(&self, operation: usize) -> bool {
        let reads = |operation: &Operation| operation.kind == Kind::Read;
        self.channel.is_plain() && self.operations[operation].as_ref().is_some_and(reads)
    }

    /// Gives back all slots that are not in the guest's hands: the client is gone.
    pub(super) fn abandon(&mut self, pool: &mut Pool) {
        if let Some(filling) = self.filling.take() {
            pool.give_back(filling.slot);
        }
        self.outgoing.abandon(pool);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
