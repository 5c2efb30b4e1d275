//! A guest in its sandbox: compiled once, checked against the contract, and run as instances that
//! are [`Target`](crate::block::Target)s. Nothing here knows which frontend asks.

pub mod account;
mod bindings;
mod breach;
mod calls;
mod clock;
mod compile;
mod contract;
mod coverage;
mod engine;
mod fault;
mod held;
mod imports;
mod inspect;
mod instance;
mod limiter;
mod loaded;
mod log;
mod opener;
mod pace;
mod periods;
pub mod records;
mod ring;
mod session;
mod source;
mod supervisor;
mod terms;
mod usage;
mod wasi;

pub use breach::Breach;
pub use calls::Calls;
pub use clock::Clock;
pub use compile::{Cache, compile, compile_here};
pub use contract::{Contract, Need};
pub use engine::new_engine;
pub use fault::Health;
pub use imports::Granted;
pub use inspect::{Import, Inspection, Parts, inspect};
pub use instance::Instance;
pub use loaded::Guest;
pub use opener::{Opened, Opener, Tags};
pub use source::Source;
pub use terms::Terms;
pub use usage::{Limits, Usage};
pub use wasi::{Allowed, Part};
