//! Connections are counted as the guest's memory: what it has written to one, and the other end has not taken, waits in
//! this process. Who has no network is refused, and that is noted.

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::p2::TcpSocket;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, Host, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::tcp::HostTcpSocket;
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi::sockets::WasiSocketsView;

use super::context::Replaced;
use crate::guest::imports::State;
use crate::guest::link::Link;
use crate::guest::missing::Missing;
use crate::limits;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const CREATE: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const TCP: &str = "wasi:sockets/tcp@0.2.12";

/// What is replaced.
pub(super) const REPLACED: Replaced = (CREATE, &["create-tcp-socket"]);

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(CREATE)?.link("create-tcp-socket", create)?;
    linker.instance(TCP)?.resource(
        "tcp-socket",
        ResourceType::host::<TcpSocket>(),
        |mut store, handle| {
            let state = store.data_mut();
            HostTcpSocket::drop(&mut state.sockets(), Resource::new_own(handle))?;
            state.limiter.give_back(limits::GUEST_CONNECTION_BYTES);
            Ok(())
        },
    )
}

/// What a function of the interface answers. The outer error ends the guest.
type Answer<T> = Result<(std::result::Result<T, ErrorCode>,)>;

fn create(
    mut store: StoreContextMut<'_, State>,
    (family,): (IpAddressFamily,),
) -> Answer<Resource<TcpSocket>> {
    let state = store.data_mut();
    if !state.has_network() {
        state.missing.note(Missing::Hosts);
        return Ok((Err(ErrorCode::AccessDenied),));
    }
    if !state.limiter.take(0, limits::GUEST_CONNECTION_BYTES, 1) {
        return Ok((Err(ErrorCode::NewSocketLimit),));
    }
    let made = tcp_create_socket::Host::create_tcp_socket(&mut state.sockets(), family);
    Ok((match made {
        Ok(socket) => Ok(socket),
        Err(error) => {
            state.limiter.give_back(limits::GUEST_CONNECTION_BYTES);
            Err(Host::convert_error_code(&mut state.sockets(), error)?)
        }
    },))
}
