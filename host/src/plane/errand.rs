//! What a data plane, which has no privilege, asks its minder for. All of it is about the one device that the
//! minder was started for: whoever takes over a data plane can stop that device, and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, TryLockError};

use serde::{Deserialize, Serialize};

use super::launch::Parent;
use super::log::LogFiles;
use crate::block::Geometry;
use crate::error::{Context, Error, Kind, Result};
use crate::message;
use crate::sys::Place;
use crate::ublk::abi::DevInfo;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Errand {
    /// Add the device: its number, queues and depth are known to the minder. Once.
    Add {
        geometry: Geometry,
        /// See [`Spec::hidden`](crate::ublk::Spec::hidden).
        hidden: bool,
        /// See [`Spec::align_bytes`](crate::ublk::Spec::align_bytes).
        align_bytes: u32,
    },
    /// Which processors send requests to these queues?
    Affinity(Vec<u16>),
    /// Start it: its tags are being fetched.
    Start,
    /// Tell whoever waits that it can be used.
    Announce,
    /// Open its disk, for its owner who sees no node of it.
    Open { read_only: bool },
    /// Stop it, unless its disk is open somewhere.
    TryStop,
    /// Stop it.
    Stop,
    /// Delete it, and its socket: nobody here has it open any more.
    Delete,
    /// The last word: how it ended. It has no answer.
    End(Option<(Kind, String)>),
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Done,
    Added(DevInfo),
    Processors(Vec<usize>),
    Refused {
        kind: Kind,
        text: String,
        timed_out: bool,
        busy: bool,
    },
}

impl Report {
    /// Why something was not done.
    pub(super) fn refused(error: &Error) -> Report {
        Report::Refused {
            kind: error.kind(),
            text: error.chain(),
            timed_out: false,
            busy: false,
        }
    }

    /// The same for what has a bound of its own.
    pub(super) fn of(result: io::Result<()>) -> Report {
        match result {
            Ok(()) => Report::Done,
            Err(error) => Report::Refused {
                kind: Kind::Failed,
                text: error.to_string(),
                timed_out: error.kind() == io::ErrorKind::TimedOut,
                busy: error.kind() == io::ErrorKind::ResourceBusy,
            },
        }
    }
}

/// A device that was added.
#[derive(Debug)]
pub(super) struct Added {
    /// What the kernel made of it.
    pub(super) info: DevInfo,
    /// The open `/dev/ublkcN`.
    pub(super) device: File,
    /// Its control socket.
    pub(super) listener: UnixListener,
}

/// The minder, as its data plane sees it.
///
/// Two threads may ask: `main`, and `control`, where somebody stops the device by the control socket.
#[derive(Debug)]
pub(super) struct Minder {
    socket: OwnedFd,
    asking: Mutex<()>,
    /// `main` has begun to end the device.
    ending: AtomicBool,
}

impl Minder {
    pub(super) fn new(Parent(socket): Parent) -> Minder {
        Minder {
            socket,
            asking: Mutex::new(()),
            ending: AtomicBool::new(false),
        }
    }

    fn ask(&self, errand: &Errand) -> io::Result<(Report, Vec<OwnedFd>)> {
        let gone = |why: io::Error| io::Error::other(format!("the device's minder is gone: {why}"));
        let _asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        self.send(errand).map_err(gone)?;
        let (bytes, files) = message::receive(&self.socket).map_err(gone)?;
        Ok((serde_json::from_slice(&bytes)?, files))
    }

    fn send(&self, errand: &Errand) -> io::Result<()> {
        message::send(&self.socket, &serde_json::to_vec(errand)?, &[])
    }

    /// Asks for what only can be done or not.
    fn demand(&self, errand: &Errand) -> io::Result<Vec<OwnedFd>> {
        match self.ask(errand)? {
            (Report::Refused { timed_out, .. }, _) if timed_out => {
                Err(io::ErrorKind::TimedOut.into())
            }
            (Report::Refused { busy, .. }, _) if busy => Err(io::ErrorKind::ResourceBusy.into()),
            (Report::Refused { text, .. }, _) => Err(io::Error::other(text)),
            (_, files) => Ok(files),
        }
    }

    /// Adds the device.
    ///
    /// # Errors
    ///
    /// Why there is none. Nothing is left behind.
    pub(super) fn add(&self, geometry: Geometry, place: &Place) -> Result<Added> {
        let stores = place.stores.all().iter();
        let asked = self.ask(&Errand::Add {
            geometry,
            hidden: place.hidden,
            align_bytes: stores
                .map(|store| store.shape.align_bytes)
                .max()
                .unwrap_or(1),
        });
        let (report, files) = asked.doing(|| "cannot add a device".into())?;
        let mut files = files.into_iter();
        match (report, files.next(), files.next()) {
            (Report::Added(info), Some(device), Some(listener)) => Ok(Added {
                info,
                device: device.into(),
                listener: listener.into(),
            }),
            (Report::Refused { kind, text, .. }, ..) => Err(match kind {
                Kind::Usage => Error::usage(text),
                Kind::Failed => Error::failed(text),
            }),
            _ => Err(Error::failed("the device's minder talks nonsense")),
        }
    }

    /// The processors that send requests to these queues.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn affinity(&self, queues: &[u16]) -> io::Result<Vec<usize>> {
        match self.ask(&Errand::Affinity(queues.to_vec()))? {
            (Report::Processors(processors), _) => Ok(processors),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Starts the device: its disk appears. All workers must be on their way to fetch.
    ///
    /// # Errors
    ///
    /// Where the kernel does not start it in time.
    pub(super) fn start(&self) -> Result<()> {
        self.demand(&Errand::Start)
            .map(drop)
            .map_err(|why| Error::failed(why.to_string()))
    }

    /// Tells whoever waits that the device can be used. Gives the files to log to from then on, where it is
    /// in the background.
    ///
    /// # Errors
    ///
    /// Where nobody waits any more.
    pub(super) fn announce(&self) -> Result<Option<LogFiles>> {
        self.demand(&Errand::Announce)
            .map(LogFiles::of)
            .map_err(|why| Error::failed(why.to_string()))
    }

    /// Stops the device, used or not: its disk goes, and workers get their tags back and end.
    ///
    /// # Errors
    ///
    /// `TimedOut` where requests are still in the guest's hands; the kernel goes on stopping.
    pub(super) fn stop(&self) -> io::Result<()> {
        self.ending.store(true, Relaxed);
        self.demand(&Errand::Stop).map(drop)
    }

    /// Stops the device on somebody's behalf, `force` or not; the workers then end, and all else follows.
    ///
    /// # Errors
    ///
    /// `ResourceBusy` where its disk is open somewhere; `WouldBlock` where it is being started or stopped already.
    pub(super) fn stop_for(&self, force: bool) -> io::Result<()> {
        let errand = if force { Errand::Stop } else { Errand::TryStop };
        self.demand_now(&errand).map(drop)
    }

    /// Opens the disk for somebody.
    ///
    /// # Errors
    ///
    /// `Unsupported` where there is a node to be opened; `WouldBlock` where the device is being started or stopped.
    pub(super) fn open(&self, read_only: bool) -> io::Result<OwnedFd> {
        let files = self.demand_now(&Errand::Open { read_only })?;
        (files.into_iter().next()).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Whether `main` ends the device: somebody who is told to wait would wait for that.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }

    /// The same as [`Minder::demand`], but for waiting while something else is being done.
    fn demand_now(&self, errand: &Errand) -> io::Result<Vec<OwnedFd>> {
        if matches!(self.asking.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.demand(errand)
    }

    /// Deletes the device and its socket, once its workers have ended.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn delete(&self) -> io::Result<()> {
        self.ending.store(true, Relaxed);
        self.demand(&Errand::Delete).map(drop)
    }

    /// Says how it ended.
    pub(super) fn tell_end(&self, result: &Result<()>) {
        let error = result.as_ref().err();
        let outcome = error.map(|error| (error.kind(), error.chain()));
        // If it is gone, nobody is left to be told.
        let _ = self.send(&Errand::End(outcome));
    }
}

/// Sends what came of an errand.
pub(super) fn reply(socket: &OwnedFd, report: &Report, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    message::send(socket, &serde_json::to_vec(report)?, files)
}
