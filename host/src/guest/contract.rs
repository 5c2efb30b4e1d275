//! Does a component speak our language? Asked before anything of it runs.

use wasmtime::Engine;
use wasmtime::component::Component;

use super::fault::word;
use crate::error::{Error, Result};

/// The package and the line of versions that this host speaks. Versions 0.1.x can be exchanged.
const DEVICE: &str = "wasmblk:block/device@0.1.";
const DEVICE_ANY_VERSION: &str = "wasmblk:block/device@";
const RING: &str = "wasmblk:block/ring@0.1.";
const RING_ANY_VERSION: &str = "wasmblk:block/ring@";
const TRIM: &str = "wasmblk:block/trim@0.1.";
const OURS: &str = "wasmblk:block/";

/// What a guest may import without a grant: our own interfaces, and the parts of WASI that ordinary
/// toolchains put into everything. Those are inert (see `imports`).
const IMPORTS: [&str; 8] = [
    "wasmblk:block/host@0.1.",
    "wasmblk:block/store@0.1.",
    "wasmblk:block/types@0.1.",
    "wasi:cli/",
    "wasi:io/",
    "wasi:clocks/",
    "wasi:random/",
    "wasi:filesystem/",
];

/// What a guest exports.
#[derive(Clone, Copy, Debug)]
pub(super) enum Contract {
    /// The interface `device`.
    Device,
    /// `device` and `trim`.
    DeviceWithTrim,
    /// The interface `ring`.
    Ring,
}

/// Holds a component's exports and imports against the WIT.
///
/// # Errors
///
/// Names the guest, what is missing or too much, and the remedy.
pub(super) fn check(engine: &Engine, component: &Component, name: &str) -> Result<Contract> {
    let interface = component.component_type();
    let exports: Vec<String> = interface
        .exports(engine)
        .map(|(export, _)| word(export))
        .collect();
    let has = |start| exports.iter().any(|export| export.starts_with(start));
    let contract = match (has(DEVICE), has(RING), has(TRIM)) {
        (true, true, _) => {
            return Err(Error::usage(format!(
                "{name} exports device and ring of wasmblk:block; a guest exports one of them"
            )));
        }
        (false, false, _) => return Err(no_device(name, &exports)),
        (false, true, _) => Contract::Ring,
        (true, false, true) => Contract::DeviceWithTrim,
        (true, false, false) => Contract::Device,
    };
    for (import, _) in interface.imports(engine) {
        if !IMPORTS.iter().any(|known| import.starts_with(known)) {
            return Err(refused(name, &word(import)));
        }
    }
    Ok(contract)
}

fn no_device(name: &str, exports: &[String]) -> Error {
    let of_ours = |start: &str| exports.iter().find(|export| export.starts_with(start));
    let other_version = of_ours(DEVICE_ANY_VERSION)
        .or_else(|| of_ours(RING_ANY_VERSION))
        .or_else(|| of_ours(OURS));
    Error::usage(match other_version {
        Some(export) => format!(
            "{name} exports {export}; this wasmblk speaks version 0.1: rebuild the guest with its \
             wit folder, or use a wasmblk of that version"
        ),
        None if exports.is_empty() => format!(
            "{name} exports nothing; a guest exports wasmblk:block/device@0.1.0 or ring@0.1.0 (see \
             wit/)"
        ),
        None => format!(
            "{name} does not export wasmblk:block/device@0.1.0 or ring@0.1.0 (see wit/) but {}",
            exports.join(", ")
        ),
    })
}

fn refused(name: &str, import: &str) -> Error {
    Error::usage(if import.starts_with(OURS) {
        format!(
            "{name} imports {import}, which this wasmblk does not have; it speaks version 0.1: \
             rebuild the guest with its wit folder"
        )
    } else {
        format!(
            "{name} imports {import}, which is not granted: no option of this version grants it, so \
             build the guest without it"
        )
    })
}
