//! The processes behind one device, the data plane and its minder: how they are started, what they tell about
//! the device, how they end.

mod errand;
mod keeper;
mod launch;
mod lines;
mod log;
mod minder;
mod recovery;
mod run;
mod run_dir;
mod socket;
mod status;

pub use launch::{Handed, Parent, Ready, receive, start, wait_or_kill};
pub use log::{LogFiles, init as init_log, log_to};
pub use minder::mind;
pub use run::run;
pub use run_dir::RunDir;
pub use socket::{End, Stopped, ask, ask_owned, open, stop};
pub use status::{State, Status};
