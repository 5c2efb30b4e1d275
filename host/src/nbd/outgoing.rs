//! What a client is to be sent: headers, and data that stays in its slots until it is sent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;

use super::channel::Channel;
use super::pool::Pool;
use crate::sys::{Piece, SlotRange};

/// Headers that are sent are not worth moving the others for, below this.
const FORGET_BYTES: usize = 64 << 10;

/// Replies in order. `sent` bytes of the first part are sent.
#[derive(Default)]
pub(super) struct Outgoing {
    heads: Vec<u8>,
    parts: VecDeque<Part>,
    sent: usize,
    bytes: usize,
}

enum Part {
    /// A range of `heads`: replies without data, and the headers of others.
    Heads { begin: usize, bytes: usize },
    /// Data of a read.
    Slot { slot: u32, bytes: usize },
    /// Data that does not lie in a slot any more.
    Own(Vec<u8>),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Part::Heads { bytes, .. } | Part::Slot { bytes, .. } => *bytes,
            Part::Own(bytes) => bytes.len(),
        }
    }
}

impl Outgoing {
    /// Bytes that are not sent yet.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends what `write` writes, and returns what it returns.
    pub(super) fn head<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let begin = self.heads.len();
        let result = write(&mut self.heads);
        let more = self.heads.len() - begin;
        self.bytes += more;
        if let Some(Part::Heads { bytes, .. }) = self.parts.back_mut() {
            *bytes += more;
        } else if more > 0 {
            self.parts.push_back(Part::Heads { begin, bytes: more });
        }
        result
    }

    /// Appends the first bytes of a slot, which is given back once they are sent.
    pub(super) fn slot(&mut self, slot: u32, bytes: usize) {
        self.bytes += bytes;
        self.parts.push_back(Part::Slot { slot, bytes });
    }

    pub(super) fn own(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.parts.push_back(Part::Own(bytes));
    }

    /// Sends as much as the client takes now.
    pub(super) fn send(&mut self, channel: &mut Channel, pool: &mut Pool) -> io::Result<()> {
        while let Some(first) = self.parts.front() {
            let sent = match first {
                Part::Slot { slot, .. } if pool.has_pages(*slot) => {
                    let pages = pool.pages(*slot);
                    pages.map_or(Ok(0), |pages| pages.send(channel.as_fd()))
                }
                _ => self.send_copies(channel, pool),
            };
            match sent {
                Ok(bytes) => self.advance(bytes, pool),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.forget_sent();
        channel.flush()
    }

    /// Sends, once, what does not lie in pages, up to what does.
    fn send_copies(&self, channel: &mut Channel, pool: &Pool) -> io::Result<usize> {
        let copied =
            |part: &&Part| !matches!(part, Part::Slot { slot, .. } if pool.has_pages(*slot));
        let parts = self.parts.iter().take_while(copied).enumerate();
        let pieces = parts.map(|(index, part)| {
            let skip = if index == 0 { self.sent } else { 0 };
            piece(&self.heads, part, skip)
        });
        channel.write(&pool.slots, pieces)
    }

    fn advance(&mut self, bytes: usize, pool: &mut Pool) {
        self.bytes -= bytes;
        self.sent += bytes;
        while let Some(part) = self.parts.front()
            && self.sent >= part.bytes()
        {
            self.sent -= part.bytes();
            if let Part::Slot { slot, .. } = part {
                pool.give_back(*slot);
            }
            self.parts.pop_front();
        }
        if let Some(Part::Heads { begin, bytes }) = self.parts.front_mut() {
            *begin += self.sent;
            *bytes -= self.sent;
            self.sent = 0;
        }
    }

    /// Forgets headers that are sent. Some are not, for ever, where a client asks for more before it has
    /// read all: so this cannot wait until there are none, but only until moving them costs little.
    fn forget_sent(&mut self) {
        let begins = self.parts.iter_mut().filter_map(|part| match part {
            Part::Heads { begin, .. } => Some(begin),
            Part::Slot { .. } | Part::Own(_) => None,
        });
        let mut begins = begins.peekable();
        let sent = begins.peek().map_or(self.heads.len(), |begin| **begin);
        if sent >= FORGET_BYTES.max(self.heads.len() / 2) || sent == self.heads.len() {
            self.heads.drain(..sent);
            begins.for_each(|begin| *begin -= sent);
        }
    }

    /// Forgets everything: the client is gone.
    pub(super) fn abandon(&mut self, pool: &mut Pool) {
        for part in self.parts.drain(..) {
            if let Part::Slot { slot, .. } = part {
                pool.give_back(slot);
            }
        }
    }

    /// Copies data out of its slots, which others need: this client does not read.
    ///
    /// # Errors
    ///
    /// Where the data are to be had no more.
    pub(super) fn free_slots(&mut self, pool: &mut Pool) -> io::Result<()> {
        for (index, part) in self.parts.iter_mut().enumerate() {
            if let Part::Slot { slot, bytes } = *part {
                let mut copy = vec![0; bytes];
                match pool.pages(slot) {
                    Some(pages) => {
                        let sent = if index == 0 { self.sent } else { 0 };
                        pages.copy_out(&mut copy[sent..])?;
                    }
                    None => pool.slots.get(slot, 0, &mut copy),
                }
                pool.give_back(slot);
                *part = Part::Own(copy);
            }
        }
        Ok(())
    }
}

fn piece<'a>(heads: &'a [u8], part: &'a Part, skip: usize) -> Piece<'a> {
    match part {
        Part::Heads { begin, bytes } => Piece::Bytes(&heads[begin + skip..begin + bytes]),
        Part::Slot { slot, bytes } => Piece::Slot(SlotRange {
            slot: *slot,
            offset: skip,
            bytes: bytes - skip,
        }),
        Part::Own(bytes) => Piece::Bytes(&bytes[skip..]),
    }
}
