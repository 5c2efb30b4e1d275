//! Files as streams, read and written at once: those of wasmtime-wasi start threads for it.

use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, pwritev2};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::filesystem::File;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::limits;

/// A file that is read from some place on.
pub(super) struct Reader {
    pub(super) file: File,
    pub(super) offset: u64,
}

/// A file that is written from some place on, or at its end.
pub(super) struct Writer {
    pub(super) file: File,
    /// `None` is its end, wherever that is.
    pub(super) offset: Option<u64>,
}

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {}
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {}
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        let mut data = vec![0; size.min(limits::GUEST_STREAM_BYTES_MAX)];
        let length = again(|| self.file.file.read_at(&mut data, self.offset))?;
        if length == 0 {
            return Err(StreamError::Closed);
        }
        self.offset += length as u64;
        data.truncate(length);
        Ok(data.into())
    }
}

impl OutputStream for Writer {
    fn write(&mut self, data: Bytes) -> StreamResult<()> {
        let mut rest = &data[..];
        while !rest.is_empty() {
            let length = again(|| match self.offset {
                Some(offset) => self.file.file.write_at(rest, offset),
                None => {
                    let data = [IoSlice::new(rest)];
                    // At the end, whatever the place.
                    let end = ReadWriteFlags::APPEND;
                    pwritev2(&self.file.file, &data, 0, end).map_err(io::Error::from)
                }
            })?;
            if length == 0 {
                return Err(failed(ErrorKind::WriteZero.into()));
            }
            if let Some(offset) = &mut self.offset {
                *offset += length as u64;
            }
            rest = &rest[length..];
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(limits::GUEST_STREAM_BYTES_MAX)
    }
}

/// Until no signal comes in between.
fn again(mut call: impl FnMut() -> io::Result<usize>) -> StreamResult<usize> {
    loop {
        match call() {
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            result => return result.map_err(failed),
        }
    }
}

fn failed(why: io::Error) -> StreamError {
    StreamError::LastOperationFailed(why.into())
}
