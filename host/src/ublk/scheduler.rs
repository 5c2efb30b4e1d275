//! The kernel's scheduler for the requests of a disk. One with a single queue gets mq-deadline, which is made for
//! disks whose heads move: it takes as long over a request as all the rest, and hands batches over one by one. Ours go
//! without, as loop devices do; what lies below has a scheduler of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;

use tracing::{debug, warn};

use super::node::NODE_STEP;
use crate::limits;

/// What the kernel chooses for a disk with one queue; whatever else is there, somebody wanted.
const DEFAULT: &str = "[mq-deadline]";

/// Takes the scheduler away from a disk that is new. The kernel waits for requests meanwhile that are under way, and
/// so do we, for some time; in a thread, so that whatever becomes of them can still be dealt with.
pub(super) fn leave_out(id: u32) {
    let path = PathBuf::from(format!("/sys/block/ublkb{id}/queue/scheduler"));
    let (done, is_done) = channel();
    let started = thread::Builder::new()
        .name("scheduler".into())
        .spawn(move || {
            let _ = done.send(set_none(&path));
        });
    let outcome = match started {
        Ok(_) => is_done
            .recv_timeout(limits::SCHEDULER_TIMEOUT)
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        Err(why) => Err(why),
    };
    match outcome {
        Ok(()) => {}
        // Whoever serves without root may not.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            debug!(%error, id, "the disk keeps the kernel's scheduler");
        }
        Err(error) => warn!(
            %error,
            "the kernel's scheduler is not taken away yet; 'echo none >/sys/block/ublkb{id}/queue/scheduler' does it"
        ),
    }
}

fn set_none(path: &Path) -> io::Result<()> {
    if !fs::read_to_string(path)?.contains(DEFAULT) {
        return Ok(());
    }
    // It is busy while somebody else, such as udev, looks at it.
    for _ in 0..10 {
        match fs::write(path, "none") {
            Err(why) if why.kind() == io::ErrorKind::ResourceBusy => thread::sleep(NODE_STEP),
            outcome => return outcome,
        }
    }
    fs::write(path, "none")
}
