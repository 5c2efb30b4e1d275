//! What becomes of a guest's error, and of a guest that broke.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use super::bindings::wasmblk::block::types::Errno as GuestErrno;
use super::breach::Breach;
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

/// What a guest is told of a store's errno.
pub(super) fn guest_errno(errno: Errno) -> GuestErrno {
    match errno {
        Errno::ENOSPC => GuestErrno::NoSpace,
        Errno::EINVAL => GuestErrno::Invalid,
        Errno::EOPNOTSUPP => GuestErrno::NotSupported,
        Errno::EROFS => GuestErrno::ReadOnly,
        Errno::ETIMEDOUT => GuestErrno::TimedOut,
        Errno::ENODATA => GuestErrno::Medium,
        Errno::EILSEQ => GuestErrno::Corrupt,
        _ => GuestErrno::Io,
    }
}

/// What ended an instance: in which call, and how.
#[derive(Debug)]
pub(super) struct Fault {
    call: &'static str,
    kind: Kind,
    why: wasmtime::Error,
}

/// Faults are counted by what an operator does about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Trap,
    /// A call did not return in time, or a request was kept for too long.
    Deadline,
    Breach,
    /// An instance that was to take the place of another did not come up.
    Open,
}

impl Kind {
    fn of(why: &wasmtime::Error) -> Kind {
        if let Some(Breach::Overdue) = why.downcast_ref() {
            return Kind::Deadline;
        }
        match why.downcast_ref::<Trap>() {
            Some(Trap::Interrupt) => Kind::Deadline,
            Some(_) => Kind::Trap,
            None => Kind::Breach,
        }
    }
}

impl Fault {
    pub(super) fn new(call: &'static str, why: wasmtime::Error) -> Fault {
        let kind = Kind::of(&why);
        Fault { call, kind, why }
    }

    /// The next instance did not come up.
    pub(super) fn in_open(words: String) -> Fault {
        Fault {
            call: "open",
            kind: Kind::Open,
            why: wasmtime::Error::msg(words),
        }
    }

    /// In one line.
    pub(super) fn summary(&self) -> String {
        word(&format!("{}: {}", self.call, describe(&self.why)))
    }

    /// What helps to find the cause, in lines of its own: the guest's stack, where there is one, and the requests
    /// that it had in hand.
    pub(super) fn report(&self, requests: &[String]) -> String {
        let backtrace = self.why.downcast_ref::<WasmBacktrace>();
        let mut lines = backtrace.map(stack).unwrap_or_default();
        if !requests.is_empty() {
            lines.push_str("\n    | in hand: ");
            lines.push_str(&requests.join(" "));
        }
        lines
    }
}

/// Instances of a guest that were at fault, in all and by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// All of them.
    pub total: u64,
    /// Panics, and whatever else WebAssembly ends a program for.
    pub traps: Counted,
    /// Calls that did not return in time, and requests that were kept for too long.
    pub deadlines: Counted,
    /// What the contract forbids.
    pub breaches: Counted,
    /// Instances that were to take the place of another, and did not come up.
    pub failed_opens: Counted,
}

/// Faults of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many.
    pub count: u64,
    /// What the last one was, in one line.
    pub last_reason: Option<String>,
}

impl Faults {
    fn of(&mut self, kind: Kind) -> &mut Counted {
        match kind {
            Kind::Trap => &mut self.traps,
            Kind::Deadline => &mut self.deadlines,
            Kind::Breach => &mut self.breaches,
            Kind::Open => &mut self.failed_opens,
        }
    }
}

/// Whether a device's guest is still of use, and what became of its instances.
#[derive(Debug, Default)]
pub struct Health {
    failed: AtomicBool,
    /// A store did not make something durable. It says so once: whoever asks it again is told that all is well.
    lost: AtomicBool,
    restarts: AtomicU64,
    words: Mutex<Words>,
}

#[derive(Debug, Default)]
struct Words {
    /// Why it has failed.
    reason: Option<String>,
    faults: Faults,
    /// How its last instance ended.
    last_fault: Option<String>,
    /// What that had in hand.
    last_requests: Vec<String>,
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
        self.words().reason.clone()
    }

    /// How the last instance that was at fault ended, in one line.
    #[must_use]
    pub fn last_fault(&self) -> Option<String> {
        self.words().last_fault.clone()
    }

    /// Requests that it had not answered, the first few of them, each in one word.
    #[must_use]
    pub fn last_requests(&self) -> Vec<String> {
        self.words().last_requests.clone()
    }

    /// Instances that were at fault.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.words().faults.clone()
    }

    /// Instances that took the place of one that was.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts.load(Relaxed)
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an instance that was at fault, with the requests that it had in hand.
    pub(super) fn count_fault(&self, fault: &Fault, requests: Vec<String>) {
        let summary = fault.summary();
        let mut words = self.words();
        words.faults.total += 1;
        let count = words.faults.of(fault.kind);
        count.count += 1;
        count.last_reason = Some(summary.clone());
        words.last_fault = Some(summary);
        words.last_requests = requests;
    }

    /// Counts an instance that took the place of one that was.
    pub(super) fn count_restart(&self) {
        self.restarts.fetch_add(1, Relaxed);
    }

    /// A store did not make something durable, which an instance was told.
    pub(super) fn lose(&self) {
        self.lost.store(true, Relaxed);
    }

    /// Whether that was ever so: an instance that was not told could not know.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Marks the device as failed: from now on every request is answered with EIO at once. The first
    /// reason stays.
    pub fn give_up(&self, reason: &str) {
        self.words().reason.get_or_insert_with(|| reason.to_owned());
        self.failed.store(true, Relaxed);
    }
}

/// The functions of a guest's stack, innermost first. Their names are the guest's choice: they are cut,
/// shown as they are, and no line looks like one of ours.
fn stack(backtrace: &WasmBacktrace) -> String {
    let frames = backtrace.frames().iter();
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
