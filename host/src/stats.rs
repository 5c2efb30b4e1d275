//! Counters of a device. Workers add to them without a lock; the control thread reads them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use crate::block::{Op, Request};

/// The counters themselves. Each only grows.
#[derive(Debug, Default)]
pub struct Stats {
    reads: AtomicU64,
    writes: AtomicU64,
    flushes: AtomicU64,
    discards: AtomicU64,
    write_zeroes: AtomicU64,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    copied_bytes: AtomicU64,
    errors: AtomicU64,
    batches: AtomicU64,
    batch_max: AtomicU64,
    transfer_max_bytes: AtomicU64,
}

/// What the counters were at one moment, as `info --json` shows them.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// Requests of each kind that reached the guest.
    pub reads: u64,
    /// See `reads`.
    pub writes: u64,
    /// See `reads`; flushes that the host made for FUA are not counted.
    pub flushes: u64,
    /// See `reads`.
    pub discards: u64,
    /// See `reads`.
    pub write_zeroes: u64,
    /// Bytes asked for by reads.
    pub read_bytes: u64,
    /// Bytes sent by writes.
    pub written_bytes: u64,
    /// Bytes that the host copied between slots and guests.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Requests answered with an errno.
    pub errors: u64,
    /// System calls that brought requests.
    pub batches: u64,
    /// Most requests that one of them brought.
    pub batch_max: u64,
    /// The longest read or write.
    #[serde(default)]
    pub transfer_max_bytes: u64,
}

impl Snapshot {
    /// All requests that reached the guest.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.discards + self.write_zeroes
    }
}

impl Stats {
    /// Counts one request on its way to the backend.
    pub fn count(&self, request: &Request) {
        let requests = match request.op {
            Op::Read => &self.reads,
            Op::Write => &self.writes,
            Op::Flush => &self.flushes,
            Op::Discard => &self.discards,
            Op::WriteZeroes => &self.write_zeroes,
        };
        requests.fetch_add(1, Relaxed);
        let length = u64::from(request.length);
        let bytes = match request.op {
            Op::Read => &self.read_bytes,
            Op::Write => &self.written_bytes,
            _ => return,
        };
        bytes.fetch_add(length, Relaxed);
        // Rarely a new one: most of the time this only looks.
        if length > self.transfer_max_bytes.load(Relaxed) {
            self.transfer_max_bytes.fetch_max(length, Relaxed);
        }
    }

    /// Counts data that was copied between slots and a guest.
    pub fn count_copied(&self, bytes: u64) {
        if bytes > 0 {
            self.copied_bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts one request that was answered with an errno.
    pub fn count_error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// Counts one wake-up with its requests.
    pub fn count_batch(&self, requests: u64) {
        if requests > 0 {
            self.batches.fetch_add(1, Relaxed);
            self.batch_max.fetch_max(requests, Relaxed);
        }
    }

    /// Reads all counters. They are not of one moment, but each is right.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            flushes: self.flushes.load(Relaxed),
            discards: self.discards.load(Relaxed),
            write_zeroes: self.write_zeroes.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            copied_bytes: self.copied_bytes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            batches: self.batches.load(Relaxed),
            batch_max: self.batch_max.load(Relaxed),
            transfer_max_bytes: self.transfer_max_bytes.load(Relaxed),
        }
    }
}
