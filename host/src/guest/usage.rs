//! What a guest may use, and what it uses.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::sys::process_cpu_time;

/// What a guest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// All its instances together, with their linear memories and tables, in bytes.
    pub memory_bytes: u64,
    /// The longest call. It interrupts wasm code, not one bulk memory instruction in it.
    pub deadline: Duration,
    /// Computing time of the threads of all its instances, in percent of one processor; 100 is no limit.
    pub cpu_percent: u32,
    /// Messages in the log each second.
    pub log_lines: u32,
    /// Longest read or write that it is sent, in bytes.
    pub transfer_bytes: u32,
    /// Computing time of the compiler, and a little more by the clock.
    pub compile_time: Duration,
    /// Memory of the compiler, in bytes.
    pub compile_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            memory_bytes: limits::GUEST_MEMORY_BYTES_DEFAULT,
            deadline: limits::DEADLINE_DEFAULT,
            cpu_percent: limits::CPU_PERCENT_DEFAULT,
            log_lines: limits::GUEST_LOG_LINES_DEFAULT,
            transfer_bytes: limits::TRANSFER_BYTES_MAX,
            compile_time: limits::COMPILE_TIME_DEFAULT,
            compile_bytes: limits::COMPILE_BYTES_DEFAULT,
        }
    }
}

/// What all instances of a guest have used, counted where it is used.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) longest_call_ms: AtomicU64,
    pub(super) throttled_us: AtomicU64,
    pub(super) log_lines: AtomicU64,
    pub(super) log_lines_dropped: AtomicU64,
}

/// What a guest uses, beside its limits, as `info --json` shows it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Instances that it has now, with their linear memories and tables, in bytes.
    pub memory_bytes: u64,
    /// Its longest call, in steps of [`limits::CLOCK_TICK`]; 0 where none was seen by the clock twice.
    pub longest_call_ms: u64,
    /// Computing time of the process, all its threads together.
    pub cpu_ms: u64,
    /// How long its instances waited because of their budget.
    pub throttled_ms: u64,
    /// Its messages in the log.
    pub log_lines: u64,
    /// Its messages that came too fast.
    pub log_lines_dropped: u64,
}

impl Meter {
    /// What was used until now.
    pub(super) fn usage(&self, memory_bytes: u64) -> Usage {
        Usage {
            memory_bytes,
            longest_call_ms: self.longest_call_ms.load(Relaxed),
            cpu_ms: u64::try_from(process_cpu_time().as_millis()).unwrap_or(u64::MAX),
            throttled_ms: self.throttled_us.load(Relaxed) / 1000,
            log_lines: self.log_lines.load(Relaxed),
            log_lines_dropped: self.log_lines_dropped.load(Relaxed),
        }
    }
}
