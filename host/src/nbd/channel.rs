//! A client's socket, in the open or encrypted. Nothing here waits.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tracing::debug;

use super::tls::{Encryption, Tls};
use crate::limits;
use crate::sys::{Piece, SlotRange, Slots, read_scattered, write_gathered};

pub(super) struct Channel {
    /// Read and written with the plain calls for files.
    socket: File,
    tls: Option<Box<dyn Encryption>>,
    /// Encrypted bytes that the client has taken.
    sent_bytes: u64,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Channel {
        Channel {
            socket: socket.into(),
            tls: None,
            sent_bytes: 0,
        }
    }

    /// From here on everything is encrypted.
    pub(super) fn encrypt(&mut self, tls: &Tls) -> io::Result<()> {
        self.tls = Some(tls.begin()?);
        Ok(())
    }

    /// Whether data may be read straight into a slot.
    pub(super) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether encrypted bytes wait for room in the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_unsent())
    }

    /// Whether there is something to read that no event of the socket tells of.
    pub(super) fn has_input(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_input())
    }

    /// Reads once, first into the slot, then into `rest`; 0 is the end.
    pub(super) fn read(
        &mut self,
        slots: &Slots,
        first: Option<SlotRange>,
        rest: &mut [u8],
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return read_scattered(self.socket.as_fd(), slots, first, rest);
        };
        debug_assert!(first.is_none(), "what is encrypted is read into our memory");
        let read = read_tls(&mut **tls, &mut self.socket, rest);
        if let Err(error) = &read
            && !matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            )
        {
            debug!(%error, "an encrypted client is left");
            // An alert tells it why.
            let _ = write_tls(&mut **tls, &mut self.socket);
        }
        read
    }

    /// Writes once, as many of the pieces as there is room for.
    pub(super) fn write<'a>(
        &mut self,
        slots: &Slots,
        pieces: impl Iterator<Item = Piece<'a>>,
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return write_gathered(self.socket.as_fd(), slots, pieces);
        };
        let mut copy = [0; COPY_BYTES];
        let mut written = 0;
        for piece in pieces {
            let bytes = match piece {
                Piece::Bytes(bytes) => &bytes[..bytes.len().min(COPY_BYTES)],
                Piece::Slot(range) => {
                    let bytes = &mut copy[..range.bytes.min(COPY_BYTES)];
                    slots.get(range.slot, range.offset, bytes);
                    bytes
                }
            };
            let whole = match piece {
                Piece::Bytes(bytes) => bytes.len(),
                Piece::Slot(range) => range.bytes,
            };
            let taken = tls.write(bytes)?;
            written += taken;
            if taken < whole {
                break;
            }
        }
        self.flush()?;
        if written == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(written)
    }

    /// Sends what is encrypted and has not been sent.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            self.sent_bytes += write_tls(&mut **tls, &mut self.socket)?;
        }
        Ok(())
    }

    /// How many encrypted bytes the client has taken.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Says that this is the end. Without that, a client that encrypts has to think that somebody in between
    /// has cut it short.
    pub(super) fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            let _ = write_tls(&mut **tls, &mut self.socket);
        }
    }
}

/// Bytes of a slot that are encrypted at a time: one record.
const COPY_BYTES: usize = 16 << 10;

fn read_tls(tls: &mut dyn Encryption, socket: &mut File, bytes: &mut [u8]) -> io::Result<usize> {
    // Records may hold no data: a client that sends nothing else must not keep the others waiting. What is
    // left in the socket is told of again.
    let mut taken = 0;
    for _ in 0..limits::NBD_TLS_READS_MAX {
        match tls.read(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        let more = tls.read_tls(socket)?;
        tls.process()?;
        write_tls(tls, socket)?;
        if more == 0 {
            return Ok(0);
        }
        taken += more;
        if taken > limits::NBD_TLS_READS_BYTES_MAX {
            break;
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Gives how much the socket took.
fn write_tls(tls: &mut dyn Encryption, socket: &mut File) -> io::Result<u64> {
    let mut sent = 0;
    while tls.has_unsent() {
        match tls.write_tls(socket) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
