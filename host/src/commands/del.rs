//! `wasmblk del`: stop, wait for the device's process to flush and end, delete.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tracing::warn;

use super::devices::{self, Found};
use crate::cli::Del;
use crate::error::{Context, Error, Result};
use crate::limits;
use crate::plane::{End, RunDir, Stopped, stop as stop_by_socket};
use crate::ublk::{self, Control, abi::state, block_path, char_path, holders, seen_holders};

/// How often a device that is being started is told to stop.
const STOP_STEP: Duration = Duration::from_millis(100);

pub(super) fn run(del: &Del, run_dir: &RunDir, broker: &Path) -> Result<()> {
    let brokered = devices::brokered(broker);
    let ids = if del.all {
        let ids = run_dir.ids();
        let ids = ids.into_iter().filter(|&id| known(run_dir, id));
        let hosted = brokered.iter().filter(|record| record.hosted);
        let ids: BTreeSet<u32> = ids.chain(hosted.filter_map(|record| record.id)).collect();
        ids.into_iter().collect()
    } else {
        del.devices
            .iter()
            .map(|word| devices::resolve(run_dir, &brokered, word))
            .collect::<Result<Vec<u32>>>()?
    };
    let mut control = None;
    let mut result = Ok(());
    for id in ids {
        let run_dir = &devices::run_dir_of(run_dir, &brokered, id);
        let has_broker = brokered.iter().any(|record| record.id == Some(id));
        let deleted = match driver(&mut control, !brokered.is_empty())? {
            Some(control) if is_root() || !has_broker => delete(control, run_dir, id, del.force),
            // By its own processes, or not by this user at all.
            _ => delete_brokered(run_dir, id, del.force),
        };
        // One that cannot be deleted does not keep the others.
        if let Err(error) = deleted {
            match &result {
                Ok(()) => result = Err(error),
                Err(_) => warn!("{}", error.chain()),
            }
        }
    }
    result
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The driver, opened once; `None` for a user whom it does not let in, as root in a container, who may have a broker.
fn driver(control: &mut Option<Control>, has_broker: bool) -> Result<Option<&mut Control>> {
    if control.is_none() {
        match Control::open() {
            Ok(opened) => *control = Some(opened),
            Err(_) if !is_root() || has_broker => {}
            Err(error) => return Err(error),
        }
    }
    Ok(control.as_mut())
}

/// Whether there is anything to delete; a socket that outlived everything else is cleared away.
fn known(run_dir: &RunDir, id: u32) -> bool {
    ublk::exists(id) || !clear_away(run_dir, id)
}

/// Removes the socket of a device that no process serves. The lock keeps it from being that of the
/// number's next device.
fn clear_away(run_dir: &RunDir, id: u32) -> bool {
    let lock = run_dir.lock();
    let dead = lock.is_ok() && matches!(devices::find(run_dir, id), Ok(Found::Dead(_)));
    if dead {
        run_dir.forget_socket(id);
    }
    dead
}

fn delete(control: &mut Control, run_dir: &RunDir, id: u32, force: bool) -> Result<()> {
    let socket = run_dir.socket(id);
    // Asked for before the stop, so that its last word is not missed.
    let end = match End::of(&socket) {
        Ok(end) => Some(end),
        Err(error) if is_dead(&error) => None,
        Err(error) if force => {
            warn!(%error, "nobody waits for the last flush of device {id}");
            None
        }
        Err(why) => {
            let message = format!("the process of device {id} does not answer; try --force");
            return Err(Error::failed(message).because(why));
        }
    };
    let info = match control.info(id) {
        Ok(info) => info,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            clear_away(run_dir, id);
            let message = format!("there is no device {id}; see 'wasmblk list'");
            return Err(Error::failed(message));
        }
        Err(why) => {
            return Err(Error::failed(format!("cannot look at device {id}")).because(why));
        }
    };
    let node = info.is_unprivileged().then(|| char_path(id));
    control.name_by(node.as_deref());
    let live = info.state == state::LIVE;
    let ours = end.is_some() || (socket.exists() && !live);
    if !ours && !force {
        return Err(Error::failed(format!(
            "device {id} is not wasmblk's (or is of another --run-dir); --force deletes it all the same"
        )));
    }
    if live {
        stop(control, id, force, end.as_ref())?;
    } else {
        // Not started, or dead: there is nothing to be in use, but a process may wait for its tags.
        let _ = control.stop(id);
    }
    let ended = end.map_or(Ok(()), |end| wait_for_end(end, id));
    let _lock = run_dir.lock()?;
    let gone = match devices::find(run_dir, id) {
        Ok(found) => matches!(found, Found::Dead(_)),
        // Who serves it may mean no good.
        Err(_) if force => true,
        Err(error) => return Err(error),
    };
    if gone {
        // Its process may have deleted it, and its number may be another's since, a broker's for instance.
        let now = control.info(id);
        if now.map_or(true, |now| now.ublksrv_flags == info.ublksrv_flags) {
            delete_dead(control, id)?;
        }
        run_dir.forget_socket(id);
    }
    ended
}

/// Deletes a device of a user without privilege: its own processes have the capability for that.
fn delete_brokered(run_dir: &RunDir, id: u32, force: bool) -> Result<()> {
    let socket = run_dir.socket(id);
    let none = |why: io::Error| {
        Error::failed(format!(
            "you have no device {id}; see 'wasmblk list' (root may delete others)"
        ))
        .because(why)
    };
    let end = End::of(&socket).map_err(none)?;
    // Where the kernel does not do it, nobody but this user sees which of his processes have it open.
    let used = if force { Vec::new() } else { seen_holders(id) };
    if !used.is_empty() {
        return in_use(id, &used);
    }
    let deadline = Instant::now() + limits::STARTING_TIMEOUT;
    let mut starts = false;
    loop {
        let stopped = match stop_by_socket(&socket, force) {
            // It has ended since, which is waited for already.
            Err(_) if starts => Stopped::Ends,
            stopped => stopped.doing(|| format!("device {id} does not answer"))?,
        };
        starts = stopped == Stopped::Starting;
        match stopped {
            Stopped::Ends => return wait_for_end(end, id),
            Stopped::InUse => return in_use(id, &holders(id)),
            Stopped::Starting if Instant::now() < deadline => thread::sleep(STOP_STEP),
            Stopped::Starting => {
                let message = format!("device {id} is being started; try again later");
                return Err(with_remedy(Error::failed(message), Some(&end)));
            }
            Stopped::Failed(why) => {
                return Err(Error::failed(format!("cannot stop device {id}: {why}")));
            }
        }
    }
}

/// Refuses to delete what is in use.
fn in_use(id: u32, why: &[String]) -> Result<()> {
    let by = if why.is_empty() {
        "open somewhere".into()
    } else {
        why.join(", ")
    };
    let node = block_path(id);
    Err(Error::failed(format!(
        "{} is in use ({by}); unmount or close it first, or say --force",
        node.display()
    )))
}

fn is_dead(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Deletes what the device's own process did not, or not yet.
fn delete_dead(control: &mut Control, id: u32) -> Result<()> {
    let freed = match control.delete(id) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        freed => freed.doing(|| format!("cannot delete device {id}"))?,
    };
    if !freed {
        let node = block_path(id);
        warn!(
            "{} is still open somewhere; its number is free once it is closed",
            node.display()
        );
    }
    Ok(())
}

/// Stops a device that nobody uses, or any with `force`.
fn stop(control: &mut Control, id: u32, force: bool, end: Option<&End>) -> Result<()> {
    let stopped = if force {
        control.stop(id)
    } else if control.can_try_stop() {
        match control.try_stop(id) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                return in_use(id, &holders(id));
            }
            result => result,
        }
    } else {
        let holders = holders(id);
        if !holders.is_empty() {
            return in_use(id, &holders);
        }
        control.stop(id)
    };
    match stopped {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let error = Error::failed(format!("cannot stop device {id}")).because(error);
            Err(with_remedy(error, end))
        }
        _ => Ok(()),
    }
}

/// Waits for the data plane, which flushes the guest before it ends.
fn wait_for_end(mut end: End, id: u32) -> Result<()> {
    match end.wait() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(Error::failed(format!(
            "device {id} did not end well: {error}"
        ))),
        Err(why) => {
            let message = format!("device {id} is stopped, but its process does not end");
            Err(with_remedy(Error::failed(message).because(why), Some(&end)))
        }
    }
}

/// Says how a process is ended that does not stop or end: its minder then removes what is left.
fn with_remedy(error: Error, end: Option<&End>) -> Error {
    let Some(minder) = end.and_then(End::minder) else {
        return error;
    };
    Error::failed(format!(
        "{}; 'pkill -KILL -P {minder}' ends its process, and loses what that has not flushed",
        error.chain()
    ))
}
