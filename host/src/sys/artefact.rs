//! Compiled guests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::slice;

use wasmtime::component::Component;
use wasmtime::{Engine, Result};

/// A file with machine code that somebody vouched for.
#[derive(Debug)]
pub struct Artefact(File);

impl Artefact {
    /// Vouches for a file: it was written by wasmtime in a process of this user, and nobody else can
    /// have changed it since. `guest::compile` does it for what it wrote or found in this user's cache,
    /// `plane::launch` for what the process of this user sent that started this one.
    pub(crate) fn vouch(file: File) -> Artefact {
        Artefact(file)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.0
    }

    /// Loads the machine code.
    ///
    /// # Errors
    ///
    /// Where it is of another version or configuration of the engine.
    pub fn load(&self, engine: &Engine) -> Result<Component> {
        let mut code = vec![0; usize::try_from(self.0.metadata()?.len())?];
        self.0.read_exact_at(&mut code, 0)?;
        // SAFETY: it is wasmtime's own code (`vouch`, by its callers).
        unsafe { Component::deserialize(engine, code) }
    }
}

/// What was loaded, as wasmtime has it in memory.
#[must_use]
pub fn image(component: &Component) -> &[u8] {
    let range = component.image_range();
    let bytes = range.end.addr() - range.start.addr();
    // SAFETY: it is one mapping, which nobody writes to, and which stays as long as the component.
    unsafe { slice::from_raw_parts(range.start, bytes) }
}
