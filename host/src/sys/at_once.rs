//! Which transfers are done by the thread that serves, and which are left to others, because they wait.

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use rustix::fs::fstatfs;

use crate::limits;
use crate::store::Store;

/// What is known of one store and one direction.
#[derive(Clone, Copy, Debug)]
pub(super) enum AtOnce {
    /// The system says when it would have to wait.
    Asked {
        /// What to do where it never does.
        local: bool,
    },
    /// It does not say, as most file systems do not for writes; but all is between memory and the system's cache.
    Tried {
        /// How long one takes.
        cost: Duration,
        /// One has just waited: so many are left to others.
        left_out: u32,
    },
    /// Everything waits.
    Never,
}

impl AtOnce {
    /// Nothing is known yet.
    pub(super) fn new(store: &Store) -> AtOnce {
        if store.shape.align_bytes > 1 {
            // There is no cache between.
            return AtOnce::Never;
        }
        AtOnce::Asked {
            local: is_local(&store.file),
        }
    }

    /// Tries a transfer, behind which so many wait. `transfer` does it, without waiting or, where that cannot be asked
    /// for, with. `None` is one that is left to others.
    pub(super) fn run(
        &mut self,
        waiting: usize,
        mut transfer: impl FnMut(libc::c_int) -> io::Result<u32>,
    ) -> Option<io::Result<u32>> {
        if let AtOnce::Asked { local } = *self {
            match transfer(libc::RWF_NOWAIT) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    *self = if local { AtOnce::TRIED } else { AtOnce::Never };
                }
                result => return Some(result).filter(|result| !waits(result)),
            }
        }
        let AtOnce::Tried { cost, left_out } = self else {
            return None;
        };
        if *left_out > 0 {
            *left_out -= 1;
            return None;
        }
        if *cost > limits::STORE_SHARED_TIME && waiting > 0 {
            return None;
        }
        let begin = Instant::now();
        let result = transfer(0);
        let time = begin.elapsed();
        if time > limits::STORE_WAIT_TIME {
            *left_out = limits::STORE_WAITS_LEFT_OUT;
        } else {
            *cost = (*cost * 7 + time) / 8;
        }
        Some(result).filter(|result| !waits(result))
    }

    const TRIED: AtOnce = AtOnce::Tried {
        cost: Duration::ZERO,
        left_out: 0,
    };
}

/// Whether it was not done because it waits, was interrupted, or the system does not know how not to wait: others
/// will be told without that.
fn waits(result: &io::Result<u32>) -> bool {
    let error = result.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(error, Some(libc::EAGAIN | libc::EINVAL | libc::EINTR))
}

/// Whether this is a file on a file system that waits for nobody but a disk of this machine.
fn is_local(file: &File) -> bool {
    // As `linux/magic.h` numbers them.
    const LOCAL: [u64; 7] = [
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0xef53,      // ext2, ext3, ext4
        0xf2f5_2010, // f2fs
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x794c_7630, // overlayfs, on one of these
    ];
    file.metadata().is_ok_and(|metadata| metadata.is_file())
        && fstatfs(file)
            .is_ok_and(|system| u64::try_from(system.f_type).is_ok_and(|is| LOCAL.contains(&is)))
}
