//! The guest `memory` as the contract `device`, for tests and benches: the same source, another last line.

#[path = "../../memory/src/disk.rs"]
mod disk;

wasmblk_guest::export_device!(disk::Memory);
