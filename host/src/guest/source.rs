//! A guest's file, as the operator named it.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::limits;

/// The bytes of a component, and what names them.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it was read.
    pub path: PathBuf,
    /// SHA-256 of the content, in hexadecimal.
    pub digest: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Source {
    /// Reads a file and makes sure that it is a component.
    ///
    /// # Errors
    ///
    /// Names the file, says what it is instead, and how to make a component of it.
    pub fn read(path: &Path) -> Result<Source> {
        let shown = path.display();
        let cannot = |why| Error::usage(format!("cannot read the guest {shown}")).because(why);
        let file = File::open(path).map_err(cannot)?;
        if file.metadata().map_err(cannot)?.is_dir() {
            return Err(Error::usage(format!(
                "{shown} is a folder; name a .wasm file in it"
            )));
        }
        Source::of(path, &file)
    }

    /// The same of a file that is open already.
    ///
    /// # Errors
    ///
    /// As [`Source::read`].
    pub fn of(path: &Path, file: &File) -> Result<Source> {
        let shown = path.display();
        let cannot = |why| Error::usage(format!("cannot read the guest {shown}")).because(why);
        let mut bytes = Vec::new();
        file.take(limits::GUEST_FILE_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(cannot)?;
        if bytes.len() as u64 > limits::GUEST_FILE_BYTES_MAX {
            let max = limits::GUEST_FILE_BYTES_MAX >> 20;
            return Err(Error::usage(format!(
                "{shown} is larger than {max} MiB: not a guest"
            )));
        }
        check_header(path, &bytes)?;
        let mut digest = String::with_capacity(64);
        for byte in Sha256::digest(&bytes) {
            // Writing to a String cannot fail.
            let _ = write!(digest, "{byte:02x}");
        }
        Ok(Source {
            path: path.to_owned(),
            digest,
            bytes,
        })
    }
}

/// The first eight bytes say what a WebAssembly file is: magic, version, layer (component model,
/// `design/mvp/Binary.md`).
fn check_header(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = path.display();
    match bytes {
        [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(()),
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(Error::usage(format!(
            "{shown} is a core WebAssembly module, not a component; make one of it with \
             'wasm-tools component new'"
        ))),
        _ => Err(Error::usage(format!(
            "{shown} is not WebAssembly; wasmblk needs a component (.wasm) that exports \
             wasmblk:block/device"
        ))),
    }
}
