//! The broker's devices: whose they are, and who guards them. What a user has is counted from it, each time.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::mark;
use super::order::{self, Further, Order, Report};
use super::policy::Peer;
use super::wire::{self, Record, State};
use crate::error::Result;
use crate::limits;
use crate::message;
use crate::ublk::{self, Control};

/// One device.
#[derive(Debug)]
struct Place {
    record: Record,
    /// The other end of its warden's reports; none where its warden is gone.
    warden: Option<OwnedFd>,
    child: Option<Child>,
    /// When its warden went.
    lost: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    places: Vec<Place>,
    /// Wardens that have ended, or are about to.
    ending: Vec<Child>,
    log: String,
}

impl Table {
    /// With the devices that a broker before this one left.
    pub(super) fn new(log: &str) -> Result<Table> {
        let mut control = Control::open()?;
        let mut places = Vec::new();
        for id in ublk_ids() {
            let Ok(info) = control.info(id) else { continue };
            let Some(uid) = mark::owner(info.ublksrv_flags) else {
                continue;
            };
            let tags = u64::from(info.nr_hw_queues) * u64::from(info.queue_depth);
            info!(id, uid, "a device of the broker before this one");
            places.push(Place {
                record: Record {
                    id: Some(id),
                    name: None,
                    uid,
                    gid: uid,
                    pid: 0,
                    state: State::Lost,
                    size_bytes: size_bytes(id),
                    queues: info.nr_hw_queues,
                    depth: info.queue_depth,
                    memory_bytes: tags * u64::from(info.max_io_buf_bytes),
                    mark: info.ublksrv_flags,
                    run_dir: None,
                    hosted: false,
                },
                warden: None,
                child: None,
                lost: Instant::now(),
            });
        }
        Ok(Table {
            places,
            ending: Vec::new(),
            log: log.to_owned(),
        })
    }

    /// What counts for a user: a number of bytes for each device.
    pub(super) fn held(&self, uid: u32) -> impl Iterator<Item = u64> {
        let his = move |place: &&Place| place.record.uid == uid;
        self.places
            .iter()
            .filter(his)
            .map(|place| place.record.memory_bytes)
    }

    /// What somebody may see, from a number on: his own, and root all.
    pub(super) fn visible(&self, peer: &Peer, from: u32) -> Vec<Record> {
        let may = |record: &&Record| {
            let his = peer.uid == 0 || record.uid == peer.uid;
            his && record.id.is_some_and(|id| id >= from)
        };
        let records = self.places.iter().map(|place| &place.record);
        let mut records: Vec<Record> = records.filter(may).cloned().collect();
        records.sort_by_key(|record| record.id);
        wire::fit(&mut records);
        records
    }

    /// Starts a warden for a new device, or for one whose warden is gone.
    pub(super) fn guard(&mut self, order: &Order, files: &[BorrowedFd<'_>]) -> Result<()> {
        let (warden, child) = order::start("warden", order, files, &self.log)?;
        let place = Place {
            record: order.record.clone(),
            warden: Some(warden),
            child: Some(child),
            lost: Instant::now(),
        };
        self.put(place);
        Ok(())
    }

    /// A warden that lost its broker.
    pub(super) fn take_back(&mut self, record: Record, warden: OwnedFd) {
        info!(id = record.id, uid = record.uid, "a warden came back");
        self.put(Place {
            record,
            warden: Some(warden),
            child: None,
            lost: Instant::now(),
        });
    }

    fn put(&mut self, mut place: Place) {
        let (id, mark) = (place.record.id, place.record.mark);
        let mut of_number =
            (self.places.iter_mut()).filter(|other| id.is_some() && other.record.id == id);
        match of_number.next() {
            Some(other) if other.record.mark == mark => {
                let before = mem::replace(other, place);
                self.ending.extend(before.child);
            }
            // Its number is another device's by now; it counts until its warden sees that.
            Some(_) => {
                place.record.id = None;
                self.places.push(place);
            }
            None => self.places.push(place),
        }
    }

    /// A device has come to have this number: whatever had it before is gone.
    fn take_number(&mut self, id: u32, mark: u64) {
        let before = |place: &&mut Place| place.record.id == Some(id) && place.record.mark != mark;
        for place in self.places.iter_mut().filter(before) {
            place.record.id = None;
        }
    }

    /// The device of this number.
    pub(super) fn find(&self, id: u32) -> Option<&Record> {
        self.place(id).map(|place| &place.record)
    }

    fn place(&self, id: u32) -> Option<&Place> {
        self.places.iter().find(|place| place.record.id == Some(id))
    }

    /// Gives the warden of a device a further capability to serve; `None` where it has no warden.
    pub(super) fn join(&self, id: u32, capability: BorrowedFd<'_>) -> Option<io::Result<()>> {
        let warden = self.place(id)?.warden.as_ref()?;
        let bytes = match wire::encode(&Further::Join) {
            Ok(bytes) => bytes,
            Err(why) => return Some(Err(why.into())),
        };
        Some(message::send(warden, &bytes, &[capability]))
    }

    /// What to wait for: the reports of wardens.
    pub(super) fn reports(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let wardens = self.places.iter().filter_map(|place| place.warden.as_ref());
        wardens.map(AsFd::as_fd)
    }

    /// Hears wardens: those of [`Table::reports`] that are ready.
    pub(super) fn hear(&mut self, ready: &[bool]) {
        let mut numbers = Vec::new();
        let guarded = self
            .places
            .iter_mut()
            .filter(|place| place.warden.is_some());
        for (place, _) in guarded.zip(ready).filter(|(_, ready)| **ready) {
            let Some(warden) = &place.warden else {
                continue;
            };
            let report = message::receive(warden).and_then(|(bytes, _)| {
                wire::decode(&bytes).map_err(|why| io::Error::other(why.to_string()))
            });
            match report {
                Ok(Report::Now(record)) => {
                    numbers.extend(record.id.map(|id| (id, record.mark)));
                    place.record = record;
                }
                Ok(Report::Gone) => {
                    info!(id = place.record.id, uid = place.record.uid, "gone");
                    place.record.id = None;
                    place.end(&mut self.ending);
                }
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
                Err(why) => {
                    let (id, uid) = (place.record.id, place.record.uid);
                    warn!(%why, id, uid, "the warden of a device is gone");
                    place.end(&mut self.ending);
                }
            }
        }
        for (id, mark) in numbers {
            self.take_number(id, mark);
        }
        self.forget();
    }

    /// Without a warden and without a number there is nothing.
    fn forget(&mut self) {
        (self.places).retain(|place| place.warden.is_some() || place.record.id.is_some());
    }

    /// Whether [`Table::look`] has something to do.
    pub(super) fn has_loose_ends(&self) -> bool {
        !self.ending.is_empty() || self.places.iter().any(|place| place.warden.is_none())
    }

    /// Looks after what has no warden: children that have ended, and devices, which get another.
    pub(super) fn look(&mut self, socket: &Path, answer_timeout: Duration) {
        self.ending
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let mut unguarded = Vec::new();
        for place in &mut self.places {
            let (None, Some(id)) = (&place.warden, place.record.id) else {
                continue;
            };
            if !ublk::exists(id) {
                place.record.id = None;
            } else if place.lost.elapsed() > limits::BROKER_RETURN_TIME {
                unguarded.push(place.record.clone());
            }
        }
        self.forget();
        for record in unguarded {
            let id = record.id;
            let order = Order {
                record,
                wanted: None,
                answer_timeout,
                socket: socket.to_owned(),
                capability: false,
            };
            if let Err(error) = self.guard(&order, &[]) {
                warn!(id, "nobody looks after it: {}", error.chain());
            }
        }
    }
}

impl Place {
    fn end(&mut self, ending: &mut Vec<Child>) {
        self.warden = None;
        self.lost = Instant::now();
        self.record.state = State::Lost;
        ending.extend(self.child.take());
    }
}

/// The devices that the kernel has.
fn ublk_ids() -> Vec<u32> {
    let entries = fs::read_dir("/sys/class/ublk-char");
    let entries = entries.into_iter().flatten().flatten();
    let id = |name: &str| name.strip_prefix("ublkc")?.parse().ok();
    entries
        .filter_map(|entry| id(entry.file_name().to_str()?))
        .collect()
}

pub(super) fn has_disk(id: u32) -> bool {
    Path::new(&format!("/sys/block/ublkb{id}")).exists()
}

fn size_bytes(id: u32) -> u64 {
    let text = fs::read_to_string(format!("/sys/block/ublkb{id}/size")).unwrap_or_default();
    text.trim().parse::<u64>().unwrap_or(0) << ublk::abi::SECTOR_SHIFT
}
