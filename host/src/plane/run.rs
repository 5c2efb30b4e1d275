//! A data plane's life: open the guest, make the device, serve, clean up.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, geteuid, getrlimit, setrlimit};
use rustix::stdio::dup2_stderr;
use rustix::thread::{CpuSet, sched_setaffinity};
use tracing::{debug, error, info, warn};
use wasmtime::Engine;

use super::errand::Minder;
use super::launch::Handed;
use super::log::{LogFiles, log_to};
use super::run_dir::RunDir;
use super::socket;
use super::status::Shared;
use crate::block::Geometry;
use crate::config::DeviceConfig;
use crate::confine;
use crate::error::{Context, Error, Result};
use crate::guest::{Clock, Granted, Guest, Health, Opened, Opener, Tags, new_engine};
use crate::limits;
use crate::serve;
use crate::stats::Stats;
use crate::store::Stores;
use crate::sys::{Artefact, QueueRing, nothing, set_io_flusher};
use crate::ublk::{fetch, serve_queues};
use crate::wake::{Wake, WakeAtEnd, end_with_parent};

/// How often ending workers are looked for.
const JOIN_STEP: Duration = Duration::from_millis(5);

/// Serves one device, from opening the guest until a signal, or until somebody stops the device. Before the
/// guest is loaded, this process gives up all that it does not need; what needs privilege its minder does.
///
/// # Errors
///
/// Why there is no device, why it ended before its time, what was lost at its end, or what of it could
/// not be removed.
pub fn run(handed: Handed) -> Result<()> {
    let Handed {
        config,
        artefact,
        stores,
        parent,
    } = handed;
    if config.broker.is_some() || config.unprivileged {
        // The broker ends who does not answer, and means this process too. The kernel ends the minder, which opened
        // the device, where a request of an unprivileged one takes 30 s: it would never end if this process went on.
        end_with_parent(Signal::KILL)?;
    }
    let minder = Arc::new(Minder::new(parent));
    let result = serve(config, &artefact, stores, &minder);
    minder.tell_end(&result);
    result
}

fn serve(
    config: DeviceConfig,
    artefact: &Artefact,
    stores: Vec<File>,
    minder: &Arc<Minder>,
) -> Result<()> {
    let mut wake = Wake::new()?;
    make_room_for_files(config.queues);
    let granted = open_granted(&config, stores)?;
    let engine = new_engine()?;
    // Threads that are started from here on are marked too, and confined.
    if let Err(error) = set_io_flusher() {
        debug!(%error, "cannot be marked as an I/O flusher: keep swap off this device");
    }
    let uid = (config.owner).map_or_else(|| geteuid().as_raw(), |(uid, _)| uid);
    let nothing = nothing().doing(|| "cannot make a pipe".into())?;
    let mut confinement = Vec::new();
    if config.confine {
        confinement.extend(confine::for_device(&granted.needed()));
    }
    let name = config.guest.display().to_string();
    let guest = Guest::load(&engine, artefact, &name, config.limits, granted)?;
    if config.confine {
        confinement.extend(confine::load_no_more_code());
    }
    let opener = opener(&config, &engine, guest)?;
    opener.guest.give_way();
    let first = opener.open()?;
    let geometry = first.geometry;
    wake.check()?;
    let added = minder.add(geometry, &first.place)?;
    let id = added.info.dev_id;
    let shared = Arc::new(Shared {
        guest: opener.guest.clone(),
        log: RunDir::new(config.run_dir.clone()).log(id),
        uid,
        confinement,
        info: added.info,
        geometry,
        health: opener.health.clone(),
        stats: Stats::default(),
        live: AtomicBool::new(false),
        broken: AtomicBool::new(false),
        waiters: socket::Waiters::default(),
        since: Instant::now(),
        config,
    });
    let mut plane = Plane {
        minder,
        device: Some(Arc::new(added.device)),
        opener,
        shared,
        workers: Vec::new(),
    };
    let served = socket::serve(added.listener, plane.shared.clone(), minder.clone())
        .and_then(|()| plane.serve(first, &mut wake, &nothing));
    let result = served.and(plane.end());
    plane.shared.waiters.tell(&result);
    result
}

/// Lets all instances have as many files and connections open as they may: who asks for the state of the device takes
/// one as well.
fn make_room_for_files(queues: u16) {
    let instances = u64::from(queues) * limits::GUEST_RESOURCES_MAX as u64;
    let wanted = limits::PLANE_FILES_MAX + instances;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = limit.maximum.map_or(wanted, |most| most.min(wanted));
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(current),
            ..limit
        },
    );
    if raised.is_err() || current < wanted {
        warn!("a guest could take all files that may be open: raise 'ulimit -Hn' to {wanted}");
    }
}

/// What the guest is granted, open.
fn open_granted(config: &DeviceConfig, stores: Vec<File>) -> Result<Granted> {
    let stores = if config.owner.is_some() || config.recover {
        // His rights have opened them; or the minder, for all data planes of the device, one after the other.
        Stores::of(&config.stores, stores)?
    } else {
        Stores::open(&config.stores)?
    };
    Granted::new(stores, config.allowed.clone())
}

/// The device's guest, ready to be opened as often as there are workers.
fn opener(config: &DeviceConfig, engine: &Engine, guest: Guest) -> Result<Opener> {
    Ok(Opener {
        guest: Arc::new(guest),
        clock: Clock::start(engine)?,
        health: Arc::default(),
        options: config.options.clone().into(),
        tags: Tags {
            queues: config.queues,
            depth: config.depth,
        },
    })
}

/// From here on the device speaks through its log and its control socket.
fn go_silent(files: LogFiles, nothing: &OwnedFd) -> Result<()> {
    log_to(files).doing(|| "cannot write the log".into())?;
    dup2_stderr(nothing).doing(|| "cannot leave the terminal".into())
}

/// A device and the threads that serve it.
struct Plane<'a> {
    minder: &'a Minder,
    /// The open `/dev/ublkcN`, until its end.
    device: Option<Arc<File>>,
    opener: Opener,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl Plane<'_> {
    /// Starts workers and device, then waits for the reason to end.
    fn serve(&mut self, first: Opened, wake: &mut Wake, nothing: &OwnedFd) -> Result<()> {
        let geometry = self.shared.geometry;
        let (fetched, all_fetched) = channel();
        let hidden = first.place.hidden;
        let mut first = Some(first);
        for queues in self.shared.info.shares(geometry.replicated) {
            let opened = match first.take() {
                Some(opened) => opened,
                None => self.open_another(&geometry, hidden)?,
            };
            wake.check()?;
            let at_end = wake.at_end().doing(thread_failed)?;
            self.start_worker(queues, opened, fetched.clone(), at_end)
                .doing(thread_failed)?;
        }
        for _ in &self.workers {
            let outcome = all_fetched
                .recv_timeout(limits::CONTROL_TIMEOUT)
                .map_err(|_| Error::failed("a worker of the device did not begin in time"))?;
            outcome.doing(|| {
                "cannot make a ring with its buffers; a smaller --depth needs less memory".into()
            })?;
        }
        if self.shared.config.confine {
            confine::make_no_more_rings();
        }
        self.minder.start()?;
        wake.check()?;
        self.shared.live.store(true, Relaxed);
        let id = self.shared.info.dev_id;
        if let Some(files) = self.minder.announce()? {
            go_silent(files, nothing)?;
        }
        info!(id, guest = %self.opener.guest.name(), "the device is ready");
        wake.wait()
    }

    /// A further instance of a replicated guest: it must be the same device.
    fn open_another(&self, geometry: &Geometry, hidden: bool) -> Result<Opened> {
        let again = self.opener.open()?;
        if again.geometry == *geometry && again.place.hidden == hidden {
            return Ok(again);
        }
        let name = self.opener.guest.name();
        Err(Error::failed(format!(
            "the guest {name} is 'replicated' but not twice the same"
        )))
    }

    fn start_worker(
        &mut self,
        queues: Vec<u16>,
        mut opened: Opened,
        fetched: Sender<io::Result<()>>,
        at_end: WakeAtEnd,
    ) -> io::Result<()> {
        let processors = self.minder.affinity(&queues).unwrap_or_default();
        let file = self.device.clone().ok_or(io::ErrorKind::NotConnected)?;
        let shared = self.shared.clone();
        let slots = opened.place.slots.count();
        let name = format!("queue{}", queues.first().copied().unwrap_or_default());
        let worker = thread::Builder::new().name(name).spawn(move || {
            let _at_end = at_end;
            pin(&processors);
            // Nobody waits for a word any more where another worker has failed.
            let mut ring = match fetch(&file, &shared.info, &queues, opened.place) {
                Ok(ring) => {
                    let _ = fetched.send(Ok(()));
                    ring
                }
                Err(error) => {
                    let _ = fetched.send(Err(error));
                    return Ok(());
                }
            };
            let give_up = || {
                let reason =
                    "a request waited too long for what the kernel allows unprivileged devices";
                error!("{reason}; from now on every request is EIO");
                shared.health.give_up(reason);
            };
            let target = &mut *opened.target;
            let mut engine = serve::Engine::new(shared.geometry, target, slots, &shared.stats);
            if shared.config.unprivileged {
                engine.wait_at_most(limits::UNPRIVILEGED_WAIT_MAX, &give_up);
            }
            if let Err(error) = serve_queues(&mut ring, &mut engine) {
                error!(%error, "a ring broke");
                shared.broken.store(true, Relaxed);
                return Err(error);
            }
            flush_at_last(&mut engine, &mut ring, &shared.health)
        })?;
        self.workers.push(worker);
        Ok(())
    }

    /// Stops the device, waits for its workers to flush, and deletes it.
    fn end(&mut self) -> Result<()> {
        let id = self.shared.info.dev_id;
        if self.shared.broken.load(Relaxed) {
            // Requests are without an answer, and STOP would wait for them: the kernel answers them
            // when this process has ended, and removes the disk.
            return Err(Error::failed(format!(
                "a worker of device {id} broke, so its process ended; 'wasmblk del {id}' frees its number"
            )));
        }
        let stopped = self.stop().doing(|| format!("cannot stop device {id}"));
        let joined = self.join();
        self.device = None;
        let deleted = self
            .minder
            .delete()
            .doing(|| format!("cannot delete device {id}; try 'wasmblk del {id}'"));
        info!(id, "the end");
        stopped.and(joined).and(deleted)
    }

    /// Stops the device. A guest that makes progress gets some time for what it has in hand; then that
    /// is answered with EIO.
    fn stop(&mut self) -> io::Result<()> {
        for _ in 0..limits::STOP_TRIES_MAX {
            let before = self.shared.stats.snapshot().requests();
            match self.minder.stop() {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                result => return result,
            }
            if self.shared.stats.snapshot().requests() == before {
                break;
            }
        }
        self.shared
            .health
            .give_up("it was stopped, and took too long for what it had in hand");
        self.minder.stop()
    }

    fn join(&mut self) -> Result<()> {
        let deadline = Instant::now() + limits::WORKERS_TIMEOUT;
        let mut result = Ok(());
        for worker in self.workers.drain(..) {
            while !worker.is_finished() && Instant::now() < deadline {
                thread::sleep(JOIN_STEP);
            }
            if !worker.is_finished() {
                let text =
                    "a worker of the device did not end; what its guest had not flushed is lost";
                result = Err(Error::failed(text));
                continue;
            }
            let ended = worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            if let Err(why) = ended {
                result = Err(Error::failed("a worker of the device failed").because(why));
            }
        }
        result
    }
}

fn thread_failed() -> String {
    "cannot start the device's threads".into()
}

/// The flush that every instance gets before it ends. That a guest had failed before is known already;
/// that it fails now means that acknowledged writes may be lost.
fn flush_at_last(
    engine: &mut serve::Engine<'_>,
    ring: &mut QueueRing,
    health: &Health,
) -> io::Result<()> {
    if health.has_failed() {
        return Ok(());
    }
    engine
        .flush(ring)
        .map_err(|errno| io::Error::other(format!("the last flush failed: {errno}")))
}

/// Keeps this thread where its requests come from.
fn pin(processors: &[usize]) {
    let mut set = CpuSet::new();
    for &processor in processors
        .iter()
        .filter(|&&processor| processor < CpuSet::MAX_CPU)
    {
        set.set(processor);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        debug!(%error, ?processors, "a worker is not pinned");
    }
}
