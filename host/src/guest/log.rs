//! What a guest says, in the log of its device.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, trace, warn};

use super::bindings::wasmblk::block::host::Level;
use super::usage::Meter;
use crate::limits;
use crate::text::printable;

/// Lets through so many messages a second, of all instances of a guest together.
pub(super) struct LogGate {
    lines_per_second: u32,
    meter: Arc<Meter>,
    second: Mutex<Second>,
}

struct Second {
    begin: Instant,
    lines: u32,
}

impl LogGate {
    pub(super) fn new(lines_per_second: u32, meter: Arc<Meter>) -> LogGate {
        let second = Mutex::new(Second {
            begin: Instant::now(),
            lines: 0,
        });
        LogGate {
            lines_per_second,
            meter,
            second,
        }
    }

    /// A message, unless there were too many.
    pub(super) fn message(&self, level: Level, message: &str) {
        if !self.admit() {
            return;
        }
        let text = printable(message, limits::GUEST_LOG_LINE_BYTES_MAX);
        match level {
            Level::Error => error!(target: "guest", "{text}"),
            Level::Warn => warn!(target: "guest", "{text}"),
            Level::Info => info!(target: "guest", "{text}"),
            Level::Debug => debug!(target: "guest", "{text}"),
            Level::Trace => trace!(target: "guest", "{text}"),
        }
    }

    /// A line of its standard error: what toolchains print there of their own is mostly why a guest ends.
    pub(super) fn line(&self, line: &str) {
        self.message(Level::Warn, line);
    }

    fn admit(&self) -> bool {
        let mut second = self.second.lock().unwrap_or_else(PoisonError::into_inner);
        if second.begin.elapsed() >= Duration::from_secs(1) {
            let dropped = second.lines.saturating_sub(self.lines_per_second);
            if dropped > 0 {
                warn!(target: "guest", "{dropped} messages came too fast and were dropped");
            }
            *second = Second {
                begin: Instant::now(),
                lines: 0,
            };
        }
        second.lines = second.lines.saturating_add(1);
        let admitted = second.lines <= self.lines_per_second;
        let counter = if admitted {
            &self.meter.log_lines
        } else {
            &self.meter.log_lines_dropped
        };
        counter.fetch_add(1, Relaxed);
        admitted
    }
}
