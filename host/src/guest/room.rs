//! How much of a guest's memory is the host's, for each instance: what that takes beside its memories and tables, and
//! what passes between the two. It is taken before the instance begins, so that it is there whatever the instance
//! does.

use wasmtime_environ::component::ComponentArtifacts;

use super::contract::Contract;
use super::imports::Granted;
use super::state_size;
use crate::limits;

/// What each instance has of it, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// As long as it is there.
    always: usize,
    /// Where it may read stores in calls: by the contract `ring` until it is open.
    pub(super) for_stores: usize,
}

impl Room {
    /// For a guest with these imports.
    pub(super) fn new(
        artefacts: &ComponentArtifacts,
        contract: Contract,
        granted: &Granted,
    ) -> Room {
        let imports = artefacts.info.component.import_types.values();
        let has = |start: &str| imports.clone().any(|(name, _)| name.starts_with(start));
        let transfer = limits::TRANSFER_BYTES_MAX as usize;
        let itself = state_size::of_instance(artefacts) + state_size::of_report(artefacts);
        let mut always = usize::try_from(itself).unwrap_or(usize::MAX);
        always = always.saturating_add(limits::GUEST_STACK_BYTES + limits::GUEST_CALL_BYTES);
        if has(WASI) {
            let handles = limits::GUEST_RESOURCES_MAX * limits::GUEST_RESOURCE_BYTES;
            always = always.saturating_add(handles + granted.allowed.env_bytes());
        }
        let stores = granted.stores.all();
        // Past the system's cache there is a second copy, on pages.
        let copies = 1 + usize::from(stores.iter().any(|store| store.shape.align_bytes > 1));
        let for_stores = if has(STORE) { copies * transfer } else { 0 };
        match contract {
            Contract::Ring => Room { always, for_stores },
            // A store is read in the middle of a call, and what that gives comes at its end.
            Contract::Device | Contract::DeviceWithTrim => Room {
                always: always.saturating_add(transfer.max(for_stores)),
                for_stores: 0,
            },
        }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> usize {
        self.always.saturating_add(self.for_stores)
    }
}

const STORE: &str = "wasmblk:block/store@";
const WASI: &str = "wasi:";
