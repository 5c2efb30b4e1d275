//! The contract `device`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasmtime::Store;
use wasmtime::component::TypedFunc;

use super::bindings::exports::wasmblk::block::{device, trim};
use super::bindings::wasmblk::block::types::Errno as GuestErrno;
use super::fault::{self, Fault};
use super::imports::State;
use super::session::Session;
use crate::block::{Backend, Errno};
use crate::sys::Taken;

/// The contract `device`: a function for each kind of request.
pub struct Instance {
    session: Session,
    ticks: Arc<AtomicU64>,
    functions: Functions,
    /// What ended it.
    fault: Option<Fault>,
}

/// What it exports.
pub(super) struct Functions {
    pub(super) device: device::Guest,
    /// Not by the bindings: they would copy what it gives, however long that is.
    pub(super) read: Read,
    pub(super) trim: Option<trim::Guest>,
}

/// `device.read`.
pub(super) type Read = TypedFunc<(u64, u32), (std::result::Result<Taken, GuestErrno>,)>;

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance").finish_non_exhaustive()
    }
}

/// What a call into wasm comes to: a value, the guest's own error, or a trap.
type Outcome<T> = wasmtime::Result<std::result::Result<T, GuestErrno>>;

impl Instance {
    pub(super) fn new(session: Session, functions: Functions) -> Instance {
        Instance {
            ticks: session.ticks(),
            session,
            functions,
            fault: None,
        }
    }

    /// What ended it, told once.
    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        self.fault.take()
    }

    /// One call: not at all after a failure, watched by the clock, and a trap is the last.
    fn guarded<T>(
        &mut self,
        name: &'static str,
        call: impl FnOnce(&Functions, &mut Store<State>) -> Outcome<T>,
    ) -> std::result::Result<T, Errno> {
        if self.fault.is_some() {
            return Err(Errno::EIO);
        }
        let functions = &self.functions;
        match self.session.call(|store| call(functions, store)) {
            Ok(result) => result.map_err(fault::errno),
            Err(trap) => {
                self.fault = Some(Fault::new(name, trap));
                Err(Errno::EIO)
            }
        }
    }
}

impl Backend for Instance {
    fn has_ended(&self) -> bool {
        self.fault.is_some()
    }

    fn ticks(&self) -> u64 {
        self.ticks.load(Relaxed)
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> std::result::Result<(), Errno> {
        // Bounded by TRANSFER_BYTES_MAX.
        let length = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
        let Taken(list) = self.guarded("read", |functions, store| {
            Ok(functions.read.call(store, (offset, length))?.0)
        })?;
        if list.len() != data.len() {
            let breach = wasmtime::Error::msg(format!(
                "it gave {} bytes where {length} were asked for",
                list.len()
            ));
            self.fault = Some(Fault::new("read", breach));
            return Err(Errno::EIO);
        }
        data.copy_from_slice(&list);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> std::result::Result<(), Errno> {
        self.guarded("write", |functions, store| {
            functions.device.call_write(store, offset, data, fua)
        })
    }

    fn flush(&mut self) -> std::result::Result<(), Errno> {
        self.guarded("flush", |functions, store| {
            functions.device.call_flush(store)
        })
    }

    fn discard(&mut self, offset: u64, length: u32) -> std::result::Result<(), Errno> {
        self.guarded("discard", |functions, store| match &functions.trim {
            Some(trim) => trim.call_discard(store, offset, length),
            None => Ok(Err(NOT_SUPPORTED)),
        })
    }

    fn write_zeroes(
        &mut self,
        offset: u64,
        length: u32,
        may_discard: bool,
    ) -> std::result::Result<(), Errno> {
        self.guarded("write-zeroes", |functions, store| match &functions.trim {
            Some(trim) => trim.call_write_zeroes(store, offset, length, may_discard),
            None => Ok(Err(NOT_SUPPORTED)),
        })
    }
}

/// The answer for an interface that a guest does not have; its geometry keeps such requests away.
const NOT_SUPPORTED: GuestErrno = GuestErrno::NotSupported;
