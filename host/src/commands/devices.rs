//! Finding devices by number or name.

use std::io;
use std::path::Path;

use tracing::debug;

use crate::broker::{self, wire::Record};
use crate::error::{Error, Result};
use crate::plane::{RunDir, Status, ask, ask_owned};
use crate::ublk;

/// What became of a device whose socket is there.
pub(super) enum Found {
    /// Its process answered.
    Served(Box<Status>),
    /// Its process is gone.
    Dead(u32),
}

/// Asks one device.
pub(super) fn find(run_dir: &RunDir, id: u32) -> Result<Found> {
    match ask(&run_dir.socket(id)) {
        Ok(status) => match checked(status, id) {
            Some(status) => Ok(Found::Served(Box::new(status))),
            None => Err(Error::failed(format!(
                "device {id} says that it is another"
            ))),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Ok(Found::Dead(id)),
            io::ErrorKind::PermissionDenied => Err(Error::failed(format!(
                "device {id} belongs to another user; try sudo"
            ))),
            _ => Err(Error::failed(format!("device {id} does not answer")).because(error)),
        },
    }
}

/// All devices with a socket, as far as the kernel still has them or a process answers.
pub(super) fn all(run_dir: &RunDir) -> Vec<Result<Found>> {
    run_dir
        .ids()
        .into_iter()
        .map(|id| find(run_dir, id))
        .filter(|found| !matches!(found, Ok(Found::Dead(id)) if !ublk::exists(*id)))
        .collect()
}

/// The devices of a broker that this user may see; none where no broker answers.
pub(super) fn brokered(socket: &Path) -> Vec<Record> {
    if !socket.exists() {
        return Vec::new();
    }
    broker::list(socket).unwrap_or_else(|error| {
        debug!("no broker: {}", error.chain());
        Vec::new()
    })
}

/// What a device of a broker says of itself, where it says anything. Who is asked is a process of the user's, or the
/// broker's.
pub(super) fn status_of(record: &Record) -> Option<Box<Status>> {
    let socket = RunDir::new(record.run_dir.clone()?).socket(record.id?);
    let owner = if record.hosted { 0 } else { record.uid };
    let status = checked(ask_owned(&socket, Some(owner)).ok()?, record.id?)?;
    // The broker knows whose it is.
    let uid = record.uid;
    Some(Box::new(Status { uid, ..status }))
}

/// A status without what is known otherwise: who tells it may be in the hands of a guest, or of another user.
fn checked(status: Status, id: u32) -> Option<Status> {
    let device = ublk::block_path(id);
    (status.id == id).then_some(Status { device, ..status })
}

/// Where the control socket of a device is: with the user's others, or with the broker's, where that serves it.
pub(super) fn run_dir_of(run_dir: &RunDir, brokered: &[Record], id: u32) -> RunDir {
    let record = brokered.iter().find(|record| record.id == Some(id));
    let hosted = record.filter(|record| record.hosted);
    let hosted = hosted.and_then(|record| record.run_dir.clone());
    hosted.map_or_else(|| run_dir.clone(), RunDir::new)
}

/// The number for a number or a name.
pub(super) fn resolve(run_dir: &RunDir, brokered: &[Record], word: &str) -> Result<u32> {
    let digits = word.strip_prefix("/dev/ublkb").unwrap_or(word);
    if let Ok(id) = digits.parse() {
        return Ok(id);
    }
    let named = |found: &Result<Found>| match found {
        Ok(Found::Served(status)) if status.name.as_deref() == Some(word) => Some(status.id),
        _ => None,
    };
    let known = |record: &Record| record.id.filter(|_| record.name.as_deref() == Some(word));
    (all(run_dir).iter().find_map(named))
        .or_else(|| brokered.iter().find_map(known))
        .ok_or_else(|| Error::usage(format!("no device is named '{word}'; see 'wasmblk list'")))
}
