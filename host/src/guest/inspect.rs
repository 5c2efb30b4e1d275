//! What a component says of itself, read from its file: nothing is compiled, and nothing of it runs. Time and
//! memory are those of one pass over the bytes, whatever they are.

use serde::Serialize;
use wasmparser::{BinaryReaderError, MemoryType, Parser, Payload};

use super::contract::{Contract, Need, refusal};
use super::fault::word;
use crate::limits;

/// What a component says of itself.
#[derive(Debug)]
pub struct Inspection {
    /// The contract, or why there is none.
    pub contract: Result<Contract, String>,
    /// What it exports, in the file's order.
    pub exports: Vec<String>,
    /// What it imports, in the file's order.
    pub imports: Vec<Import>,
    /// What is inside.
    pub parts: Parts,
    /// Why it would be refused, to be put behind its name.
    pub refused: Vec<String>,
}

/// An import of a component.
#[derive(Debug)]
pub struct Import {
    /// Package and interface, or the whole name where it is no interface.
    pub interface: String,
    /// The version of the package.
    pub version: Option<String>,
    /// What it takes to have it.
    pub need: Need,
}

/// Core modules and what they define, those of components inside included. Each may be there several times, or
/// not at all, in an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// Core modules.
    pub core_modules: u64,
    /// Memories of core modules.
    pub memories: u64,
    /// What they have at least, together, in bytes.
    pub memory_min_bytes: u64,
    /// Memories that are not of 32 bits, or shared: no guest may have those.
    #[serde(skip)]
    odd_memories: u64,
}

/// Reads a component.
///
/// # Errors
///
/// What is wrong with it, to be put behind its name.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, String> {
    let mut names = Names::default();
    let mut parts = Parts::default();
    let mut depth = 0;
    let broken = |why: BinaryReaderError| format!("is not a valid component: {why}");
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { .. } => {
                parts.core_modules += 1;
                depth += 1;
            }
            Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::MemorySection(section) => {
                for memory in section {
                    parts.add(&memory.map_err(broken)?);
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.add(true, import.map_err(broken)?.name.name)?;
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    names.add(false, export.map_err(broken)?.name.name)?;
                }
            }
            _ => {}
        }
        if depth > limits::GUEST_DEPTH_MAX {
            let most = limits::GUEST_DEPTH_MAX;
            return Err(format!(
                "has components inside components, more than {most} deep"
            ));
        }
    }
    Ok(names.conclude(parts))
}

impl Parts {
    fn add(&mut self, memory: &MemoryType) {
        let page_bytes = 1_u64
            .checked_shl(memory.page_size_log2.unwrap_or(16))
            .unwrap_or(u64::MAX);
        self.memories += 1;
        self.memory_min_bytes = self
            .memory_min_bytes
            .saturating_add(memory.initial.saturating_mul(page_bytes));
        if memory.memory64 || memory.shared {
            self.odd_memories += 1;
        }
    }
}

/// Names as they are in the file, but for their lengths.
#[derive(Default)]
struct Names {
    imports: Vec<Import>,
    exports: Vec<String>,
    refused: Vec<String>,
}

impl Names {
    fn add(&mut self, imported: bool, name: &str) -> Result<(), String> {
        if self.imports.len() + self.exports.len() >= limits::GUEST_NAMES_MAX {
            let most = limits::GUEST_NAMES_MAX;
            return Err(format!(
                "has more than {most} imports and exports: not a guest"
            ));
        }
        if !imported {
            self.exports.push(word(name));
            return Ok(());
        }
        let (interface, version) = match name.split_once('@') {
            Some((interface, version)) => (interface, Some(word(version))),
            None => (name, None),
        };
        self.imports.push(Import {
            interface: word(interface),
            version,
            need: Need::of(name),
        });
        self.refused.extend(refusal(name));
        Ok(())
    }

    fn conclude(self, parts: Parts) -> Inspection {
        let contract = Contract::of(&self.exports);
        let mut refused = self.refused;
        refused.extend(contract.clone().err());
        if parts.odd_memories > 0 {
            refused.push(
                "has memories of 64 bits, or shared ones; build it for wasm32, without threads"
                    .into(),
            );
        }
        Inspection {
            contract,
            exports: self.exports,
            imports: self.imports,
            parts,
            refused,
        }
    }
}
