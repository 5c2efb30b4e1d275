//! Transfers by the plain system calls, for where there is no ring: what is between memory and the system's cache
//! is moved at once (`at_once.rs`), everything else by a few threads.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{fallocate, fdatasync};
use rustix::io::{read, write};
use zerocopy::IntoBytes;

use super::at_once::AtOnce;
use super::place::Place;
use crate::block::{Carrier, Ended, Transfer, Work};
use crate::confine::spawn_unprivileged;
use crate::limits;
use crate::store::{Store, zeroing};

/// Carries out the transfers of one target.
#[derive(Debug)]
pub struct Blocking {
    place: Place,
    /// Of each store, for reads and for writes.
    at_once: Box<[[AtOnce; 2]]>,
    /// Ends that nobody was told of.
    ended: Vec<(u32, Ended)>,
    jobs: Option<Sender<(u32, Transfer)>>,
    /// Jobs whose results are not taken.
    waited_for: usize,
    results: Receiver<(u32, Ended)>,
    /// Can be read when there are results.
    ready: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Blocking {
    /// Starts the threads, where there is a store to use.
    ///
    /// # Errors
    ///
    /// Where the system has no further thread or descriptor.
    pub fn new(place: &Place) -> io::Result<Blocking> {
        let (jobs, jobs_receiver) = channel();
        let (results_sender, results) = channel();
        let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let jobs_receiver = Arc::new(Mutex::new(jobs_receiver));
        let count = if place.stores.all().is_empty() {
            0
        } else {
            limits::STORE_THREADS
        };
        let mut blocking = Blocking {
            place: place.clone(),
            at_once: (place.stores.all().iter())
                .map(|store| [AtOnce::new(store); 2])
                .collect(),
            ended: Vec::with_capacity(place.transfers_max as usize),
            jobs: Some(jobs),
            waited_for: 0,
            results,
            ready,
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (place, ready) = (place.clone(), blocking.ready.clone());
            let (jobs, results) = (jobs_receiver.clone(), results_sender.clone());
            let work = move || work(&place, &jobs, &results, &ready);
            blocking.threads.push(spawn_unprivileged("store", work)?);
        }
        Ok(blocking)
    }

    /// Begins a transfer, behind which so many wait. What does not wait is done at once.
    ///
    /// # Errors
    ///
    /// Where the threads are gone.
    pub fn begin_before(
        &mut self,
        token: u32,
        transfer: &Transfer,
        waiting: usize,
    ) -> io::Result<()> {
        if let Some(ended) = self.at_once(transfer, waiting) {
            self.ended.push((token, ended));
            return Ok(());
        }
        self.waited_for += 1;
        let sent = self.jobs.as_ref().map(|jobs| jobs.send((token, *transfer)));
        sent.and_then(Result::ok)
            .ok_or_else(|| io::Error::other("the threads for stores have ended"))
    }

    /// Notes the end of a transfer that somebody else has carried out.
    pub fn ended(&mut self, token: u32, ended: Ended) {
        self.ended.push((token, ended));
    }

    /// The file of a store that the system has a cache for.
    #[must_use]
    pub fn cached_file(&self, store: u16) -> Option<&File> {
        let store = &self.place.stores.all()[usize::from(store)];
        (store.shape.align_bytes == 1).then_some(&store.file)
    }

    /// Tells the ends that there are, and how many that were.
    pub fn take_ended(&mut self, mut ended: impl FnMut(u32, Ended)) -> usize {
        let mut count = 0;
        for (token, result) in self.ended.drain(..) {
            ended(token, result);
            count += 1;
        }
        let mut told = 0_u64;
        if self.waited_for > 0 && read(&*self.ready, told.as_mut_bytes()).is_ok() {
            // No more than that: what comes now is told of later, and somebody must look then.
            let told = usize::try_from(told).unwrap_or(usize::MAX);
            for (token, result) in self.results.try_iter().take(told) {
                ended(token, result);
                count += 1;
                self.waited_for -= 1;
            }
        }
        count
    }

    fn at_once(&mut self, transfer: &Transfer, waiting: usize) -> Option<Ended> {
        let direction = match transfer.work {
            work if work.is_copy() => {
                self.place.copy(transfer);
                return Some(Ok(transfer.length));
            }
            Work::Read => 0,
            Work::Write { durable: false } => 1,
            _ => return None,
        };
        let place = &self.place;
        self.at_once[usize::from(transfer.store)][direction]
            .run(waiting, |flags| move_bytes(place, transfer, flags))
            .map(|result| ended(place, transfer, result))
    }
}

fn ended(place: &Place, transfer: &Transfer, result: io::Result<u32>) -> Ended {
    store(place, transfer).ended(result)
}

impl AsFd for Blocking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Carrier for Blocking {
    fn begin(&mut self, token: u32, transfer: &Transfer) -> io::Result<()> {
        self.begin_before(token, transfer, 0)
    }

    fn wait(&mut self, timeout: Duration, ended: &mut dyn FnMut(u32, Ended)) -> io::Result<()> {
        if self.take_ended(&mut *ended) > 0 {
            return Ok(());
        }
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match poll(
            &mut [PollFd::new(&*self.ready, PollFlags::IN)],
            Some(&timeout),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        self.take_ended(ended);
        Ok(())
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        // The threads end when there is nothing more to do; what they move belongs to them as well.
        self.jobs = None;
    }
}

/// The life of one thread.
fn work(
    place: &Place,
    jobs: &Mutex<Receiver<(u32, Transfer)>>,
    results: &Sender<(u32, Ended)>,
    ready: &OwnedFd,
) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((token, transfer)) = job else { return };
        let result = loop {
            match carry_out(place, &transfer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break ended(place, &transfer, result),
            }
        };
        if results.send((token, result)).is_err() {
            return;
        }
        let _ = write(ready, 1_u64.as_bytes());
    }
}

/// Carries out a part of a transfer, and waits for it.
fn carry_out(place: &Place, transfer: &Transfer) -> io::Result<u32> {
    let Transfer { offset, length, .. } = *transfer;
    let range = |how| {
        fallocate(file(place, transfer), how, offset, length.into())?;
        Ok(length)
    };
    match transfer.work {
        Work::Flush => fdatasync(file(place, transfer))
            .map(|()| 0)
            .map_err(Into::into),
        Work::Discard => range(zeroing(true)),
        Work::WriteZeroes { may_discard } => range(zeroing(may_discard)),
        Work::Write { durable: true } => move_bytes(place, transfer, libc::RWF_DSYNC),
        _ => move_bytes(place, transfer, 0),
    }
}

fn store<'a>(place: &'a Place, transfer: &Transfer) -> &'a Store {
    &place.stores.all()[usize::from(transfer.store)]
}

fn file<'a>(place: &'a Place, transfer: &Transfer) -> &'a File {
    &store(place, transfer).file
}

/// Reads or writes once.
fn move_bytes(place: &Place, transfer: &Transfer, flags: libc::c_int) -> io::Result<u32> {
    let vector = libc::iovec {
        iov_base: place.address(transfer).as_ptr().cast(),
        iov_len: transfer.length as usize,
    };
    let file = file(place, transfer).as_raw_fd();
    let offset = i64::try_from(transfer.offset).map_err(io::Error::other)?;
    let bytes = if transfer.work == Work::Read {
        // SAFETY: the vector names memory that can be written (zeros are never read into), which `place`
        // keeps mapped, and into which there are no references.
        unsafe { libc::preadv2(file, &raw const vector, 1, offset, flags) }
    } else {
        // SAFETY: the vector names memory that can be read, which `place` keeps mapped.
        unsafe { libc::pwritev2(file, &raw const vector, 1, offset, flags) }
    };
    u32::try_from(bytes).map_err(|_| io::Error::last_os_error())
}
