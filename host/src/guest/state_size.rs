//! How much memory of the host an instance takes beside its memories and tables: globals, functions that others can
//! call, imports, and what holds them together. wasmtime asks nobody before it takes that, so it is counted before.

use wasmtime_environ::component::{
    ComponentArtifacts, GlobalInitializer, InstantiateModule, VMComponentOffsets,
};
use wasmtime_environ::obj::ELF_WASMTIME_INFO;
use wasmtime_environ::object::elf::FileHeader64;
use wasmtime_environ::object::read::elf::ElfFile;
use wasmtime_environ::object::{Endianness, Object, ObjectSection};
use wasmtime_environ::{HostPtr, Module, VMOffsets};

use crate::limits;

/// What comes with each instance of a module, whatever is in it; some hundred bytes by wasmtime's own structures, and
/// as many for each of its memories and tables.
const MODULE_BYTES: u64 = 2048;

/// The same for an instance of a component inside the guest, and for a kind of resource.
const COMPONENT_BYTES: u64 = 64;

/// An element of a segment that the guest may copy into a table later.
const ELEMENT_BYTES: u64 = 16;

/// A segment of such elements.
const SEGMENT_BYTES: u64 = 64;

/// An import of a module that is being instantiated, beside what is kept of it.
const IMPORT_BYTES: u64 = 32;

/// What wasmtime notes of a compiled component.
///
/// # Errors
///
/// Where it is not of this wasmtime.
pub(super) fn artefacts(code: &[u8]) -> wasmtime::Result<ComponentArtifacts> {
    let file = ElfFile::<FileHeader64<Endianness>>::parse(code)?;
    let section = file.section_by_name(ELF_WASMTIME_INFO);
    let noted = section.ok_or_else(|| wasmtime::Error::msg("it says nothing of what is in it"))?;
    Ok(postcard::from_bytes(noted.data()?)?)
}

/// The bytes that each instance of it takes.
pub(super) fn of_instance(artefacts: &ComponentArtifacts) -> u64 {
    let component = &artefacts.info.component;
    let mut bytes = u64::from(VMComponentOffsets::new(HostPtr, component).size_of_vmctx());
    let inside = component.num_runtime_component_instances;
    let parts = [
        inside,
        component.num_runtime_instances,
        component.num_resources,
    ];
    bytes += COMPONENT_BYTES * parts.iter().map(|&count| u64::from(count)).sum::<u64>();
    if component.num_resources > 0 || !component.imported_resources.is_empty() {
        // Handles are for those that have code.
        let tables = u64::from(inside).min(limits::GUEST_PARTS_MAX as u64);
        bytes += tables * (limits::GUEST_RESOURCES_MAX * limits::GUEST_HANDLE_BYTES) as u64;
    }
    let mut imports_max = 0;
    for step in &component.initializers {
        // A module that is imported is refused: the host has none.
        if let GlobalInitializer::InstantiateModule(InstantiateModule::Static(index, _), _) = step {
            let module = &artefacts.static_modules[*index].module;
            bytes += of_module(module);
            imports_max = imports_max.max(module.initializers.len());
        }
    }
    bytes + IMPORT_BYTES * imports_max as u64
}

fn of_module(module: &Module) -> u64 {
    let kept = u64::from(VMOffsets::new(HostPtr, module).size_of_vmctx());
    let segments = module.passive_elements.values();
    let elements = segments.map(|(_, count)| SEGMENT_BYTES + ELEMENT_BYTES * count);
    MODULE_BYTES + kept + elements.sum::<u64>()
}

/// The bytes that the names take in a report of where an instance trapped, at most.
pub(super) fn of_report(artefacts: &ComponentArtifacts) -> u64 {
    let modules = artefacts.static_modules.values();
    let names = modules.flat_map(|module| &module.func_names);
    let longest = names.map(|name| u64::from(name.len)).max();
    limits::STACK_FRAMES_MAX.get() as u64 * longest.unwrap_or(0)
}
