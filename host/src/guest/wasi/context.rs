//! The WASI that a guest sees: nothing of this machine but what was granted, and nothing that waits.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use wasmtime::component::types::ComponentFunc;
use wasmtime::component::{Linker, Val};
use wasmtime::{Result, StoreContextMut, bail, ensure};
use wasmtime_wasi::p2::add_to_linker_sync;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder};

use super::directory::Directory;
use super::remote::{Remote, Remotes};
use super::stderr::Lines;
use super::{ambient, blocking, connections, files, listing, names, times, waits};
use crate::guest::imports::State;
use crate::guest::log::LogGate;
use crate::limits;

/// What of WASI a guest is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Parts that are as on this machine.
    pub parts: Vec<Part>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Its directories.
    #[serde(default)]
    pub directories: Vec<Directory>,
    /// Where it may connect to.
    #[serde(default)]
    pub remotes: Vec<Remote>,
}

/// Functions that are ours in place of the library's, by interface.
pub(super) type Replaced = (&'static str, &'static [&'static str]);

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

    /// What a copy of the environment takes, which a guest can ask for.
    pub(in crate::guest) fn env_bytes(&self) -> usize {
        let pairs = self.env.iter();
        // Two strings, in blocks of the allocator.
        let bytes = |(name, value): &(String, String)| name.len() + value.len() + 2 * (24 + 32);
        pairs.map(bytes).sum()
    }
}

/// What an instance sees: no arguments; no time, chance, environment and connections but what is allowed; and the
/// directories that `files.rs` gives it.
pub(in crate::guest) fn context(
    allowed: &Allowed,
    remotes: &Arc<Remotes>,
    log: Arc<LogGate>,
) -> WasiCtx {
    let mut wasi = WasiCtxBuilder::new();
    let may = remotes.clone();
    wasi.allow_tcp(!remotes.is_empty())
        .socket_addr_check(move |address, what| {
            let may = match what {
                SocketAddrUse::TcpConnect => may.include_or_note(address),
                // What comes before a connection: no place of its own.
                SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
                _ => false,
            };
            Box::pin(ready(may))
        })
        .allow_udp(false)
        .envs(&allowed.env)
        .stderr(Lines::new(log))
        // What a guest waits for here is files, which have no other way.
        .allow_blocking_current_thread(true)
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

/// What the host has ready before any guest runs.
///
/// # Errors
///
/// Where the system has no room for it.
pub(in crate::guest) fn prepare(remotes: &Remotes) -> io::Result<()> {
    ambient::make(remotes.ports())
}

/// Links WASI; what of it would wait in the host, or make what has no bounds there, is ours.
pub(in crate::guest) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    add_to_linker_sync(linker)?;
    for (interface, names) in [
        waits::REPLACED,
        blocking::REPLACED,
        files::REPLACED,
        files::GRANTED,
        listing::REPLACED,
        times::REPLACED,
        names::REPLACED,
        connections::REPLACED,
    ] {
        let mut instance = linker.instance(interface)?;
        for name in names {
            // That it cannot be added shows that it is there: these are the ones to replace.
            ensure!(
                instance.func_new(name, never).is_err(),
                "{interface} is not what wasmtime-wasi has"
            );
        }
    }
    linker.allow_shadowing(true);
    waits::add_to_linker(linker)?;
    blocking::add_to_linker(linker)?;
    names::add_to_linker(linker)?;
    connections::add_to_linker(linker)?;
    files::add_to_linker(linker)?;
    listing::add_to_linker(linker)?;
    times::add_to_linker(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn never(_: StoreContextMut<'_, State>, _: ComponentFunc, _: &[Val], _: &mut [Val]) -> Result<()> {
    bail!("it is not there")
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
