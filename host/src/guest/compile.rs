//! From a component to machine code, once: the result is kept in a folder of this user.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::{debug, warn};
use wasmtime::Engine;

use super::Source;
use super::compiler::sealed_file;
use crate::error::{Context, Error, Result};
use crate::sys::Artefact;

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
/// Those of `compiler`; a cache that does not work costs time only.
pub fn compile(
    engine: &Engine,
    source: &Source,
    cache: Option<&Cache>,
    compiler: impl FnOnce(&Source) -> Result<Vec<u8>>,
) -> Result<Artefact> {
    let path = cache.map(|cache| cache.path(engine, source));
    if let Some(artefact) = path.as_deref().and_then(open_cached) {
        debug!(?path, "compiled before");
        return Ok(Artefact::vouch(artefact));
    }
    debug!(bytes = source.bytes.len(), "compiling");
    let code = compiler(source)?;
    if let Some(path) = &path {
        if let Err(error) = keep(path, &code) {
            warn!(%error, ?path, "cannot keep the compiled guest");
        } else if let Some(artefact) = open_cached(path) {
            return Ok(Artefact::vouch(artefact));
        }
    }
    sealed_file(&code)
        .map(Artefact::vouch)
        .doing(|| "no memory for the compiled guest".into())
}

/// A file of the cache, if it is there and ours; for reading, as the data plane gets it.
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
fn keep(path: &Path, code: &[u8]) -> io::Result<()> {
    let part = path.with_extension(format!("part{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(code)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    let _ = fs::remove_file(&part);
    write().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })
}
