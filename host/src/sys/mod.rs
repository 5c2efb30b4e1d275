//! The only place with `unsafe`: what Rust cannot check, behind signatures that cannot be misused.

mod artefact;
mod memory;
mod process;
mod queue;
mod ring;

pub use artefact::Artefact;
pub use process::set_io_flusher;
pub use queue::{Incoming, QueueRing};
pub use ring::ControlRing;
