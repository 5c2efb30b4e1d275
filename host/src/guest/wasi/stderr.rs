//! The standard error of an instance: its lines go to the log, as messages do.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::pipe::SinkOutputStream;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::guest::log::LogGate;
use crate::limits;

/// The standard error of an instance: its lines go to the log, as messages do.
#[derive(Clone)]
pub(super) struct Lines {
    log: Arc<LogGate>,
    /// The line that has not ended, of all streams together; no longer than a message.
    line: Arc<Mutex<Vec<u8>>>,
}

impl Lines {
    pub(super) fn new(log: Arc<LogGate>) -> Lines {
        let line = Arc::default();
        Lines { log, line }
    }

    fn add(&self, bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = part.strip_suffix(b"\n").unwrap_or(part);
            let room = limits::GUEST_LOG_LINE_BYTES_MAX.saturating_sub(line.len());
            // What is longer is cut, like a message.
            line.extend_from_slice(&text[..text.len().min(room)]);
            if text.len() < part.len() {
                self.log.line(&String::from_utf8_lossy(&line));
                line.clear();
            }
        }
    }
}

impl Drop for Lines {
    /// The last of them takes the line with it that has not ended.
    fn drop(&mut self) {
        if Arc::strong_count(&self.line) == 1 {
            let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
            if !line.is_empty() {
                self.log.line(&String::from_utf8_lossy(&line));
            }
        }
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // That is for WASI 0.3, which is not linked.
        StdoutStream::async_stream(&SinkOutputStream)
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl Pollable for Lines {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(ready(()))
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.add(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(limits::GUEST_LOG_LINE_BYTES_MAX)
    }
}
