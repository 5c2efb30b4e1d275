//! Waiting by WASI. It happens in the host, where no epoch reaches: so it ends with the deadline of the call, and is
//! for guests with a network only. What is there already needs no waiting, and is for all.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::timeout;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime::{Result, StoreContextMut, Trap, bail};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::io::poll::{Host, HostPollable};

use super::ambient;
use super::context::Replaced;
use crate::guest::imports::State;
use crate::guest::link::Link;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const POLL: &str = "wasi:io/poll@0.2.12";

/// What is replaced.
pub(super) const REPLACED: Replaced = (POLL, &["poll", "[method]pollable.block"]);

/// How often somebody who waits looks at the clock.
const STEP: Duration = Duration::from_millis(10);

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut instance = linker.instance(POLL)?;
    instance.link("poll", poll)?;
    instance.link("[method]pollable.block", block)
}

fn poll(
    mut store: StoreContextMut<'_, State>,
    (pollables,): (Vec<Resource<DynPollable>>,),
) -> Result<(Vec<u32>,)> {
    let ready = wait(&mut store, async |table| Host::poll(table, pollables).await)?;
    Ok((ready?,))
}

fn block(
    mut store: StoreContextMut<'_, State>,
    (pollable,): (Resource<DynPollable>,),
) -> Result<()> {
    wait(&mut store, async |table| {
        HostPollable::block(table, pollable).await
    })?
}

/// What comes of it, within the deadline of the call.
pub(super) fn wait<T>(
    store: &mut StoreContextMut<'_, State>,
    work: impl AsyncFnOnce(&mut ResourceTable) -> T,
) -> Result<T> {
    let state = store.data_mut();
    let has_network = state.has_network();
    ambient::enter(has_network);
    let call = state.call.clone();
    let mut work = pin!(work(&mut state.table));
    let (Some(network), Some(call), true) = (ambient::network(), call, has_network) else {
        return match work.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Ok(value),
            Poll::Pending => bail!(
                "it waits by WASI, which is for guests with a --net: one of the contract ring waits by timers"
            ),
        };
    };
    loop {
        let step = network.block_on(async { timeout(STEP, work.as_mut()).await });
        match step {
            Ok(value) => return Ok(value),
            Err(_) if call.is_overdue() => return Err(Trap::Interrupt.into()),
            Err(_) => {}
        }
    }
}
