//! What a device tells about itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::socket::Waiters;
use crate::block::Geometry;
use crate::config::DeviceConfig;
use crate::confine::Layer;
use crate::guest::{Directory, Faults, Guest, Health, Limits, Part, Remote, Usage};
use crate::stats::{Snapshot, Stats};
use crate::store::Grant;
use crate::ublk::{abi::DevInfo, block_path};

/// What a device is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being made.
    Starting,
    /// It serves requests.
    Live,
    /// Its guest has failed: every request is answered with EIO.
    Failed,
    /// Its process is gone, the kernel still has it: 'wasmblk del' removes it.
    Dead,
}

/// One device as `info` shows it. Sizes are in bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it; the README lists them")]
pub struct Status {
    pub id: u32,
    pub device: PathBuf,
    pub name: Option<String>,
    pub serial: String,
    #[serde(default)]
    pub trusted: bool,
    #[serde(default)]
    pub unprivileged: bool,
    pub state: State,
    pub reason: Option<String>,
    #[serde(default)]
    pub faults: Faults,
    #[serde(default)]
    pub restarts: u64,
    #[serde(default)]
    pub last_fault: Option<String>,
    #[serde(default)]
    pub last_requests: Vec<String>,
    pub pid: u32,
    pub guest: PathBuf,
    pub digest: String,
    pub contract: String,
    pub options: Vec<(String, String)>,
    #[serde(default)]
    pub stores: Vec<Grant>,
    #[serde(default)]
    pub allow: Vec<Part>,
    #[serde(default)]
    pub env: Vec<(String, String)>,
    #[serde(default)]
    pub dirs: Vec<Directory>,
    #[serde(default)]
    pub net: Vec<String>,
    pub size_bytes: u64,
    pub logical_block_bytes: u32,
    pub physical_block_bytes: u32,
    pub max_transfer_bytes: u32,
    pub read_only: bool,
    pub volatile_cache: bool,
    pub fua: String,
    pub max_discard_bytes: u32,
    pub max_write_zeroes_bytes: u32,
    pub queues: u16,
    pub depth: u16,
    pub workers: u16,
    pub data_path: String,
    pub limits: LimitsShown,
    pub usage: Usage,
    pub log: PathBuf,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub broker: Option<PathBuf>,
    #[serde(default)]
    pub confinement: Vec<Layer>,
    pub uptime_ms: u128,
    pub stats: Snapshot,
}

/// What a guest may use, beside what it uses.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LimitsShown {
    pub memory_bytes: u64,
    pub deadline_ms: u128,
    pub cpu_percent: u32,
    pub log_lines_per_second: u32,
    pub transfer_bytes: u32,
    #[serde(default)]
    pub compile_ms: u128,
    #[serde(default)]
    pub compile_bytes: u64,
}

impl LimitsShown {
    fn new(limits: &Limits) -> LimitsShown {
        LimitsShown {
            memory_bytes: limits.memory_bytes,
            deadline_ms: limits.deadline.as_millis(),
            cpu_percent: limits.cpu_percent,
            log_lines_per_second: limits.log_lines,
            transfer_bytes: limits.transfer_bytes,
            compile_ms: limits.compile_time.as_millis(),
            compile_bytes: limits.compile_bytes,
        }
    }
}

/// What a status is made from, shared by the threads of a data plane.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) guest: Arc<Guest>,
    pub(super) config: DeviceConfig,
    pub(super) geometry: Geometry,
    pub(super) info: DevInfo,
    pub(super) log: PathBuf,
    /// Whose processes these are.
    pub(super) uid: u32,
    pub(super) confinement: Vec<Layer>,
    pub(super) health: Arc<Health>,
    pub(super) stats: Stats,
    pub(super) live: AtomicBool,
    /// A ring failed: requests are without an answer until the process ends.
    pub(super) broken: AtomicBool,
    pub(super) waiters: Waiters,
    pub(super) since: Instant,
}

impl Shared {
    /// The status of this moment.
    pub(super) fn status(&self) -> Status {
        let Shared {
            config,
            geometry,
            info,
            ..
        } = self;
        let id = info.dev_id;
        let fua = match (geometry.volatile_cache, geometry.fua_native) {
            (false, _) => "every write",
            (true, true) => "guest",
            (true, false) => "flush after write",
        };
        Status {
            id,
            device: block_path(id),
            name: config.name.clone(),
            serial: config.serial(id),
            trusted: config.trusted,
            unprivileged: config.unprivileged,
            state: self.state(),
            reason: self.health.reason(),
            faults: self.health.faults(),
            restarts: self.health.restarts(),
            last_fault: self.health.last_fault(),
            last_requests: self.health.last_requests(),
            pid: std::process::id(),
            guest: config.guest.clone(),
            digest: config.digest.clone(),
            contract: self.guest.contract().into(),
            options: config.options.clone(),
            stores: config.stores.clone(),
            allow: config.allowed.parts.clone(),
            env: config.allowed.env.clone(),
            dirs: config.allowed.directories.clone(),
            net: config
                .allowed
                .remotes
                .iter()
                .map(Remote::to_string)
                .collect(),
            size_bytes: geometry.size_bytes,
            logical_block_bytes: geometry.logical_block_bytes,
            physical_block_bytes: geometry.physical_block_bytes,
            max_transfer_bytes: geometry.max_transfer_bytes,
            read_only: geometry.read_only,
            volatile_cache: geometry.volatile_cache,
            fua: fua.into(),
            max_discard_bytes: geometry.trim.map_or(0, |trim| trim.max_discard_bytes),
            max_write_zeroes_bytes: geometry.trim.map_or(0, |trim| trim.max_write_zeroes_bytes),
            queues: info.nr_hw_queues,
            depth: info.queue_depth,
            workers: if geometry.replicated {
                info.nr_hw_queues
            } else {
                1
            },
            data_path: if info.is_zero_copy() {
                "zero-copy".into()
            } else {
                "copy".into()
            },
            limits: LimitsShown::new(&config.limits),
            usage: self.guest.usage(),
            log: self.log.clone(),
            uid: self.uid,
            broker: config.broker.clone(),
            confinement: self.confinement.clone(),
            uptime_ms: self.since.elapsed().as_millis(),
            stats: self.stats.snapshot(),
        }
    }

    fn state(&self) -> State {
        if self.health.has_failed() {
            State::Failed
        } else if self.live.load(Relaxed) {
            State::Live
        } else {
            State::Starting
        }
    }
}
