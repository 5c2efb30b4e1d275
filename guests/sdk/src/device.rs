//! A [`Disk`] as the contract `device`.

use std::cell::RefCell;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::arena;
use crate::bindings::device::exports::wasmblk::block::{device, trim};
use crate::bindings::wasmblk::block::host::{Level, log};
use crate::bindings::wasmblk::block::types::{Geometry, TrimLimits};
use crate::disk::{Disk, Info};
use crate::{Errno, OpenError};

/// What `export_device!` exports.
#[derive(Debug)]
pub struct Calls<D>(PhantomData<D>);

thread_local! {
    static INFO: RefCell<Option<Info>> = const { RefCell::new(None) };
    /// The disk, whose type only [`Calls`] knows.
    static DISK: RefCell<Option<&'static dyn std::any::Any>> = const { RefCell::new(None) };
}

/// The disk that `open` made; the host calls nothing else before.
fn disk<D: Disk>() -> Result<&'static D, Errno> {
    DISK.with_borrow(|disk| disk.and_then(<dyn std::any::Any>::downcast_ref))
        .ok_or(Errno::Io)
}

/// What a future comes to that does not wait: one that does cannot be waited for in this contract.
fn at_once<T>(future: impl Future<Output = Result<T, Errno>>) -> Result<T, Errno> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => {
            log(Level::Error, "this guest waits: it needs export_ring!");
            Err(Errno::NotSupported)
        }
    }
}

impl<D: Disk> device::Guest for Calls<D> {
    fn open(options: Vec<(String, String)>) -> Result<Geometry, OpenError> {
        std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
        let (disk, info) = D::open(&options)?;
        let no_memory =
            || OpenError::Other("no memory for the scratch; give more with --memory-mib".into());
        arena::scratch_alone().ok_or_else(no_memory)?;
        // It lives as long as the instance.
        DISK.set(Some(Box::leak(Box::new(disk))));
        INFO.set(Some(info));
        Ok(info.geometry())
    }

    fn read(offset: u64, length: u32) -> Result<Vec<u8>, Errno> {
        let mut data = vec![0; length as usize];
        at_once(disk::<D>()?.read(offset, &mut data))?;
        Ok(data)
    }

    fn write(offset: u64, data: Vec<u8>, fua: bool) -> Result<(), Errno> {
        at_once(disk::<D>()?.write(offset, &data, fua))
    }

    fn flush() -> Result<(), Errno> {
        at_once(disk::<D>()?.flush())
    }
}

impl<D: Disk> trim::Guest for Calls<D> {
    fn limits() -> TrimLimits {
        INFO.with_borrow(|info| info.unwrap_or_else(|| Info::new(0)).trim())
    }

    fn discard(offset: u64, length: u32) -> Result<(), Errno> {
        at_once(disk::<D>()?.discard(offset, length))
    }

    fn write_zeroes(offset: u64, length: u32, may_discard: bool) -> Result<(), Errno> {
        at_once(disk::<D>()?.write_zeroes(offset, length, may_discard))
    }
}
