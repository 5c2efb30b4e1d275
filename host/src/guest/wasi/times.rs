//! The times of what a path leads to, set without opening it: wasmtime-wasi opens it to write, which waits where it is
//! a pipe.

use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, Dir};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{ErrorCode, NewTimestamp, PathFlags};

use super::context::Replaced;
use super::files::{Answer, TYPES, code, look_up};
use crate::guest::imports::State;
use crate::guest::link::Link;

/// What is replaced.
pub(super) const REPLACED: Replaced = (TYPES, &["[method]descriptor.set-times-at"]);

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    linker
        .instance(TYPES)?
        .link("[method]descriptor.set-times-at", set_times_at)
}

fn set_times_at(
    mut store: StoreContextMut<'_, State>,
    (dir, path_flags, path, access, modification): (
        Resource<Descriptor>,
        PathFlags,
        String,
        NewTimestamp,
        NewTimestamp,
    ),
) -> Answer<()> {
    let result = match store.data_mut().table.get(&dir)? {
        Descriptor::Dir(dir) => Ok(dir),
        Descriptor::File(_) => Err(ErrorCode::NotDirectory),
    };
    Ok((result.and_then(|dir| {
        let times = Timestamps {
            last_access: time(access)?,
            last_modification: time(modification)?,
        };
        set(dir, path_flags, &path, &times)
    }),))
}

fn set(
    dir: &Dir,
    path_flags: PathFlags,
    path: &str,
    times: &Timestamps,
) -> std::result::Result<(), ErrorCode> {
    if dir.perms.write_not_permitted() {
        return Err(ErrorCode::NotPermitted);
    }
    let place = look_up(dir, path_flags, path, OFlags::PATH | OFlags::CLOEXEC)?;
    utimensat(&place, "", times, AtFlags::EMPTY_PATH).map_err(code)
}

fn time(wanted: NewTimestamp) -> std::result::Result<Timespec, ErrorCode> {
    let (tv_sec, tv_nsec) = match wanted {
        NewTimestamp::NoChange => (0, UTIME_OMIT),
        NewTimestamp::Now => (0, UTIME_NOW),
        NewTimestamp::Timestamp(at) if at.nanoseconds < 1_000_000_000 => (
            i64::try_from(at.seconds).map_err(|_| ErrorCode::Overflow)?,
            i64::from(at.nanoseconds),
        ),
        NewTimestamp::Timestamp(_) => return Err(ErrorCode::Invalid),
    };
    Ok(Timespec { tv_sec, tv_nsec })
}
