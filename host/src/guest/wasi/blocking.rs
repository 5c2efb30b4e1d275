//! Streams that are read and written until something comes of it: under the deadline of the call, as all waiting. And
//! what is written without waiting, of which the library would take copies of any length.

use wasmtime::component::{Linker, Resource, ResourceTable, ResourceType};
use wasmtime::{Result, StoreContextMut, ensure};
use wasmtime_wasi::p2::bindings::io::streams::{
    Host, HostInputStream, HostOutputStream, StreamError,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, StreamResult};

use super::context::Replaced;
use super::waits::wait;
use crate::guest::imports::State;
use crate::guest::link::Link;
use crate::limits;
use crate::sys::Passed;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
const STREAMS: &str = "wasi:io/streams@0.2.12";

/// What is replaced.
pub(super) const REPLACED: Replaced = (
    STREAMS,
    &[
        "[method]input-stream.blocking-read",
        "[method]input-stream.blocking-skip",
        "[method]output-stream.write",
        "[method]output-stream.blocking-flush",
        "[method]output-stream.blocking-write-and-flush",
        "[method]output-stream.blocking-write-zeroes-and-flush",
        "[method]output-stream.blocking-splice",
    ],
);

/// What a function of the interface answers. The outer error ends the guest.
type Answer<T> = Result<(std::result::Result<T, StreamError>,)>;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut streams = linker.instance(STREAMS)?;
    streams.resource(
        "output-stream",
        ResourceType::host::<DynOutputStream>(),
        |mut store, handle| {
            // What was written to a host that does not listen is waited for.
            wait(&mut store, async |table| {
                HostOutputStream::drop(table, Resource::new_own(handle)).await
            })?
        },
    )?;
    streams.link("[method]input-stream.blocking-read", read)?;
    streams.link("[method]input-stream.blocking-skip", skip)?;
    streams.link("[method]output-stream.write", write)?;
    streams.link("[method]output-stream.blocking-flush", flush)?;
    streams.link(
        "[method]output-stream.blocking-write-and-flush",
        write_and_flush,
    )?;
    streams.link(
        "[method]output-stream.blocking-write-zeroes-and-flush",
        write_zeroes,
    )?;
    streams.link("[method]output-stream.blocking-splice", splice)
}

fn read(
    store: StoreContextMut<'_, State>,
    (stream, bytes): (Resource<DynInputStream>, u64),
) -> Answer<Vec<u8>> {
    until_done(store, async |table| {
        HostInputStream::blocking_read(table, stream, bytes).await
    })
}

fn skip(
    store: StoreContextMut<'_, State>,
    (stream, bytes): (Resource<DynInputStream>, u64),
) -> Answer<u64> {
    until_done(store, async |table| {
        HostInputStream::blocking_skip(table, stream, bytes).await
    })
}

fn flush(store: StoreContextMut<'_, State>, (stream,): (Resource<DynOutputStream>,)) -> Answer<()> {
    until_done(store, async |table| {
        HostOutputStream::blocking_flush(table, stream).await
    })
}

fn write(
    mut store: StoreContextMut<'_, State>,
    (stream, data): (Resource<DynOutputStream>, Passed),
) -> Answer<()> {
    let data = copy(data)?;
    let table = &mut store.data_mut().table;
    Ok((match HostOutputStream::write(table, stream, data) {
        Ok(()) => Ok(()),
        Err(error) => Err(table.convert_stream_error(error)?),
    },))
}

fn write_and_flush(
    store: StoreContextMut<'_, State>,
    (stream, data): (Resource<DynOutputStream>, Passed),
) -> Answer<()> {
    let data = copy(data)?;
    until_done(store, async |table| {
        HostOutputStream::blocking_write_and_flush(table, stream, data).await
    })
}

/// No stream lets a guest write more at a time.
fn copy(data: Passed) -> Result<Vec<u8>> {
    let (bytes, most) = (data.bytes(), limits::GUEST_STREAM_BYTES_MAX);
    ensure!(
        bytes <= most,
        "it writes {bytes} bytes to a stream at once; the most are {most}"
    );
    Ok(data.look(<[u8]>::to_vec))
}

fn write_zeroes(
    store: StoreContextMut<'_, State>,
    (stream, bytes): (Resource<DynOutputStream>, u64),
) -> Answer<()> {
    until_done(store, async |table| {
        HostOutputStream::blocking_write_zeroes_and_flush(table, stream, bytes).await
    })
}

fn splice(
    store: StoreContextMut<'_, State>,
    (to, from, bytes): (Resource<DynOutputStream>, Resource<DynInputStream>, u64),
) -> Answer<u64> {
    until_done(store, async |table| {
        HostOutputStream::blocking_splice(table, to, from, bytes).await
    })
}

fn until_done<T>(
    mut store: StoreContextMut<'_, State>,
    work: impl AsyncFnOnce(&mut ResourceTable) -> StreamResult<T>,
) -> Answer<T> {
    Ok((match wait(&mut store, work)? {
        Ok(value) => Ok(value),
        Err(error) => Err(store.data_mut().table.convert_stream_error(error)?),
    },))
}
