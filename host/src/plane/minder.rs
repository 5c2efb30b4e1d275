//! The minder: the small process with privilege beside each data plane. It starts the data plane, does for it
//! what needs privilege (`errand.rs`), and waits for its end. It never sees a request or the guest.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixListener;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use tracing::{debug, error, info};

use super::errand::{Errand, Report, reply};
use super::keeper::{Guest, Keeper};
use super::launch::{self, Ready};
use super::log::LogFiles;
use super::recovery::Recovery;
use super::run_dir::RunDir;
use super::socket;
use crate::config::DeviceConfig;
use crate::confine;
use crate::error::{Context, Error, Kind, Result};
use crate::limits;
use crate::message;
use crate::store::Stores;
use crate::sys::Artefact;
use crate::ublk::abi::DevInfo;
use crate::ublk::block_path;
use crate::udev;
use crate::wake::Wake;

/// Serves one device by a data plane, from opening the guest until a signal, or until somebody stops the
/// device. `announce` is called when the device can be used, and says where the data plane logs to from then
/// on, if not to where it does.
///
/// # Errors
///
/// Why there is no device, why it ended before its time, what was lost at its end, or what of it could
/// not be removed.
pub fn mind(
    config: DeviceConfig,
    artefact: &Artefact,
    stores: &[File],
    announce: impl FnOnce(&Ready, &RunDir) -> Result<Option<LogFiles>>,
) -> Result<()> {
    let mut wake = Wake::new()?;
    let opened = if config.recover && config.owner.is_none() {
        // They are the same for each data plane, and locked for the next one too.
        Stores::open(&config.stores)?.into_files()
    } else {
        Vec::new()
    };
    let stores = if opened.is_empty() { stores } else { &opened };
    let (socket, child) = launch::spawn("plane", &config, artefact, stores)?;
    match &config.broker {
        Some(_) if config.owner.is_some() => confine::for_host(config.recover),
        Some(_) => confine::for_brokered_minder(),
        None if config.confine => confine::for_minder(config.recover),
        None => {}
    }
    let mut minder = Minder {
        run_dir: RunDir::new(config.run_dir.clone()),
        config,
        artefact,
        stores,
        socket,
        child,
        announce: Some(announce),
        device: None,
        announced: false,
        recovery: Recovery::default(),
        outcome: None,
        ends_by: None,
    };
    loop {
        minder.serve(&mut wake)?;
        if !minder.take_up(&mut wake)? {
            return minder.end();
        }
    }
}

struct Minder<'a, A> {
    config: DeviceConfig,
    artefact: &'a Artefact,
    /// Those that are open already.
    stores: &'a [File],
    run_dir: RunDir,
    socket: OwnedFd,
    child: Child,
    announce: Option<A>,
    /// From Add to Delete.
    device: Option<Keeper>,
    announced: bool,
    recovery: Recovery,
    /// The data plane's last word.
    outcome: Option<Option<(Kind, String)>>,
    /// Until when it is waited for, once it is to end.
    ends_by: Option<Instant>,
}

impl<A: FnOnce(&Ready, &RunDir) -> Result<Option<LogFiles>>> Minder<'_, A> {
    /// Does what the data plane asks for until it ends.
    fn serve(&mut self, wake: &mut Wake) -> Result<()> {
        loop {
            let left = self
                .ends_by
                .map(|by| by.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                error!("the device's process does not end, and is killed");
                return Ok(());
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let [asked, woken] = {
                let mut fds = [
                    PollFd::new(&self.socket, PollFlags::IN),
                    PollFd::new(&*wake, PollFlags::IN),
                ];
                match poll(&mut fds, left.as_ref()) {
                    Ok(_) => fds.map(|fd| !fd.revents().is_empty()),
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(why) => return Err(why).doing(|| "cannot wait for the device".into()),
                }
            };
            if woken {
                wake.wait()?;
                self.pass_on();
            }
            if asked {
                // It is not trusted: what it says that is no errand is its end.
                let Ok((bytes, _)) = message::receive(&self.socket) else {
                    return Ok(());
                };
                let done = match serde_json::from_slice(&bytes) {
                    Ok(errand) => self.run(errand),
                    Err(why) => Err(why.into()),
                };
                if let Err(error) = done {
                    debug!(%error, "the data plane is not served any more");
                    return Ok(());
                }
            }
        }
    }

    /// The data plane ends in order when it is told to; then so do we.
    fn pass_on(&mut self) {
        self.recovery.end();
        let ends_by = Instant::now() + limits::PLANE_END_TIMEOUT;
        self.ends_by.get_or_insert(ends_by);
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    fn run(&mut self, errand: Errand) -> io::Result<()> {
        let report = match errand {
            Errand::Add {
                geometry,
                hidden,
                align_bytes,
            } => {
                let guest = Guest {
                    geometry,
                    hidden,
                    align_bytes,
                };
                match self.add(guest) {
                    Ok((info, file, listener)) => {
                        let report = Report::Added(info);
                        return reply(&self.socket, &report, &[file.as_fd(), listener.as_fd()]);
                    }
                    Err(error) => Report::refused(&error),
                }
            }
            Errand::Announce => match self.announce() {
                Ok(None) => Report::Done,
                Ok(Some(files)) => return reply(&self.socket, &Report::Done, &files.fds()),
                Err(error) => Report::refused(&error),
            },
            Errand::Delete => Report::of(self.delete()),
            Errand::End(outcome) => {
                self.outcome = Some(outcome);
                self.ends_by = Some(Instant::now() + limits::PLANE_GONE_TIMEOUT);
                return Ok(());
            }
            errand => match (&mut self.device, errand) {
                (Some(device), Errand::Affinity(queues)) => {
                    Report::Processors(device.affinity(&queues).unwrap_or_default())
                }
                (Some(device), Errand::Start) => {
                    match device
                        .start()
                        .and_then(|()| tell_udev(&self.config, device.id()))
                    {
                        Ok(()) => Report::Done,
                        Err(error) => Report::refused(&error),
                    }
                }
                (Some(device), Errand::TryStop) => {
                    Report::of(device.try_stop().inspect(|()| self.recovery.end()))
                }
                (Some(device), Errand::Stop) => {
                    self.recovery.end();
                    Report::of(device.stop())
                }
                (Some(device), Errand::Open { read_only }) => match device.open(read_only) {
                    Ok(disk) => {
                        let disk: Vec<_> = disk.iter().map(AsFd::as_fd).collect();
                        return reply(&self.socket, &Report::Done, &disk);
                    }
                    Err(error) => Report::of(Err(error)),
                },
                _ => Report::of(Err(io::ErrorKind::NotFound.into())),
            },
        };
        reply(&self.socket, &report, &[])
    }

    /// Under the lock of the run directory: a name belongs to one device, and a socket to the number's device.
    fn add(&mut self, guest: Guest) -> Result<(DevInfo, Arc<File>, UnixListener)> {
        if let Some(again) = self.recovery.again(&guest) {
            return again;
        }
        if self.device.is_some() || self.announced {
            return Err(Error::failed("a data plane has one device"));
        }
        if self.config.recover && !guest.geometry.restartable {
            return Err(Error::usage(
                "--recover: this guest is not 'restartable': what it was given would be lost with its process",
            ));
        }
        let _lock = self.run_dir.lock()?;
        self.run_dir.check_name(self.config.name.as_deref())?;
        let (mut device, info, file) = Keeper::add(&self.config, &guest)?;
        let path = self.run_dir.socket(device.id());
        let bound = socket::bind(&path).and_then(|listener| {
            if let Some((uid, gid)) = self.config.owner {
                let failed = || "cannot give the control socket to its user".into();
                chown(&path, Some(uid), Some(gid)).doing(failed)?;
            }
            Ok(listener)
        });
        let kept = bound.and_then(|listener| {
            if self.config.recover {
                self.recovery.keep(guest, info, &listener)?;
            }
            Ok(listener)
        });
        match kept {
            Ok(listener) => {
                self.device = Some(device);
                Ok((info, file, listener))
            }
            Err(error) => {
                drop(file);
                let _ = device.delete();
                Err(error)
            }
        }
    }

    fn announce(&mut self) -> Result<Option<LogFiles>> {
        if self.announced {
            return self.recovery.log();
        }
        let (Some(announce), Some(device)) = (self.announce.take(), &self.device) else {
            return Err(Error::failed("there is nothing to announce"));
        };
        let id = device.id();
        let ready = Ready {
            id,
            device: block_path(id),
        };
        let files = announce(&ready, &self.run_dir)?;
        self.recovery.keep_log(files.as_ref())?;
        self.announced = true;
        Ok(files)
    }

    /// Where the data plane has ended before its time, and the device is to stay: starts another for it. Says
    /// whether there is one to be served.
    fn take_up(&mut self, wake: &mut Wake) -> Result<bool> {
        let Some(device) = self.device.as_mut().filter(|_| self.announced) else {
            return Ok(false);
        };
        while let Some(delay) = self.recovery.next_delay() {
            // One that only closed the socket is not served any more.
            let _ = self.child.kill();
            let status = (self.child.wait()).doing(|| "the device's process is lost".into())?;
            error!("the device's process ended before its time, and is replaced: {status}");
            if wake.wait_at_most(delay)? {
                self.recovery.end();
                break;
            }
            let taken_up = self
                .recovery
                .take_up(device)
                .and_then(|()| launch::spawn("plane", &self.config, self.artefact, self.stores));
            match taken_up {
                Ok((socket, child)) => {
                    (self.socket, self.child, self.outcome) = (socket, child, None);
                    self.ends_by = None;
                    return Ok(true);
                }
                Err(why) => error!("{}", why.chain()),
            }
        }
        if self.config.recover {
            // What waits would wait for ever.
            let _ = device.stop();
        }
        Ok(false)
    }

    fn delete(&mut self) -> io::Result<()> {
        let Some(mut device) = self.device.take() else {
            return Ok(());
        };
        // So that the socket is not that of the number's next device.
        let _lock = self.run_dir.lock();
        let deleted = device.delete();
        self.run_dir.forget_socket(device.id());
        if self.config.trusted {
            udev::forget_gone();
        }
        deleted
    }

    /// The data plane has closed its socket: it has ended, or is about to.
    fn end(mut self) -> Result<()> {
        // One that only closed the socket is not served any more.
        let most = (self.outcome.as_ref()).map_or(Duration::ZERO, |_| limits::PLANE_GONE_TIMEOUT);
        let status = launch::wait_or_kill(&mut self.child, most)
            .doing(|| "the device's process is lost".into())?;
        let result = match self.outcome.take() {
            Some(None) => Ok(()),
            Some(Some((Kind::Usage, text))) => Err(Error::usage(text)),
            Some(Some((Kind::Failed, text))) => Err(Error::failed(text)),
            None if self.announced => Err(Error::failed(format!(
                "the device's process ended before its time: {status}"
            ))),
            None => Err(Error::failed(format!(
                "the device's process ended before it was ready: {status}"
            ))),
        };
        let Some(device) = &mut self.device else {
            info!("the end");
            return result;
        };
        let id = device.id();
        if device.is_brokered() {
            // Its warden sees that nobody has the capability any more.
            self.run_dir.forget_socket(id);
            return result;
        }
        if self.announced {
            // It is shown as dead until somebody has seen that.
            if let Err(error) = &result {
                error!("{}; 'wasmblk del {id}' removes what is left", error.chain());
            }
            return result;
        }
        let _ = device.stop();
        let deleted = self.delete();
        result.and(deleted.doing(|| format!("cannot delete device {id}; try 'wasmblk del {id}'")))
    }
}

/// Whether a disk is trusted is the operator's word, not that of the data plane.
fn tell_udev(config: &DeviceConfig, id: u32) -> Result<()> {
    let given = config.trust().map_or(Ok(()), |trust| trust.give(id));
    given.doing(|| format!("--trusted: cannot tell udev of device {id}"))
}
