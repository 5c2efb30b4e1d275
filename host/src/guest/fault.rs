//! What becomes of a guest's error, and of a guest that broke.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tracing::error;
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use super::bindings::wasmblk::block::types::Errno as GuestErrno;
use crate::block::Errno;
use crate::limits;
use crate::text::printable;

/// The errno for a guest's own error.
pub(super) fn errno(error: GuestErrno) -> Errno {
    match error {
        GuestErrno::Io => Errno::EIO,
        GuestErrno::NoSpace => Errno::ENOSPC,
        GuestErrno::Invalid => Errno::EINVAL,
        GuestErrno::NotSupported => Errno::EOPNOTSUPP,
        GuestErrno::ReadOnly => Errno::EROFS,
        GuestErrno::TimedOut => Errno::ETIMEDOUT,
        GuestErrno::Medium => Errno::ENODATA,
        GuestErrno::Corrupt => Errno::EILSEQ,
    }
}

/// Whether a device's guest is still of use. It fails once and for all: a RAM disk that came back as
/// zeros under a mounted file system would lose data silently.
#[derive(Debug, Default)]
pub struct Health {
    failed: AtomicBool,
    reason: Mutex<Option<String>>,
}

impl Health {
    /// Whether requests are to be answered with EIO at once.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Why, in one line.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Marks the device as failed, then tells the log, with the guest's stack where there is one.
    pub(super) fn fail(&self, call: &str, fault: &wasmtime::Error) {
        let summary = word(&format!("{call}: {}", describe(fault)));
        self.give_up(&summary);
        let stack = fault
            .downcast_ref::<WasmBacktrace>()
            .map(stack)
            .unwrap_or_default();
        error!("the guest has failed; from now on every request is EIO: {summary}{stack}");
    }

    /// Marks the device as failed: from now on every request is answered with EIO at once. The first
    /// reason stays.
    pub fn give_up(&self, reason: &str) {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_with(|| reason.to_owned());
        self.failed.store(true, Relaxed);
    }
}

/// The functions of a guest's stack, innermost first. Their names are the guest's choice: they are cut,
/// shown as they are, and no line looks like one of ours.
fn stack(backtrace: &WasmBacktrace) -> String {
    let frames = backtrace.frames().iter().take(limits::STACK_FRAMES_MAX);
    let line = |frame: &FrameInfo| {
        let name = word(frame.func_name().unwrap_or("a function without a name"));
        let offset = frame.module_offset().unwrap_or(0);
        format!("\n    | {offset:#8x} {name}")
    };
    frames.map(line).collect()
}

/// Words of a guest, in a length that leaves room for ours.
pub(super) fn word(text: &str) -> String {
    printable(text, limits::GUEST_WORDS_BYTES_MAX)
}

/// A trap in an operator's words.
pub(super) fn describe(fault: &wasmtime::Error) -> String {
    match fault.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => "it did not return within its deadline".into(),
        Some(Trap::UnreachableCodeReached) => "it gave up (a panic, abort or assertion)".into(),
        Some(trap) => format!("it trapped: {trap}"),
        None => fault.root_cause().to_string(),
    }
}
