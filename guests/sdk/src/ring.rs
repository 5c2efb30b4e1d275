//! A [`Disk`] as the contract `ring`.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;

use crate::arena::{Arena, Record};
use crate::bindings::exports::wasmblk::block::ring::{self, Shape};
use crate::bindings::wasmblk::block::host::{Level, lend, log};
use crate::disk::Disk;
use crate::executor::Executor;
use crate::timer::{self, TIMERS_MAX};
use crate::{Errno, OpenError};

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

/// What `export_ring!` exports.
#[derive(Debug)]
pub struct Batches<D>(PhantomData<D>);

thread_local! {
    static SERVER: RefCell<Option<Box<dyn Poll>>> = const { RefCell::new(None) };
}

trait Poll {
    fn poll(&mut self, events: u32) -> u32;
}

impl<D: Disk> ring::Guest for Batches<D> {
    fn open(options: Vec<(String, String)>, shape: Shape) -> Result<ring::Disk, OpenError> {
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        let (disk, info) = D::open(&options)?;
        let mut geometry = info.geometry();
        if geometry.max_transfer_bytes == 0 {
            geometry.max_transfer_bytes = TRANSFER_BYTES_DEFAULT.min(shape.max_transfer_bytes);
        }
        let slot_bytes = geometry.max_transfer_bytes;
        let arena = Arena::new(&shape, slot_bytes, TIMERS_MAX).ok_or_else(|| {
            let depth = shape.depth;
            OpenError::Other(format!(
                "no memory for the data of {depth} requests of {slot_bytes} bytes each; give more with \
                 --memory-mib, or, with 'add', ask for less with --depth"
            ))
        })?;
        arena.with_bytes(lend);
        let server = Server {
            // It lives as long as the instance.
            disk: Box::leak(Box::new(disk)),
            arena,
            executor: Executor::new(shape.depth as usize),
            serve: serve::<D>,
            actions: 0,
        };
        SERVER.set(Some(Box::new(server)));
        Ok(ring::Disk {
            geometry,
            trim: Some(info.trim()),
            layout: arena.layout(),
        })
    }

    fn poll(events: u32) -> u32 {
        SERVER.with_borrow_mut(|server| match server {
            Some(server) => server.poll(events),
            None => 0,
        })
    }
}

struct Server<D: 'static, F> {
    disk: &'static D,
    arena: Arena,
    executor: Executor<F>,
    serve: fn(&'static D, Request) -> F,
    actions: usize,
}

/// A request, with its data in its slot.
struct Request {
    kind: u32,
    offset: u64,
    length: u32,
    flags: u32,
    data: &'static mut [u8],
}

async fn serve<D: Disk>(disk: &'static D, request: Request) -> Result<(), Errno> {
    let Request {
        kind,
        offset,
        length,
        flags,
        data,
    } = request;
    match kind {
        READ => disk.read(offset, data).await,
        WRITE => disk.write(offset, data, flags & 1 != 0).await,
        FLUSH => disk.flush().await,
        DISCARD => disk.discard(offset, length).await,
        WRITE_ZEROES => disk.write_zeroes(offset, length, flags & 2 != 0).await,
        _ => Err(Errno::NotSupported),
    }
}

impl<D, F: Future<Output = Result<(), Errno>>> Server<D, F> {
    fn event(&mut self, [head, offset, size, _]: Record) {
        let (kind, tag) = (head as u32, (head >> 32) as u32);
        if kind == TIMER {
            return timer::due(tag);
        }
        let (length, flags) = (size as u32, (size >> 32) as u32);
        let data_bytes = if kind == READ || kind == WRITE {
            length
        } else {
            0
        };
        let request = Request {
            kind,
            offset,
            length,
            flags,
            data: self.arena.slot(tag as usize, data_bytes as usize),
        };
        let future = (self.serve)(self.disk, request);
        if let Some(result) = self.executor.begin(tag as usize, future) {
            complete(&self.arena, &mut self.actions, tag, result);
        }
    }
}

impl<D, F: Future<Output = Result<(), Errno>>> Poll for Server<D, F> {
    fn poll(&mut self, events: u32) -> u32 {
        self.actions = 0;
        for index in 0..events as usize {
            self.event(self.arena.event(index));
        }
        let (arena, actions) = (&self.arena, &mut self.actions);
        self.executor
            .go_on_with_woken(|tag, result| complete(arena, actions, tag as u32, result));
        timer::take_new(|token, after_ms| {
            let head = u64::from(TIMER) | u64::from(token) << 32;
            arena.put_action(*actions, &[head, after_ms, 0, 0]);
            *actions += 1;
        });
        // Fewer than 2^31, as there is a record for each.
        self.actions as u32 | if Executor::<F>::has_woken() { MORE } else { 0 }
    }
}

fn complete(arena: &Arena, actions: &mut usize, tag: u32, result: Result<(), Errno>) {
    let status = match result {
        Ok(()) => 0,
        Err(errno) => 1 + errno as u64,
    };
    arena.put_action(*actions, &[u64::from(tag) << 32, 0, status, 0]);
    *actions += 1;
}
