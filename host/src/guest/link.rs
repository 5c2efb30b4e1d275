//! Functions of the host look whether the call that they are part of has to wait or to end. Wasm code looks where
//! functions and loops begin, and in bulk operations, but not between two calls of the host that stand one behind the
//! other: one function has room for 400,000 that write to a store.

use wasmtime::component::{ComponentNamedList, Lift, LinkerInstance, Lower, ResourceTable};
use wasmtime::{Result, StoreContextMut, Trap};
use wasmtime_wasi::{WasiCtxView, WasiView};

use super::imports::State;
use super::wasi;

/// How functions of ours are linked.
pub(super) trait Link {
    /// Links a function that looks first.
    fn link<P, R>(
        &mut self,
        name: &str,
        func: impl Fn(StoreContextMut<'_, State>, P) -> Result<R> + Send + Sync + 'static,
    ) -> Result<()>
    where
        P: ComponentNamedList + Lift + 'static,
        R: ComponentNamedList + Lower + 'static;
}

impl Link for LinkerInstance<'_, State> {
    fn link<P, R>(
        &mut self,
        name: &str,
        func: impl Fn(StoreContextMut<'_, State>, P) -> Result<R> + Send + Sync + 'static,
    ) -> Result<()>
    where
        P: ComponentNamedList + Lift + 'static,
        R: ComponentNamedList + Lower + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        self.func_wrap(
            name,
            move |mut store: StoreContextMut<'_, State>, params| {
                store.data_mut().look()?;
                func(store, params)
            },
        )
    }
}

impl State {
    /// Waits where the guest is over its budget. An error is that the call has to end.
    pub(super) fn look(&mut self) -> Result<()> {
        if let Some(pace) = &mut self.pace {
            pace.begin();
        }
        match &self.call {
            Some(call) if call.is_overdue() => Err(Trap::Interrupt.into()),
            _ => Ok(()),
        }
    }
}

/// Each function of wasmtime-wasi that is linked as it is begins here.
impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        wasi::enter(self.has_network());
        // This cannot fail; but what is done to files, streams, sockets and events has handles, which are looked up,
        // and ends the guest where they are not there. What gives a list or a string calls a function of the guest for
        // its place. And numbers, the time and random ones, take 0.15 us (or a system call): the 2.5 million of them
        // that one function has room for are over soon.
        let table = match self.look() {
            Ok(()) => &mut self.table,
            Err(_) => self.no_table.insert(nothing()),
        };
        WasiCtxView {
            ctx: &mut self.wasi,
            table,
        }
    }
}

/// A table that has no handle, and takes none.
fn nothing() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(0);
    table
}
