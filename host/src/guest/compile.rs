//! From a component to machine code, once: the result is kept in a folder of this user.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{MemfdFlags, memfd_create};
use tracing::{debug, warn};
use wasmtime::Engine;

use super::Source;
use crate::error::{Context, Error, Result};
use crate::sys::{Artefact, drop_capabilities};

/// A folder with compiled guests, named by content and engine. Loading machine code is a matter of
/// trust, so the folder is this user's alone.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// Makes the folder, or makes sure that only this user can write it.
    ///
    /// # Errors
    ///
    /// Names the folder and says what is wrong with it.
    pub fn open(folder: &Path) -> Result<Cache> {
        let shown = folder.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .doing(|| format!("cannot make the cache folder {shown}; try --cache-dir"))?;
        let metadata = fs::symlink_metadata(folder).doing(|| format!("cannot look at {shown}"))?;
        let ours = metadata.uid() == rustix::process::geteuid().as_raw();
        if !metadata.is_dir() || !ours || metadata.mode() & 0o022 != 0 {
            return Err(Error::failed(format!(
                "the cache folder {shown} is not a folder that only this user can write: machine \
                 code in it could be anybody's; try 'chmod 700' or --cache-dir"
            )));
        }
        Ok(Cache(folder.to_owned()))
    }

    fn path(&self, engine: &Engine, source: &Source) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        self.0
            .join(format!("{}-{:016x}.cwasm", source.digest, hasher.finish()))
    }
}

/// Gives the machine code of a guest: from the cache, or compiled now and then kept there.
///
/// # Errors
///
/// Where the component is not valid; a cache that does not work costs time only.
pub fn compile(engine: &Engine, source: &Source, cache: Option<&Cache>) -> Result<Artefact> {
    let path = cache.map(|cache| cache.path(engine, source));
    if let Some(artefact) = path.as_deref().and_then(open_cached) {
        debug!(?path, "compiled before");
        return Ok(Artefact::vouch(artefact));
    }
    debug!(bytes = source.bytes.len(), "compiling");
    let code = without_privilege(|| compile_here(engine, source))?;
    if let Some(path) = &path {
        match keep(path, &code) {
            Ok(artefact) => return Ok(Artefact::vouch(artefact)),
            Err(error) => warn!(%error, ?path, "cannot keep the compiled guest"),
        }
    }
    in_memory(&code)
        .map(Artefact::vouch)
        .doing(|| "no memory for the compiled guest".into())
}

/// Compiles in this process, which has given up all else.
///
/// # Errors
///
/// Where the component is not valid.
pub fn compile_here(engine: &Engine, source: &Source) -> Result<Vec<u8>> {
    engine
        .precompile_component(&source.bytes)
        .map_err(|why| invalid(source, why))
}

fn invalid(source: &Source, why: wasmtime::Error) -> Error {
    let shown = source.path.display();
    Error::usage(format!("{shown} is not a valid component")).because(why)
}

/// Does something in a thread without capabilities: the compiler needs none, and the threads that it leaves
/// behind have none.
fn without_privilege<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let run = || {
        let _ = drop_capabilities();
        work()
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// A file of the cache, if it is there and ours.
fn open_cached(path: &Path) -> Option<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nofollow)
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    let ours = metadata.uid() == rustix::process::geteuid().as_raw();
    (metadata.is_file() && ours && metadata.mode() & 0o022 == 0).then_some(file)
}

/// Writes under a name of its own, then renames: whoever finds the file finds all of it.
fn keep(path: &Path, code: &[u8]) -> io::Result<File> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(code)?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        file.rewind()?;
        Ok(file)
    };
    let _ = fs::remove_file(&part);
    write().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}

fn in_memory(code: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("wasmblk guest", MemfdFlags::CLOEXEC)?);
    file.write_all(code)?;
    file.rewind()?;
    Ok(file)
}
