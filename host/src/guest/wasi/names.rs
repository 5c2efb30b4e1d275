//! Names of hosts: those that a guest is granted, with the addresses that they had when the device began. A process
//! that is confined has no way to ask.

use std::net::IpAddr;
use std::vec;

use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress};
use wasmtime_wasi::p2::{DynPollable, Network, Pollable, subscribe};

use super::context::Replaced;
use super::remote::Remote;
use crate::guest::imports::State;
use crate::guest::link::Link;
use crate::guest::missing::Missing;
use crate::sys::Words;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const NAMES: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// What is replaced.
pub(super) const REPLACED: Replaced = (
    NAMES,
    &[
        "resolve-addresses",
        "[method]resolve-address-stream.resolve-next-address",
        "[method]resolve-address-stream.subscribe",
    ],
);

/// Addresses that are left to be told.
struct Addresses(vec::IntoIter<IpAddr>);

#[async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {}
}

/// What a function of the interface answers. The outer error ends the guest.
type Answer<T> = Result<(std::result::Result<T, ErrorCode>,)>;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut names = linker.instance(NAMES)?;
    names.resource(
        "resolve-address-stream",
        ResourceType::host::<Addresses>(),
        |mut store, handle| {
            let addresses = Resource::<Addresses>::new_own(handle);
            store.data_mut().table.delete(addresses)?;
            Ok(())
        },
    )?;
    names.link("resolve-addresses", resolve)?;
    names.link("[method]resolve-address-stream.resolve-next-address", next)?;
    names.link(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, State>, (addresses,): (Resource<Addresses>,)| {
            let pollable: Resource<DynPollable> =
                subscribe(&mut store.data_mut().table, addresses)?;
            Ok((pollable,))
        },
    )
}

fn resolve(
    mut store: StoreContextMut<'_, State>,
    (network, Words(name)): (Resource<Network>, Words),
) -> Answer<Resource<Addresses>> {
    let State {
        table,
        remotes,
        missing,
        ..
    } = store.data_mut();
    table.get(&network)?;
    let addresses = match name.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => remotes.addresses(&name),
    };
    if addresses.is_empty() {
        if Remote::is_name(&name) {
            missing.note(Missing::Host(name));
        }
        return Ok((Err(ErrorCode::NameUnresolvable),));
    }
    Ok((Ok(table.push(Addresses(addresses.into_iter()))?),))
}

fn next(
    mut store: StoreContextMut<'_, State>,
    (addresses,): (Resource<Addresses>,),
) -> Answer<Option<IpAddress>> {
    let addresses = store.data_mut().table.get_mut(&addresses)?;
    Ok((Ok(addresses.0.next().map(IpAddress::from)),))
}
