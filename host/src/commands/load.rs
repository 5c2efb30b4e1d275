//! From the command line to a compiled guest, for the commands that serve one.

use std::path::Path;

use tracing::warn;
use wasmtime::Engine;

use crate::config::cache_dir;
use crate::error::Result;
use crate::guest::{Cache, Limits, Source, compile, compile_apart, new_engine};
use crate::policy::Policy;
use crate::sys::Artefact;

/// A guest that can be loaded.
pub(super) struct Loaded {
    pub(super) source: Source,
    pub(super) engine: Engine,
    pub(super) artefact: Artefact,
}

/// Reads and compiles the guest that a policy is about; a cache that does not work costs time only.
pub(super) fn load(
    file: &Path,
    (policy, limits): (&Policy, &Limits),
    cache: Option<&Path>,
) -> Result<Loaded> {
    let source = Source::read(file)?;
    policy.check(&source)?;
    let engine = new_engine()?;
    let cache = cache_dir(cache).and_then(|folder| {
        Cache::open(&folder)
            .inspect_err(|error| warn!("no cache: {}", error.chain()))
            .ok()
    });
    let artefact = compile(&engine, &source, cache.as_ref(), |source| {
        compile_apart(source, limits)
    })?;
    Ok(Loaded {
        source,
        engine,
        artefact,
    })
}
