//! The files of a guest: those in the directories that it is granted. wasmtime-wasi keeps paths inside of them; what
//! is here in its place are functions that would wait, would need threads, or copy what has no bounds.

use std::os::unix::fs::FileExt;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, Dir, File};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode as AsyncErrorCode;
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    DescriptorFlags, ErrorCode, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};
use wasmtime_wasi::{FsPerms, OpenMode};

use super::context::Replaced;
use super::streams::{Reader, Writer};
use crate::guest::imports::State;
use crate::guest::link::Link;
use crate::guest::missing::Missing;
use crate::limits;
use crate::sys::Passed;

/// The one version that wasmtime-wasi 48 provides; it serves all that guests may name.
pub(super) const TYPES: &str = "wasi:filesystem/types@0.2.12";
const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";

/// What is replaced.
pub(super) const REPLACED: Replaced = (
    TYPES,
    &[
        "[method]descriptor.open-at",
        "[method]descriptor.write",
        "[method]descriptor.read-via-stream",
        "[method]descriptor.write-via-stream",
        "[method]descriptor.append-via-stream",
        "[method]descriptor.symlink-at",
    ],
);
/// The same, of the interface that gives a guest its directories.
pub(super) const GRANTED: Replaced = (PREOPENS, &["get-directories"]);

/// How often a path is looked up that somebody changes meanwhile.
const LOOKUPS_MAX: u32 = 8;

/// What a function of the interface answers. The outer error ends the guest.
pub(super) type Answer<T> = Result<(std::result::Result<T, ErrorCode>,)>;

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.link("[method]descriptor.open-at", open_at)?;
    types.link("[method]descriptor.write", write)?;
    types.link("[method]descriptor.read-via-stream", read_via_stream)?;
    types.link("[method]descriptor.write-via-stream", write_via_stream)?;
    types.link("[method]descriptor.append-via-stream", append_via_stream)?;
    types.link("[method]descriptor.symlink-at", symlink_at)?;
    linker
        .instance(PREOPENS)?
        .link("get-directories", get_directories)
}

/// A directory, and the name that the guest has for it.
type Granted = (Resource<Descriptor>, String);

fn get_directories(mut store: StoreContextMut<'_, State>, (): ()) -> Result<(Vec<Granted>,)> {
    let State {
        table,
        directories,
        missing,
        ..
    } = store.data_mut();
    if directories.all().is_empty() {
        missing.note(Missing::Directories);
    }
    let mut all = Vec::new();
    for (name, dir) in directories.all() {
        all.push((table.push(Descriptor::Dir(dir.clone()))?, name.clone()));
    }
    Ok((all,))
}

fn open_at(
    mut store: StoreContextMut<'_, State>,
    (dir, path_flags, path, open_flags, flags): (
        Resource<Descriptor>,
        PathFlags,
        String,
        OpenFlags,
        DescriptorFlags,
    ),
) -> Answer<Resource<Descriptor>> {
    let table = &mut store.data_mut().table;
    let opened = match table.get(&dir)? {
        Descriptor::Dir(dir) => open(dir, path_flags, &path, (open_flags, flags)),
        Descriptor::File(_) => Err(ErrorCode::NotDirectory),
    };
    Ok((match opened {
        Ok(descriptor) => Ok(table.push(descriptor)?),
        Err(code) => Err(code),
    },))
}

/// Opens what a path leads to inside of a directory, and never waits: of what could let somebody wait, a pipe or a
/// device, nothing is opened.
fn open(
    dir: &Dir,
    path_flags: PathFlags,
    path: &str,
    (open_flags, flags): (OpenFlags, DescriptorFlags),
) -> std::result::Result<Descriptor, ErrorCode> {
    let writes = flags.contains(DescriptorFlags::WRITE)
        || open_flags.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE);
    let reads = flags.contains(DescriptorFlags::READ) || !writes;
    if writes && dir.perms.write_not_permitted() {
        return Err(ErrorCode::NotPermitted);
    }
    let synchronous = DescriptorFlags::FILE_INTEGRITY_SYNC
        | DescriptorFlags::DATA_INTEGRITY_SYNC
        | DescriptorFlags::REQUESTED_WRITE_SYNC;
    if flags.intersects(synchronous) {
        return Err(ErrorCode::Unsupported);
    }
    let mut how = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    how |= match (reads, writes) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        (_, false) => OFlags::RDONLY,
    };
    for (flag, bit) in [
        (OpenFlags::CREATE, OFlags::CREATE),
        (OpenFlags::DIRECTORY, OFlags::DIRECTORY),
        (OpenFlags::EXCLUSIVE, OFlags::EXCL),
        (OpenFlags::TRUNCATE, OFlags::TRUNC),
    ] {
        how.set(bit, open_flags.contains(flag));
    }
    let file = look_up(dir, path_flags, path, how)?;
    let kind = FileType::from_raw_mode(fstat(&file).map_err(code)?.st_mode);
    let mut mode = OpenMode::empty();
    mode.set(OpenMode::READ, reads);
    mode.set(OpenMode::WRITE, writes);
    match kind {
        FileType::Directory => {
            // As that which it lies in.
            mode.set(OpenMode::WRITE, !dir.perms.write_not_permitted());
            Ok(Descriptor::Dir(Dir::new(file, dir.perms, mode, true)))
        }
        FileType::RegularFile => Ok(Descriptor::File(File::new(file, dir.perms, mode, true))),
        _ => Err(ErrorCode::NotPermitted),
    }
}

/// By the kernel, which keeps the path inside while others change it.
pub(super) fn look_up(
    dir: &Dir,
    path_flags: PathFlags,
    path: &str,
    mut how: OFlags,
) -> std::result::Result<std::fs::File, ErrorCode> {
    let follows = path_flags.contains(PathFlags::SYMLINK_FOLLOW);
    how.set(OFlags::NOFOLLOW, !follows);
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mode = if how.contains(OFlags::CREATE) {
        Mode::from_raw_mode(0o666)
    } else {
        Mode::empty()
    };
    let mut result = Err(Errno::AGAIN);
    for _ in 0..LOOKUPS_MAX {
        result = openat2(&*dir.dir, path, how, mode, inside);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result.map(std::fs::File::from).map_err(code)
}

/// What a guest is told.
pub(super) fn code(errno: Errno) -> ErrorCode {
    match errno {
        // It would have led out.
        Errno::XDEV => ErrorCode::NotPermitted,
        // Others change the path all the time.
        Errno::AGAIN => ErrorCode::Busy,
        // A pipe that nobody reads, or a device.
        Errno::NXIO => ErrorCode::NotPermitted,
        other => AsyncErrorCode::from(std::io::Error::from(other)).into(),
    }
}

/// As much as a stream takes at once: who writes more is told, and goes on.
#[expect(clippy::needless_pass_by_value, reason = "the linker's shape")]
fn write(
    store: StoreContextMut<'_, State>,
    (file, data, offset): (Resource<Descriptor>, Passed, u64),
) -> Answer<u64> {
    let file = match may_change(store.data().table.get(&file)?) {
        Ok(file) => file,
        Err(code) => return Ok((Err(code),)),
    };
    let written = data.look(|data| {
        let piece = &data[..data.len().min(limits::GUEST_STREAM_BYTES_MAX)];
        file.file.write_at(piece, offset)
    });
    let written = written.map(|bytes| bytes as u64);
    Ok((written.map_err(|why| AsyncErrorCode::from(why).into()),))
}

/// A file that a guest may write to.
fn may_change(descriptor: &Descriptor) -> std::result::Result<&File, ErrorCode> {
    match descriptor {
        Descriptor::File(file) if file.perms == FsPerms::ReadWrite => Ok(file),
        Descriptor::File(_) => Err(ErrorCode::NotPermitted),
        Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor),
    }
}

fn read_via_stream(
    mut store: StoreContextMut<'_, State>,
    (file, offset): (Resource<Descriptor>, u64),
) -> Answer<Resource<DynInputStream>> {
    let table = &mut store.data_mut().table;
    let file = match table.get(&file)? {
        Descriptor::File(file) => file.clone(),
        Descriptor::Dir(_) => return Ok((Err(ErrorCode::IsDirectory),)),
    };
    let reader: DynInputStream = Box::new(Reader { file, offset });
    Ok((Ok(table.push(reader)?),))
}

fn write_via_stream(
    store: StoreContextMut<'_, State>,
    (file, offset): (Resource<Descriptor>, u64),
) -> Answer<Resource<DynOutputStream>> {
    writer(store, &file, Some(offset))
}

fn append_via_stream(
    store: StoreContextMut<'_, State>,
    (file,): (Resource<Descriptor>,),
) -> Answer<Resource<DynOutputStream>> {
    writer(store, &file, None)
}

fn writer(
    mut store: StoreContextMut<'_, State>,
    file: &Resource<Descriptor>,
    offset: Option<u64>,
) -> Answer<Resource<DynOutputStream>> {
    let table = &mut store.data_mut().table;
    let file = match may_change(table.get(file)?) {
        Ok(file) => file.clone(),
        Err(code) => return Ok((Err(code),)),
    };
    let writer: DynOutputStream = Box::new(Writer { file, offset });
    Ok((Ok(table.push(writer)?),))
}

/// None is made: whoever follows it outside of the sandbox would be led anywhere.
fn symlink_at(
    _: StoreContextMut<'_, State>,
    _: (Resource<Descriptor>, String, String),
) -> Answer<()> {
    Ok((Err(ErrorCode::NotPermitted),))
}
