//! What the host gives a guest: a log, the stores that it was granted, and WASI (`wasi.rs`).

use std::io::ErrorKind;
use std::sync::Arc;

use wasmtime::component::{HasSelf, Linker, ResourceTable};
use wasmtime::{Error, Result, StoreContextMut, bail, ensure, format_err};
use wasmtime_wasi::WasiCtx;

use super::bindings::wasmblk::block::{host, store as bindings_store, types};
use super::clock::Call;
use super::fault::{self, Health};
use super::limiter::{Budget, Limiter};
use super::link::Link;
use super::log::LogGate;
use super::missing::{AllMissing, Missing};
use super::pace::Pace;
use super::wasi::{self, Allowed, Directories, Remotes};
use crate::block::Errno;
use crate::confine::Needed;
use crate::error;
use crate::limits;
use crate::store::{Store, Stores, is_name};
use crate::sys::{self, Arena, Passed, Words};

/// What a guest is granted.
#[derive(Clone, Debug, Default)]
pub struct Granted {
    /// Its stores, open.
    pub stores: Arc<Stores>,
    /// Of WASI.
    pub allowed: Allowed,
    /// Its directories, open.
    pub directories: Arc<Directories>,
    /// Where it may connect to.
    pub remotes: Arc<Remotes>,
}

impl Granted {
    /// Opens and looks up what is allowed of WASI, beside stores that are open.
    ///
    /// # Errors
    ///
    /// Names what cannot be had.
    pub fn new(stores: Stores, allowed: Allowed) -> error::Result<Granted> {
        Ok(Granted {
            stores: Arc::new(stores),
            directories: Arc::new(Directories::open(&allowed.directories)?),
            remotes: Arc::new(Remotes::look_up(&allowed.remotes)?),
            allowed,
        })
    }

    /// Whether a guest has nothing but its memory, and waits for nobody.
    #[must_use]
    pub fn is_memory_only(&self) -> bool {
        let Allowed {
            directories,
            remotes,
            ..
        } = &self.allowed;
        self.stores.all().is_empty() && directories.is_empty() && remotes.is_empty()
    }

    /// What the process that serves such a guest has to keep.
    #[must_use]
    pub fn needed(&self) -> Needed<'_> {
        Needed {
            folders: self.directories.folders(),
            ports: self.remotes.ports(),
        }
    }
}

/// What belongs to one instance on the host's side.
pub(super) struct State {
    pub(super) limiter: Limiter,
    pub(super) lent: Lent,
    pub(super) waiting: Waiting,
    /// How the device's instances are.
    health: Arc<Health>,
    /// Where its computing time has a limit.
    pub(super) pace: Option<Pace>,
    stores: Arc<Stores>,
    /// What it looked for, and was not granted.
    pub(super) missing: AllMissing,
    log: Arc<LogGate>,
    /// What says when a call has been too long.
    pub(super) call: Option<Arc<Call>>,
    pub(super) wasi: WasiCtx,
    pub(super) directories: Arc<Directories>,
    pub(super) remotes: Arc<Remotes>,
    pub(super) table: ResourceTable,
    /// What is there in its place for a call that has to end.
    pub(super) no_table: Option<ResourceTable>,
}

/// Whether a guest may wait for a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It may.
    Allowed,
    /// It has transfers for that.
    Refused,
}

/// Whether a guest has lent its arena.
#[derive(Debug)]
pub(super) enum Lent {
    /// It may not: its `ring.open` is not running.
    Closed,
    /// It may; where an instance came before this one, it gets that one's arena.
    Open(Option<Arena>),
    /// It has.
    Arena(Arena),
}

impl State {
    pub(super) fn new(
        budget: Budget,
        log: Arc<LogGate>,
        health: Arc<Health>,
        granted: &Granted,
    ) -> State {
        // What a guest may make of these is memory of the host.
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::GUEST_RESOURCES_MAX);
        State {
            limiter: Limiter::new(budget),
            lent: Lent::Closed,
            waiting: Waiting::Allowed,
            health,
            pace: None,
            stores: granted.stores.clone(),
            missing: AllMissing::default(),
            call: None,
            wasi: wasi::context(&granted.allowed, &granted.remotes, log.clone()),
            directories: granted.directories.clone(),
            remotes: granted.remotes.clone(),
            log,
            table,
            no_table: None,
        }
    }

    /// Whether it may wait for somebody outside.
    pub(super) fn has_network(&self) -> bool {
        !self.remotes.is_empty()
    }
}

/// Everything that a guest may import.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    types::add_to_linker::<State, HasSelf<State>>(linker, |state| state)?;
    // By hand: the bindings would copy what is passed, however long it is, and not look at the time.
    let mut host = linker.instance(HOST)?;
    host.link("log", log)?;
    host.link("lend", lend)?;
    let mut stores = linker.instance(STORE)?;
    stores.link("find", find)?;
    stores.link("read", |store, (number, offset, length)| {
        store.data().read(number, offset, length)
    })?;
    stores.link("write", |store, (number, offset, data): (_, _, Passed)| {
        data.look(|data| store.data().write(number, offset, data))
    })?;
    stores.link("flush", |store, (number,)| store.data().flush(number))?;
    stores.link("discard", |store, (number, offset, length)| {
        store.data().discard(number, offset, length)
    })?;
    stores.link("write-zeroes", |store, (number, offset, length, way)| {
        store.data().write_zeroes(number, offset, length, way)
    })?;
    wasi::add_to_linker(linker)
}

impl types::Host for State {}

const HOST: &str = "wasmblk:block/host@0.1.0";
const STORE: &str = "wasmblk:block/store@0.1.0";

fn find(
    mut store: StoreContextMut<'_, State>,
    (name,): (Words,),
) -> Result<(Option<bindings_store::Shape>,)> {
    Ok((store.data_mut().find(name.0),))
}

#[expect(clippy::needless_pass_by_value, reason = "the linker's shape")]
fn log(store: StoreContextMut<'_, State>, (level, message): (host::Level, Words)) -> Result<()> {
    store.data().log.message(level, &message.0);
    Ok(())
}

fn lend(mut store: StoreContextMut<'_, State>, (list,): (Passed,)) -> Result<()> {
    let before = match std::mem::replace(&mut store.data_mut().lent, Lent::Closed) {
        Lent::Open(before) => before,
        Lent::Closed => bail!("it lends memory, which only ring.open may do, once"),
        Lent::Arena(_) => bail!("it lends memory twice"),
    };
    let Some(lent) = sys::Lent::new(&list) else {
        bail!("the memory that it lends is not whole pages of 4096 bytes");
    };
    let arena = match before {
        Some(arena) => arena,
        None => Arena::new(lent)?,
    };
    arena.show(lent).map_err(|why| match why.kind() {
        ErrorKind::InvalidInput => {
            format_err!(
                "it lends {} bytes, another time {}",
                lent.bytes(),
                arena.bytes()
            )
        }
        _ => Error::new(why).context("the system does not share memory with it"),
    })?;
    store.data_mut().lent = Lent::Arena(arena);
    Ok(())
}

/// What a function of the interface `store` answers. The outer error ends the guest.
type Answer<T> = Result<(std::result::Result<T, types::Errno>,)>;

/// The interface `store`.
impl State {
    fn find(&mut self, name: String) -> Option<bindings_store::Shape> {
        let mut stores = (0..).zip(self.stores.all());
        let found = stores.find(|(_, store)| store.name == name);
        if found.is_none() && is_name(&name) {
            self.missing.note(Missing::Store(name));
        }
        found.map(|(number, store)| bindings_store::Shape {
            number,
            size_bytes: store.shape.size_bytes,
            block_bytes: store.shape.block_bytes,
            align_bytes: store.shape.align_bytes,
            read_only: store.shape.read_only,
        })
    }

    /// Has a store work, by its number, for a guest that may wait.
    fn on_store<T>(
        &self,
        number: u32,
        work: impl FnOnce(&Store) -> std::result::Result<T, Errno>,
    ) -> Answer<T> {
        ensure!(
            self.waiting == Waiting::Allowed,
            "it waits for a store, which a ring guest may do in its open only"
        );
        let store = self.stores.all().get(number as usize);
        let store = store.ok_or(types::Errno::Invalid);
        Ok((store.and_then(|store| work(store).map_err(fault::guest_errno)),))
    }

    fn read(&self, number: u32, offset: u64, length: u32) -> Answer<Vec<u8>> {
        if length > limits::TRANSFER_BYTES_MAX {
            return Ok((Err(types::Errno::Invalid),));
        }
        self.on_store(number, |store| {
            let mut data = vec![0; length as usize];
            store.read(offset, &mut data).map(|()| data)
        })
    }

    fn write(&self, number: u32, offset: u64, data: &[u8]) -> Answer<()> {
        if data.len() > limits::TRANSFER_BYTES_MAX as usize {
            return Ok((Err(types::Errno::Invalid),));
        }
        self.on_store(number, |store| store.write(offset, data))
    }

    fn flush(&self, number: u32) -> Answer<()> {
        let flushed = self.on_store(number, Store::flush);
        if matches!(flushed, Ok((Err(_),))) {
            self.health.lose();
        }
        flushed
    }

    fn discard(&self, number: u32, offset: u64, length: u32) -> Answer<()> {
        self.on_store(number, |store| {
            match store.write_zeroes(offset, length, true) {
                // It is a wish.
                Err(Errno::EOPNOTSUPP) => Ok(()),
                result => result,
            }
        })
    }

    fn write_zeroes(&self, number: u32, offset: u64, length: u32, may_discard: bool) -> Answer<()> {
        self.on_store(number, |store| {
            store.write_zeroes(offset, length, may_discard)
        })
    }
}
