//! Block devices as WebAssembly components, in Rust: implement [`Disk`], then say [`export_ring!`] (fast:
//! requests come in batches, their data lies where the guest works on it) or [`export_device!`] (one call
//! for each request). Nothing else changes.
//!
//! ```ignore
//! struct Zeros;
//!
//! impl Disk for Zeros {
//!     fn open(_: &[(String, String)]) -> Result<(Zeros, Info), OpenError> {
//!         Ok((Zeros, Info::new(1 << 30)))
//!     }
//!     async fn read(&self, _offset: u64, data: &mut [u8]) -> Result<(), Errno> {
//!         data.fill(0);
//!         Ok(())
//!     }
//!     async fn write(&self, _offset: u64, _data: &[u8], _fua: bool) -> Result<(), Errno> {
//!         Err(Errno::ReadOnly)
//!     }
//! }
//!
//! wasmblk_guest::export_ring!(Zeros);
//! ```

mod answer;
mod arena;
#[doc(hidden)]
pub mod bindings;
mod data;
mod device;
mod disk;
mod executor;
mod join;
mod mapper;
mod operation;
mod options;
mod ranges;
mod ring;
mod size;
mod store;
mod timer;

pub use answer::Answer;
pub use arena::Scratch;
pub use bindings::wasmblk::block::host::{Level, log};
pub use bindings::wasmblk::block::types::{Errno, Features, OpenError};
pub use data::Data;
#[doc(hidden)]
pub use device::Calls;
pub use disk::{Disk, Info};
pub use executor::run_in_background;
pub use join::{all, both, each};
pub use mapper::Mapper;
pub use options::Options;
pub use ranges::{Held, Ranges};
#[doc(hidden)]
pub use ring::{Batches, Maps};
pub use size::parse_size;
pub use store::Store;
pub use timer::sleep;

/// Exports a [`Disk`] as the contract `ring`.
#[macro_export]
macro_rules! export_ring {
    ($disk:ty) => {
        type WasmblkGuest = $crate::Batches<$disk>;
        $crate::bindings::export_ring!(WasmblkGuest with_types_in $crate::bindings);
    };
}

/// Exports a [`Mapper`] as the contract `ring`, with the data of requests left to the host.
#[macro_export]
macro_rules! export_mapper {
    ($mapper:ty) => {
        type WasmblkGuest = $crate::Maps<$mapper>;
        $crate::bindings::export_ring!(WasmblkGuest with_types_in $crate::bindings);
    };
}

/// Exports a [`Disk`] as the contract `device`. Its futures must not wait.
#[macro_export]
macro_rules! export_device {
    ($disk:ty) => {
        type WasmblkGuest = $crate::Calls<$disk>;
        $crate::bindings::device::export_device!(WasmblkGuest with_types_in $crate::bindings::device);
    };
}
