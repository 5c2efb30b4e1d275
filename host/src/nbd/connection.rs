//! One client: its buffers, and where it is in the protocol. Nothing here waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::{Errno as SysErrno, read, write};

use super::decode::{self, Decoded, HEADER_BYTES};
use super::handshake::{Handshake, Offer, Session, Step};
use super::transmit::Export;
use super::wire::command;
use crate::limits;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// More from the client.
    Input,
    /// Room for what it has not read yet.
    Output,
    /// Another turn, after the others: there is more to do at once.
    Turn,
    Close,
}

enum Phase {
    Handshake(Handshake),
    Transmit(Session),
}

/// Received bytes before `used` are done with; those of `output` before `sent` are sent.
pub(super) struct Connection {
    socket: OwnedFd,
    phase: Phase,
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
    sent: usize,
    /// No complete message is left in the input: only then is more read.
    starved: bool,
    /// Nothing more is read; it closes when all is sent.
    ending: bool,
    /// When a byte last moved, or the client came.
    since: Instant,
}

impl Connection {
    /// Greets a new client, whose socket does not block.
    pub(super) fn new(socket: OwnedFd) -> Connection {
        let mut output = Vec::new();
        let handshake = Handshake::begin(&mut output);
        Connection {
            socket,
            phase: Phase::Handshake(handshake),
            input: Vec::new(),
            used: 0,
            output,
            sent: 0,
            starved: true,
            ending: false,
            since: Instant::now(),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether it has haggled, or left its replies unread, for too long.
    pub(super) fn is_overdue(&self) -> bool {
        let haggles = matches!(self.phase, Phase::Handshake(_));
        (haggles || self.unsent() > 0) && self.since.elapsed() > limits::NBD_CLIENT_TIMEOUT
    }

    /// Does what can be done now: reads once, answers everything that is complete, sends. An error of
    /// the socket is its end.
    pub(super) fn work(&mut self, offer: &Offer, export: &mut Export<'_>) -> Wants {
        self.turn(offer, export).unwrap_or(Wants::Close)
    }

    fn turn(&mut self, offer: &Offer, export: &mut Export<'_>) -> io::Result<Wants> {
        if self.starved && !self.ending {
            self.receive()?;
        }
        self.process(offer, export);
        self.send()?;
        Ok(if self.unsent() > 0 {
            Wants::Output
        } else if self.ending {
            Wants::Close
        } else if self.starved {
            Wants::Input
        } else {
            Wants::Turn
        })
    }

    /// Reads once. The input grows with what was received, not with what was announced.
    fn receive(&mut self) -> io::Result<()> {
        self.input.drain(..self.used);
        self.used = 0;
        let have = self.input.len();
        if have == 0 {
            self.input.shrink_to(limits::NBD_READ_BYTES);
        }
        self.input.resize(have + limits::NBD_READ_BYTES, 0);
        let result = read(&self.socket, &mut self.input[have..]);
        self.input.truncate(have + result.unwrap_or(0));
        match result {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                self.touch();
                Ok(())
            }
            Err(SysErrno::AGAIN | SysErrno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A haggling client has one time limit in all; later, every byte that moves begins it anew.
    fn touch(&mut self) {
        if matches!(self.phase, Phase::Transmit(_)) {
            self.since = Instant::now();
        }
    }

    /// Answers messages that are complete, as long as the client takes the answers, and not so many
    /// that the other clients would have to wait for long.
    fn process(&mut self, offer: &Offer, export: &mut Export<'_>) {
        self.starved = false;
        for _ in 0..limits::NBD_TURN_REQUESTS_MAX {
            if self.ending || self.unsent() > limits::NBD_UNSENT_BYTES_MAX {
                return;
            }
            let more = match &mut self.phase {
                Phase::Handshake(handshake) => {
                    let step = handshake.step(&self.input[self.used..], offer, &mut self.output);
                    self.advance(step)
                }
                Phase::Transmit(session) => {
                    let session = *session;
                    self.request(session, export)
                }
            };
            if !more {
                self.starved = true;
                return;
            }
        }
    }

    fn advance(&mut self, step: Step) -> bool {
        match step {
            Step::Incomplete => return false,
            Step::Used(bytes) => self.used += bytes,
            Step::Transmit(bytes, session) => {
                self.used += bytes;
                self.phase = Phase::Transmit(session);
            }
            Step::Close => self.ending = true,
        }
        true
    }

    /// One request. Says whether there may be another in the input.
    fn request(&mut self, session: Session, export: &mut Export<'_>) -> bool {
        let header = match decode::header(&self.input[self.used..]) {
            Decoded::Incomplete => return false,
            Decoded::Garbage => {
                self.ending = true;
                return false;
            }
            Decoded::Request(header) => header,
        };
        // A payload that is too long cannot be skipped with a bound; the client was told the limit.
        if header.command == command::DISC || header.payload_bytes() > limits::NBD_PAYLOAD_BYTES_MAX
        {
            self.ending = true;
            return false;
        }
        let begin = self.used + HEADER_BYTES;
        let end = begin + header.payload_bytes() as usize;
        let Some(payload) = self.input.get_mut(begin..end) else {
            return false;
        };
        export.answer(&header, payload, session, &mut self.output);
        self.used = end;
        true
    }

    fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    fn send(&mut self) -> io::Result<()> {
        while self.sent < self.output.len() {
            match write(&self.socket, &self.output[self.sent..]) {
                Ok(bytes) => {
                    self.sent += bytes;
                    self.touch();
                }
                Err(SysErrno::INTR) => {}
                Err(SysErrno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.output.shrink_to(limits::NBD_UNSENT_BYTES_MAX);
        self.sent = 0;
        Ok(())
    }
}
