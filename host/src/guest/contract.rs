//! Does a component speak our language? Asked before anything of it runs.

use wasmtime::Engine;
use wasmtime::component::Component;

use super::fault::word;
use super::wasi::Part;
use crate::error::{Error, Result};

/// The package and the line of versions that this host speaks. Versions 0.1.x can be exchanged.
const DEVICE: &str = "wasmblk:block/device@0.1.";
const DEVICE_ANY_VERSION: &str = "wasmblk:block/device@";
const RING: &str = "wasmblk:block/ring@0.1.";
const RING_ANY_VERSION: &str = "wasmblk:block/ring@";
const TRIM: &str = "wasmblk:block/trim@0.1.";
const OURS: &str = "wasmblk:block/";

/// What is for every guest to import.
const FREE: [&str; 2] = ["wasmblk:block/host@0.1.", "wasmblk:block/types@0.1."];
const STORE: &str = "wasmblk:block/store@0.1.";

/// The line of versions of WASI that loads.
const WASI_VERSION: &str = "0.2.";

/// The parts of WASI that ordinary toolchains put into everything (see `wasi`).
const WASI: [&str; 27] = [
    ENVIRONMENT,
    "wasi:cli/exit",
    STDERR,
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

const ENVIRONMENT: &str = "wasi:cli/environment";
const FILESYSTEM: &str = "wasi:filesystem/";
const STDERR: &str = "wasi:cli/stderr";
const SOCKETS: &str = "wasi:sockets/";
const CLOCKS: &str = "wasi:clocks/";
const RANDOM: &str = "wasi:random/";

/// What a guest exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// The interface `device`.
    Device,
    /// `device` and `trim`.
    DeviceWithTrim,
    /// The interface `ring`.
    Ring,
}

impl Contract {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Contract::Device => "device",
            Contract::DeviceWithTrim => "device with trim",
            Contract::Ring => "ring",
        }
    }

    /// By the names of what a component exports. The error says what is wrong, to be put behind its name.
    pub(super) fn of(exports: &[String]) -> std::result::Result<Contract, String> {
        let has = |start| exports.iter().any(|export| export.starts_with(start));
        match (has(DEVICE), has(RING), has(TRIM)) {
            (true, true, _) => {
                Err("exports device and ring of wasmblk:block; a guest exports one of them".into())
            }
            (false, false, _) => Err(no_contract(exports)),
            (false, true, _) => Ok(Contract::Ring),
            (true, false, true) => Ok(Contract::DeviceWithTrim),
            (true, false, false) => Ok(Contract::Device),
        }
    }
}

/// What an import needs from the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: every guest has it.
    Nothing,
    /// Nothing: it loads, and finds nothing there.
    Inert,
    /// Nothing: it loads, and finds no more there than is allowed.
    Part(Part),
    /// Nothing: it loads, and finds there what is granted by name.
    Environment,
    /// The same.
    Directories,
    /// The same.
    Network,
    /// Stores: those that the guest looks for are granted by name.
    Stores,
    /// It cannot be had: it is another version of ours.
    OtherVersion,
    /// It cannot be had: nothing grants it.
    NotGranted,
}

impl Need {
    /// By the name of an import.
    pub(super) fn of(import: &str) -> Need {
        let wasi = import.split_once('@').filter(|(interface, version)| {
            let digits = version.strip_prefix(WASI_VERSION).unwrap_or_default();
            let release = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            release && WASI.contains(interface)
        });
        if let Some((interface, _)) = wasi {
            return match interface {
                ENVIRONMENT => Need::Environment,
                STDERR => Need::Nothing,
                _ if interface.starts_with(SOCKETS) => Need::Network,
                _ if interface.starts_with(FILESYSTEM) => Need::Directories,
                _ if interface.starts_with(CLOCKS) => Need::Part(Part::Clocks),
                _ if interface.starts_with(RANDOM) => Need::Part(Part::Random),
                _ => Need::Inert,
            };
        }
        match import {
            _ if import.starts_with(STORE) => Need::Stores,
            _ if FREE.iter().any(|known| import.starts_with(known)) => Need::Nothing,
            _ if import.starts_with(OURS) => Need::OtherVersion,
            _ => Need::NotGranted,
        }
    }

    /// In words, with what to do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Need::Nothing => "nothing: every guest has it",
            Need::Inert => "nothing: it loads, and finds nothing there",
            Need::Part(Part::Clocks) => {
                "--allow clocks, or allow = [\"clocks\"] in a policy file; without it time stands still"
            }
            Need::Part(Part::Random) => {
                "--allow random, or allow = [\"random\"] in a policy file; without it the numbers are always \
                 the same"
            }
            Need::Environment => {
                "--env NAME=VALUE, or env = [\"NAME=VALUE\"] in a policy file; without it there is none"
            }
            Need::Directories => {
                "--dir /NAME=PATH, or dirs.\"/NAME\" = { path = \"PATH\" } in a policy file; without it there are no \
                 files"
            }
            Need::Network => {
                "--net HOST:PORT, or net = [\"HOST:PORT\"] in a policy file; without it there are no connections"
            }
            Need::Stores => {
                "a --store NAME=PATH, or a policy file, for each store that it looks for"
            }
            Need::OtherVersion => {
                "rebuild the guest with the wit folder of this wasmblk, version 0.1"
            }
            Need::NotGranted => "no option of this version grants it: build the guest without it",
        }
    }
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
    let refused = |why: String| Error::usage(format!("{name} {why}"));
    let contract = Contract::of(&exports).map_err(refused)?;
    for (import, _) in interface.imports(engine) {
        if let Some(why) = refusal(import) {
            return Err(refused(why));
        }
    }
    Ok(contract)
}

/// Why a guest with this import is refused, to be put behind its name.
pub(super) fn refusal(import: &str) -> Option<String> {
    let why = match Need::of(import) {
        Need::OtherVersion => {
            "does not have; it speaks version 0.1: rebuild the guest with its wit folder"
        }
        Need::NotGranted => {
            "does not grant: no option of this version does, so build the guest without it"
        }
        _ => return None,
    };
    Some(format!(
        "imports {}, which this wasmblk {why}",
        word(import)
    ))
}

fn no_contract(exports: &[String]) -> String {
    let of_ours = |start: &str| exports.iter().find(|export| export.starts_with(start));
    let other_version = of_ours(DEVICE_ANY_VERSION)
        .or_else(|| of_ours(RING_ANY_VERSION))
        .or_else(|| of_ours(OURS));
    match other_version {
        Some(export) => format!(
            "exports {export}; this wasmblk speaks version 0.1: rebuild the guest with its wit folder, or \
             use a wasmblk of that version"
        ),
        None if exports.is_empty() => {
            "exports nothing; a guest exports wasmblk:block/device@0.1.0 or ring@0.1.0 (see wit/)"
                .into()
        }
        None => format!(
            "does not export wasmblk:block/device@0.1.0 or ring@0.1.0 (see wit/) but {}",
            exports.join(", ")
        ),
    }
}
