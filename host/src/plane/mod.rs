//! The process behind one device: how it is started, what it tells about itself, how it ends.

mod launch;
mod log;
mod run;
mod run_dir;
mod socket;
mod status;

pub use launch::{Ready, receive, start};
pub use log::{init as init_log, to_file as log_to_file};
pub use run::run;
pub use run_dir::RunDir;
pub use socket::{End, ask};
pub use status::{State, Status};
