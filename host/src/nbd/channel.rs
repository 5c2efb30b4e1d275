//! A client's socket, in the open or encrypted. Nothing here waits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use crate::limits;
use crate::sys::{Piece, SlotRange, Slots, read_scattered, write_gathered};

pub(super) struct Channel {
    /// Read and written with the plain calls for files.
    socket: File,
    tls: Option<Box<ServerConnection>>,
    /// Decrypted bytes that nobody has read.
    decrypted: usize,
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Channel {
        Channel {
            socket: socket.into(),
            tls: None,
            decrypted: 0,
        }
    }

    /// From here on everything is encrypted.
    pub(super) fn encrypt(&mut self, config: &Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(limits::NBD_TLS_BYTES_MAX));
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// Whether data may be read straight into a slot.
    pub(super) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Whether encrypted bytes wait for room in the socket.
    pub(super) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Whether there is something to read that no event of the socket tells of.
    pub(super) fn has_input(&self) -> bool {
        self.decrypted > 0
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
        // Records may be empty: a client that sends nothing else must not keep the others waiting. What is
        // left in the socket is told of again.
        for _ in 0..limits::NBD_TLS_READS_MAX {
            match tls.reader().read(rest) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.decrypted = 0,
                result => {
                    self.decrypted -= result.as_ref().map_or(0, |bytes| *bytes);
                    return result;
                }
            }
            let end = tls.read_tls(&mut self.socket)? == 0;
            let processed = tls
                .process_new_packets()
                .map(|state| self.decrypted = state.plaintext_bytes_to_read())
                .map_err(io::Error::other);
            // An alert says why it went wrong.
            let sent = write_tls(tls, &mut self.socket);
            processed?;
            sent?;
            if end {
                return Ok(0);
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
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
            let taken = tls.writer().write(bytes)?;
            written += taken;
            if taken < whole {
                break;
            }
        }
        write_tls(tls, &mut self.socket)?;
        if written == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(written)
    }

    /// Sends what is encrypted and has not been sent.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => write_tls(tls, &mut self.socket),
            None => Ok(()),
        }
    }

    /// Says that this is the end. Without that, a client that encrypts has to think that somebody in between
    /// has cut it short.
    pub(super) fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = write_tls(tls, &mut self.socket);
        }
    }
}

/// Bytes of a slot that are encrypted at a time: one record.
const COPY_BYTES: usize = 16 << 10;

fn write_tls(tls: &mut ServerConnection, socket: &mut File) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
