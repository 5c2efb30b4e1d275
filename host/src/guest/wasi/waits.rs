//! Waiting by WASI: it would happen in the host, where no deadline reaches. What is there already needs no waiting.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut, bail};
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::io::poll::{Host, HostPollable};

use super::ambient;
use crate::guest::imports::State;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const POLL: &str = "wasi:io/poll@0.2.12";

/// What is replaced.
pub(super) const REPLACED: (&str, &[&str]) = (POLL, &["poll", "[method]pollable.block"]);

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut instance = linker.instance(POLL)?;
    instance.func_wrap("poll", poll)?;
    instance.func_wrap("[method]pollable.block", block)
}

fn poll(
    mut store: StoreContextMut<'_, State>,
    (pollables,): (Vec<Resource<DynPollable>>,),
) -> Result<(Vec<u32>,)> {
    let table = &mut store.data_mut().table;
    Ok((at_once(Host::poll(table, pollables))??,))
}

fn block(
    mut store: StoreContextMut<'_, State>,
    (pollable,): (Resource<DynPollable>,),
) -> Result<()> {
    let table = &mut store.data_mut().table;
    at_once(HostPollable::block(table, pollable))?
}

/// What comes of it without waiting.
fn at_once<T>(future: impl Future<Output = T>) -> Result<T> {
    ambient::enter();
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Ok(value),
        Poll::Pending => {
            bail!(
                "it waits by WASI, which nothing grants: a guest of the contract ring waits by timers"
            )
        }
    }
}
