//! The first thing that a guest does which wants to connect: without a network it is noted.

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::TcpSocket;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket::Host;
use wasmtime_wasi::sockets::WasiSocketsView;

use super::context::Replaced;
use crate::guest::imports::State;
use crate::guest::missing::Missing;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const CREATION: &str = "wasi:sockets/tcp-create-socket@0.2.12";

/// What is replaced.
pub(super) const REPLACED: Replaced = (CREATION, &["create-tcp-socket"]);

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut creation = linker.instance(CREATION)?;
    creation.func_wrap("create-tcp-socket", create)
}

type Answer = std::result::Result<Resource<TcpSocket>, ErrorCode>;

fn create(
    mut store: StoreContextMut<'_, State>,
    (family,): (IpAddressFamily,),
) -> Result<(Answer,)> {
    let state = store.data_mut();
    if !state.has_network() {
        state.missing.note(Missing::Hosts);
        return Ok((Err(ErrorCode::AccessDenied),));
    }
    let created = state.sockets().create_tcp_socket(family);
    Ok((created.map(Ok).or_else(|error| error.downcast().map(Err))?,))
}
