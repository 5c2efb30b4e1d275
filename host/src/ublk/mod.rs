//! The frontend that makes `/dev/ublkbN`: the kernel's ublk driver, by its control commands and its
//! I/O commands. [`Device`] is one device from ADD to DELETE; `worker` is the
//! page with the loop of one I/O.

pub mod abi;
mod control;
pub mod decode;
mod device;
pub mod encode;
mod holders;
mod node;
mod scheduler;
mod worker;

pub use control::{CONTROL_PATH, Control};
pub use device::{DataPath, Device, Spec};
pub use holders::{holders, seen_holders};
pub use node::{block_path, char_path, exists};
pub use worker::{fetch, serve_queues};
