//! The WASI that a guest sees: nothing of this machine but what was granted, and nothing that waits.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use wasmtime::component::types::ComponentFunc;
use wasmtime::component::{Linker, Val};
use wasmtime::{Result, StoreContextMut, bail, ensure};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::pipe::SinkOutputStream;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult, add_to_linker_sync};
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder};

use super::imports::State;
use super::log::LogGate;
use crate::limits;

/// What of WASI a guest is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Parts that are as on this machine.
    pub parts: Vec<Part>,
    /// Its environment.
    pub env: Vec<(String, String)>,
}

/// A part of WASI that is otherwise there, and empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// What time it is; otherwise time stands still.
    Clocks,
    /// Random bytes; otherwise they are the same for every instance.
    Random,
}

impl Allowed {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// What an instance sees: no arguments, files or sockets; and no time, chance and environment but what is allowed.
pub(super) fn context(allowed: &Allowed, log: Arc<LogGate>) -> WasiCtx {
    let mut wasi = WasiCtxBuilder::new();
    wasi.allow_tcp(false)
        .allow_udp(false)
        .envs(&allowed.env)
        .stderr(Lines::new(log))
        .max_random_size(limits::GUEST_RANDOM_BYTES_MAX);
    if !allowed.has(Part::Clocks) {
        wasi.wall_clock(Stopped).monotonic_clock(Stopped);
    }
    if !allowed.has(Part::Random) {
        wasi.secure_random(Deterministic::new(SEED.to_vec()))
            .insecure_random(Deterministic::new(SEED.to_vec()))
            .insecure_random_seed(0);
    }
    wasi.build()
}

/// Links WASI, but for what waits: that would happen in the host, where no deadline reaches.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    add_to_linker_sync(linker)?;
    let names = ["poll", "[method]pollable.block"];
    let mut poll = linker.instance(POLL)?;
    for name in names {
        // That it cannot be added shows that it is there: these are the ones to replace.
        ensure!(
            poll.func_new(name, no_waiting).is_err(),
            "{POLL} is not what wasmtime-wasi has"
        );
    }
    linker.allow_shadowing(true);
    let mut poll = linker.instance(POLL)?;
    for name in names {
        poll.func_new(name, no_waiting)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const POLL: &str = "wasi:io/poll@0.2.12";

fn no_waiting(
    _: StoreContextMut<'_, State>,
    _: ComponentFunc,
    _: &[Val],
    _: &mut [Val],
) -> Result<()> {
    bail!("it waits by WASI, which nothing grants: a guest of the contract ring waits by timers")
}

const SEED: [u8; 8] = *b"wasmblk.";

/// A clock that stands still: time is something to be granted.
struct Stopped;

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for Stopped {
    fn resolution(&self) -> u64 {
        1_000_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}

/// The standard error of an instance: its lines go to the log, as messages do.
#[derive(Clone)]
struct Lines {
    log: Arc<LogGate>,
    /// The line that has not ended, of all streams together; no longer than a message.
    line: Arc<Mutex<Vec<u8>>>,
}

impl Lines {
    fn new(log: Arc<LogGate>) -> Lines {
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
