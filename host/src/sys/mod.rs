//! The only place with `unsafe`: what Rust cannot check, behind signatures that cannot be misused.

mod arena;
mod artefact;
mod memory;
mod process;
mod queue;
mod ring;
mod slots;
mod socket;

pub use arena::Arena;
pub use artefact::Artefact;
pub use process::{first_inherited_fd, set_io_flusher};
pub use queue::QueueRing;
pub use ring::ControlRing;
pub use slots::Slots;
pub use socket::{Piece, SlotRange, read_scattered, write_gathered};
