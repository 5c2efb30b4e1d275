//! The WASI that a guest sees: nothing of this machine but what was granted.

mod ambient;
mod blocking;
mod connections;
mod context;
mod directory;
mod files;
mod listing;
mod names;
mod remote;
mod stderr;
mod streams;
mod times;
mod waits;

pub(super) use ambient::enter;
pub use context::{Allowed, Part};
pub(super) use context::{add_to_linker, context, prepare};
pub use directory::{Directories, Directory};
pub use remote::{Remote, Remotes};
