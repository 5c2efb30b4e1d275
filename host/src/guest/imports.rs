//! What the host gives a guest: a log, and a WASI in which nothing happens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, trace, warn};
use wasmtime::component::types::ComponentFunc;
use wasmtime::component::{HasSelf, Linker, ResourceTable, Val, WasmList};
use wasmtime::{Result, StoreContextMut, bail, ensure};
use wasmtime_wasi::p2::add_to_linker_sync;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView,
};

use super::bindings::wasmblk::block::{host, types};
use super::limiter::{Budget, Limiter};
use crate::limits;
use crate::sys::Arena;
use crate::text::printable;

/// What belongs to one instance on the host's side.
pub(super) struct State {
    pub(super) limiter: Limiter,
    pub(super) lent: Lent,
    log: Arc<LogGate>,
    wasi: WasiCtx,
    table: ResourceTable,
}

/// Whether a guest has lent its arena.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lent {
    /// It may not: its `ring.open` is not running.
    Closed,
    /// It may.
    Open,
    /// It has.
    Arena(Arena),
}

impl State {
    pub(super) fn new(budget: Budget, log: Arc<LogGate>) -> State {
        // Nothing of this machine: no arguments, environment, files, sockets, time or chance.
        let wasi = WasiCtxBuilder::new()
            .allow_tcp(false)
            .allow_udp(false)
            .wall_clock(Stopped)
            .monotonic_clock(Stopped)
            .secure_random(Deterministic::new(SEED.to_vec()))
            .insecure_random(Deterministic::new(SEED.to_vec()))
            .insecure_random_seed(0)
            .max_random_size(limits::GUEST_RANDOM_BYTES_MAX)
            .build();
        // What a guest may make of these is memory of the host.
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::GUEST_RESOURCES_MAX);
        State {
            limiter: Limiter::new(budget),
            lent: Lent::Closed,
            log,
            wasi,
            table,
        }
    }
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

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

/// Everything that a guest may import.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    // By hand: the bindings would copy the arena.
    let mut host = linker.instance(HOST)?;
    host.func_wrap("log", log)?;
    host.func_wrap("lend", lend)?;
    types::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    add_to_linker_sync(linker)?;
    // Waiting happens in the host, where no deadline reaches: a guest with nothing granted has
    // nothing to wait for.
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
    bail!("it waits, and nothing that waits was granted")
}

impl types::Host for State {}

const HOST: &str = "wasmblk:block/host@0.1.0";

#[expect(clippy::needless_pass_by_value, reason = "the linker's shape")]
fn log(store: StoreContextMut<'_, State>, (level, message): (host::Level, String)) -> Result<()> {
    if !store.data().log.admit() {
        return Ok(());
    }
    let text = printable(&message, limits::GUEST_LOG_LINE_BYTES_MAX);
    match level {
        host::Level::Error => error!(target: "guest", "{text}"),
        host::Level::Warn => warn!(target: "guest", "{text}"),
        host::Level::Info => info!(target: "guest", "{text}"),
        host::Level::Debug => debug!(target: "guest", "{text}"),
        host::Level::Trace => trace!(target: "guest", "{text}"),
    }
    Ok(())
}

fn lend(mut store: StoreContextMut<'_, State>, (list,): (WasmList<u8>,)) -> Result<()> {
    match store.data().lent {
        Lent::Open => {}
        Lent::Closed => bail!("it lends memory, which only ring.open may do"),
        Lent::Arena(_) => bail!("it lends memory twice"),
    }
    let Some(arena) = Arena::lent(list.as_le_slice(&store)) else {
        bail!("the memory that it lends does not begin on a page");
    };
    store.data_mut().lent = Lent::Arena(arena);
    Ok(())
}

/// Lets through so many messages a second, of all instances of a guest together.
pub(super) struct LogGate(Mutex<Second>);

struct Second {
    begin: Instant,
    lines: u32,
}

impl LogGate {
    pub(super) fn new() -> LogGate {
        LogGate(Mutex::new(Second {
            begin: Instant::now(),
            lines: 0,
        }))
    }

    fn admit(&self) -> bool {
        let mut second = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second.begin.elapsed() >= Duration::from_secs(1) {
            let dropped = second
                .lines
                .saturating_sub(limits::GUEST_LOG_LINES_PER_SECOND);
            if dropped > 0 {
                warn!(target: "guest", "{dropped} messages came too fast and were dropped");
            }
            *second = Second {
                begin: Instant::now(),
                lines: 0,
            };
        }
        second.lines = second.lines.saturating_add(1);
        second.lines <= limits::GUEST_LOG_LINES_PER_SECOND
    }
}
