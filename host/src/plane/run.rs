//! A data plane's life: open the guest, make the device, serve, clean up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use tracing::{debug, error, info};

use super::launch::Ready;
use super::run_dir::RunDir;
use super::socket::{self, ask};
use super::status::Shared;
use crate::block::Geometry;
use crate::config::DeviceConfig;
use crate::error::{Context, Error, Result};
use crate::guest::{Clock, Guest, Health, Opened, Opener, Tags, new_engine};
use crate::limits;
use crate::serve::Engine;
use crate::stats::Stats;
use crate::store::Stores;
use crate::sys::{Artefact, QueueRing, set_io_flusher};
use crate::ublk::{Control, Device, block_path, fetch, serve_queues};
use crate::wake::{Wake, WakeAtEnd};

/// How often ending workers are looked for.
const JOIN_STEP: Duration = Duration::from_millis(5);

/// Serves one device, from opening the guest until a signal, or until somebody stops the device.
/// `ready` is called when the device can be used.
///
/// # Errors
///
/// Why there is no device, why it ended before its time, what was lost at its end, or what of it could
/// not be removed.
pub fn run(
    config: DeviceConfig,
    artefact: &Artefact,
    ready: impl FnOnce(&Ready, &RunDir) -> Result<()>,
) -> Result<()> {
    let mut wake = Wake::new()?;
    let opener = opener(&config, artefact)?;
    let first = opener.open()?;
    let geometry = first.geometry;
    // Threads that are started from here on are marked too.
    if let Err(error) = set_io_flusher() {
        debug!(%error, "cannot be marked as an I/O flusher: keep swap off this device");
    }
    let run_dir = RunDir::new(config.run_dir.clone());
    let lock = run_dir.lock()?;
    check_name(&run_dir, config.name.as_deref())?;
    wake.check()?;
    let device = Device::add(Control::open()?, &config.spec(&first.place), &geometry)?;
    let id = device.id();
    let shared = Arc::new(Shared {
        contract: opener.guest.contract(),
        log: run_dir.log(id),
        info: *device.info(),
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
        device,
        opener,
        shared,
        workers: Vec::new(),
    };
    let served = socket::serve(&run_dir.socket(id), plane.shared.clone()).and_then(|()| {
        drop(lock);
        plane.serve(first, &mut wake, |announce| ready(announce, &run_dir))
    });
    let result = served.and(plane.end(&run_dir));
    plane.shared.waiters.tell(&result);
    result
}

/// A name belongs to one device at a time. Called with the lock held.
fn check_name(run_dir: &RunDir, name: Option<&str>) -> Result<()> {
    let Some(name) = name else { return Ok(()) };
    for id in run_dir.ids() {
        if ask(&run_dir.socket(id)).is_ok_and(|other| other.name.as_deref() == Some(name)) {
            return Err(Error::failed(format!(
                "--name {name} is taken by device {id}; choose another, or 'wasmblk del {id}'"
            )));
        }
    }
    Ok(())
}

/// The device's guest, ready to be opened as often as there are workers.
fn opener(config: &DeviceConfig, artefact: &Artefact) -> Result<Opener> {
    let stores = Arc::new(Stores::open(&config.stores)?);
    let engine = new_engine()?;
    let name = config.guest.display().to_string();
    Ok(Opener {
        guest: Arc::new(Guest::load(
            &engine,
            artefact,
            &name,
            config.limits(),
            stores,
        )?),
        clock: Clock::start(&engine)?,
        health: Arc::default(),
        options: config.options.clone().into(),
        tags: Tags {
            queues: config.queues,
            depth: config.depth,
        },
    })
}

/// A device and the threads that serve it.
struct Plane {
    device: Device,
    opener: Opener,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl Plane {
    /// Starts workers and device, then waits for the reason to end.
    fn serve(
        &mut self,
        first: Opened,
        wake: &mut Wake,
        ready: impl FnOnce(&Ready) -> Result<()>,
    ) -> Result<()> {
        let geometry = self.shared.geometry;
        let (fetched, all_fetched) = channel();
        let mut first = Some(first);
        for queues in self.device.shares(geometry.replicated) {
            let opened = match first.take() {
                Some(opened) => opened,
                None => self.open_another(&geometry)?,
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
        self.device.start()?;
        wake.check()?;
        self.shared.live.store(true, Relaxed);
        let id = self.device.id();
        ready(&Ready {
            id,
            device: block_path(id),
        })?;
        info!(id, guest = %self.opener.guest.name(), "the device is ready");
        wake.wait()
    }

    /// A further instance of a replicated guest: it must be the same device.
    fn open_another(&self, geometry: &Geometry) -> Result<Opened> {
        let again = self.opener.open()?;
        if again.geometry == *geometry {
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
        let processors = self.device.affinity(&queues).unwrap_or_default();
        let file = self
            .device
            .char_device()
            .ok_or(io::ErrorKind::NotConnected)?;
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
            let target = &mut *opened.target;
            let mut engine = Engine::new(shared.geometry, target, slots, &shared.stats);
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
    fn end(&mut self, run_dir: &RunDir) -> Result<()> {
        let id = self.device.id();
        if self.shared.broken.load(Relaxed) {
            // Requests are without an answer, and STOP would wait for them: the kernel answers them
            // when this process has ended, and removes the disk.
            run_dir.forget_socket(id);
            return Err(Error::failed(format!(
                "a worker of device {id} broke, so its process ended; 'wasmblk del --force {id}' frees \
                 its number"
            )));
        }
        let stopped = self.stop().doing(|| format!("cannot stop device {id}"));
        let joined = self.join();
        // Under the lock, so that the socket is not that of the number's next device.
        let _lock = run_dir.lock();
        let deleted = self
            .device
            .delete()
            .doing(|| format!("cannot delete device {id}; try 'wasmblk del {id}'"));
        run_dir.forget_socket(id);
        info!(id, "the end");
        stopped.and(joined).and(deleted)
    }

    /// Stops the device. A guest that makes progress gets some time for what it has in hand; then that
    /// is answered with EIO.
    fn stop(&mut self) -> io::Result<()> {
        for _ in 0..limits::STOP_TRIES_MAX {
            let before = self.shared.stats.snapshot().requests();
            match self.device.stop() {
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
        self.device.stop()
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
fn flush_at_last(engine: &mut Engine<'_>, ring: &mut QueueRing, health: &Health) -> io::Result<()> {
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
