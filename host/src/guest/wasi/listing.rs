//! What is in a directory, read piece by piece: that of wasmtime-wasi reads all of it at once, however much that is.

use rustix::fs::{AtFlags, Dir as Entries, FileType, statat};
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, Dir};
use wasmtime_wasi::p2::bindings::sync::filesystem::types::{
    DescriptorType, DirectoryEntry, ErrorCode,
};

use super::context::Replaced;
use super::files::{Answer, TYPES, code};
use crate::guest::imports::State;
use crate::guest::limiter::Limiter;
use crate::guest::link::Link;
use crate::limits;

/// What is replaced.
pub(super) const REPLACED: Replaced = (
    TYPES,
    &[
        "[method]descriptor.read-directory",
        "[method]directory-entry-stream.read-directory-entry",
    ],
);

/// A directory that is being read.
struct Listing {
    dir: Dir,
    entries: Entries,
    /// What it reads ahead.
    _room: Limiter,
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.resource(
        "directory-entry-stream",
        ResourceType::host::<Listing>(),
        |mut store, handle| {
            let listing = Resource::<Listing>::new_own(handle);
            store.data_mut().table.delete(listing)?;
            Ok(())
        },
    )?;
    types.link("[method]descriptor.read-directory", read_directory)?;
    types.link(
        "[method]directory-entry-stream.read-directory-entry",
        read_directory_entry,
    )
}

fn read_directory(
    mut store: StoreContextMut<'_, State>,
    (dir,): (Resource<Descriptor>,),
) -> Answer<Resource<Listing>> {
    let State { table, limiter, .. } = store.data_mut();
    let dir = match table.get(&dir)? {
        Descriptor::Dir(dir) => dir.clone(),
        Descriptor::File(_) => return Ok((Err(ErrorCode::NotDirectory),)),
    };
    let Some(room) = limiter.another(limits::GUEST_LISTING_BYTES) else {
        return Ok((Err(ErrorCode::InsufficientMemory),));
    };
    Ok((match Entries::read_from(&*dir.dir) {
        Ok(entries) => Ok(table.push(Listing {
            dir,
            entries,
            _room: room,
        })?),
        Err(why) => Err(code(why)),
    },))
}

fn read_directory_entry(
    mut store: StoreContextMut<'_, State>,
    (listing,): (Resource<Listing>,),
) -> Answer<Option<DirectoryEntry>> {
    let listing = store.data_mut().table.get_mut(&listing)?;
    Ok((listing.next(),))
}

impl Listing {
    fn next(&mut self) -> std::result::Result<Option<DirectoryEntry>, ErrorCode> {
        for entry in &mut self.entries {
            let entry = entry.map_err(code)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                // This file system does not tell.
                FileType::Unknown => {
                    match statat(&*self.dir.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(about) => FileType::from_raw_mode(about.st_mode),
                        // It has gone meanwhile.
                        Err(_) => continue,
                    }
                }
                kind => kind,
            };
            let name = name.to_str().map_err(|_| ErrorCode::IllegalByteSequence)?;
            return Ok(Some(DirectoryEntry {
                type_: shown(kind),
                name: name.to_owned(),
            }));
        }
        Ok(None)
    }
}

fn shown(kind: FileType) -> DescriptorType {
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
