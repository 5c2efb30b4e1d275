//! A [`Disk`] or [`Mapper`] as the contract `ring`.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;

use crate::answer::Answer;
use crate::arena::{Arena, Record, Wanted};
use crate::bindings::exports::wasmblk::block::ring::{self, Shape};
use crate::bindings::wasmblk::block::host::{Level, lend, log};
use crate::data::Data;
use crate::disk::{Disk, Info};
use crate::executor::Executor;
use crate::mapper::Mapper;
use crate::{Errno, OpenError, operation, store};

/// The longest transfer of a disk that names none, in bytes.
const TRANSFER_BYTES_DEFAULT: u32 = 512 << 10;

/// `poll` is to be called again.
const MORE: u32 = 1 << 31;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 2;
const DISCARD: u32 = 3;
const WRITE_ZEROES: u32 = 4;
const TIMER: u32 = 16;
const ENDED: u32 = 17;

/// Operations at a time, beside some for each request.
const OPS_ALONE: usize = 64;
const OPS_OF_REQUEST: usize = 4;

/// What `export_ring!` exports.
#[derive(Debug)]
pub struct Batches<D>(PhantomData<D>);

/// What `export_mapper!` exports.
#[derive(Debug)]
pub struct Maps<M>(PhantomData<M>);

thread_local! {
    static SERVER: RefCell<Option<Box<dyn Poll>>> = const { RefCell::new(None) };
}

trait Poll {
    fn poll(&mut self, events: u32) -> u32;
}

fn poll(events: u32) -> u32 {
    SERVER.with_borrow_mut(|server| match server {
        Some(server) => server.poll(events),
        None => 0,
    })
}

impl<D: Disk> ring::Guest for Batches<D> {
    fn open(options: Vec<(String, String)>, shape: Shape) -> Result<ring::Disk, OpenError> {
        report_panics();
        let opened = D::open(&options)?;
        serve(opened, &shape, ring::Data::Arena, serve_disk::<D>)
    }

    fn poll(events: u32) -> u32 {
        poll(events)
    }
}

impl<M: Mapper> ring::Guest for Maps<M> {
    fn open(options: Vec<(String, String)>, shape: Shape) -> Result<ring::Disk, OpenError> {
        report_panics();
        let opened = M::open(&options)?;
        serve(opened, &shape, ring::Data::Host, serve_mapper::<M>)
    }

    fn poll(events: u32) -> u32 {
        poll(events)
    }
}

fn report_panics() {
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
}

/// Lends an arena, and serves a disk from there.
fn serve<D, F, A>(
    (disk, info): (D, Info),
    shape: &Shape,
    data: ring::Data,
    serve: impl Fn(&'static D, Request) -> F + 'static,
) -> Result<ring::Disk, OpenError>
where
    D: 'static,
    F: Future<Output = Result<A, Errno>> + 'static,
    A: Into<Answer>,
{
    let mut geometry = info.geometry();
    if geometry.max_transfer_bytes == 0 {
        geometry.max_transfer_bytes = TRANSFER_BYTES_DEFAULT;
    }
    geometry.max_transfer_bytes = geometry.max_transfer_bytes.min(shape.max_transfer_bytes);
    let depth = shape.depth as usize;
    let slot_bytes = match data {
        ring::Data::Arena => geometry.max_transfer_bytes,
        ring::Data::Host => 0,
    };
    let ops_max = OPS_ALONE + OPS_OF_REQUEST * depth;
    let wanted = Wanted {
        depth,
        slot_bytes: slot_bytes as usize,
        ops_max,
    };
    let arena = Arena::new(&wanted).ok_or_else(|| {
        OpenError::Other(format!(
            "no memory for the data of {depth} requests of {slot_bytes} bytes each; give more with \
             --memory-mib, or, with 'add', ask for less with --depth"
        ))
    })?;
    arena.with_bytes(lend);
    operation::set_max(ops_max);
    store::no_calls();
    let server = Server {
        // It lives as long as the instance.
        disk: Box::leak(Box::new(disk)),
        arena,
        executor: Executor::new(depth),
        serve,
        actions: 0,
    };
    SERVER.set(Some(Box::new(server)));
    Ok(ring::Disk {
        geometry,
        trim: Some(info.trim()),
        layout: arena.layout(),
        data,
    })
}

struct Server<D: 'static, S, F> {
    disk: &'static D,
    arena: Arena,
    executor: Executor<F>,
    serve: S,
    actions: usize,
}

/// A request, with its data in its slot or with the host.
struct Request {
    kind: u32,
    tag: u32,
    offset: u64,
    length: u32,
    flags: u32,
    slot: &'static mut [u8],
}

async fn serve_disk<D: Disk>(disk: &'static D, request: Request) -> Result<(), Errno> {
    let Request {
        kind,
        offset,
        length,
        flags,
        slot,
        ..
    } = request;
    match kind {
        READ => disk.read(offset, slot).await,
        WRITE => disk.write(offset, slot, flags & 1 != 0).await,
        FLUSH => disk.flush().await,
        DISCARD => disk.discard(offset, length).await,
        WRITE_ZEROES => disk.write_zeroes(offset, length, flags & 2 != 0).await,
        _ => Err(Errno::NotSupported),
    }
}

async fn serve_mapper<M: Mapper>(mapper: &'static M, request: Request) -> Result<Answer, Errno> {
    let Request {
        kind,
        tag,
        offset,
        length,
        flags,
        ..
    } = request;
    match kind {
        READ => return mapper.read(offset, Data::new(tag, length)).await,
        WRITE => {
            let data = Data::new(tag, length);
            return mapper.write(offset, data, flags & 1 != 0).await;
        }
        FLUSH => mapper.flush().await,
        DISCARD => mapper.discard(offset, length).await,
        WRITE_ZEROES => mapper.write_zeroes(offset, length, flags & 2 != 0).await,
        _ => Err(Errno::NotSupported),
    }
    .map(Answer::from)
}

impl<D, S, F, A> Server<D, S, F>
where
    S: Fn(&'static D, Request) -> F,
    F: Future<Output = Result<A, Errno>>,
    A: Into<Answer>,
{
    fn event(&mut self, [head, offset, size, _]: Record) {
        let (kind, tag) = (head as u32, (head >> 32) as u32);
        let (length, flags) = (size as u32, (size >> 32) as u32);
        if kind == TIMER || kind == ENDED {
            return operation::ended(tag, length);
        }
        let data_bytes = if kind == READ || kind == WRITE {
            length
        } else {
            0
        };
        let request = Request {
            kind,
            tag,
            offset,
            length,
            flags,
            slot: self.arena.slot(tag as usize, data_bytes as usize),
        };
        let future = (self.serve)(self.disk, request);
        if let Some(result) = self.executor.begin(tag as usize, future) {
            complete(&self.arena, &mut self.actions, tag, result);
        }
    }
}

impl<D, S, F, A> Poll for Server<D, S, F>
where
    S: Fn(&'static D, Request) -> F,
    F: Future<Output = Result<A, Errno>>,
    A: Into<Answer>,
{
    fn poll(&mut self, events: u32) -> u32 {
        self.actions = 0;
        for index in 0..events as usize {
            self.event(self.arena.event(index));
        }
        let (arena, actions) = (&self.arena, &mut self.actions);
        self.executor
            .go_on_with_woken(|tag, result| complete(arena, actions, tag as u32, result));
        operation::take_new(|action| {
            arena.put_action(*actions, action);
            *actions += 1;
        });
        // Fewer than 2^31, as there is a record for each.
        self.actions as u32 | if Executor::<F>::has_woken() { MORE } else { 0 }
    }
}

fn complete(
    arena: &Arena,
    actions: &mut usize,
    tag: u32,
    result: Result<impl Into<Answer>, Errno>,
) {
    let completion = |status| [u64::from(tag) << 32, 0, status, 0];
    let action = match result.map(Into::into) {
        Ok(Answer(None)) => completion(0),
        Ok(Answer(Some(transfer))) => transfer,
        Err(errno) => completion(1 + errno as u64),
    };
    arena.put_action(*actions, &action);
    *actions += 1;
}
