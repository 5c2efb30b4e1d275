//! Devices for users without privilege: the *broker*, of whom they ask, and for each device a *warden*, which alone
//! can do to it what takes privilege, for whoever has the device's *capability*: a connected socket.
//!
//! ```text
//!   add, import ...  --(device)-->  broker  --starts-->  warden  --->  /dev/ublk-control
//!        |                                                  |
//!        |<===== capability (start, stop, info, ...) =======|
//!        |<----- /dev/ublkcN, open -------------------------|
//! ```
//!
//! What goes over the sockets is `wire`; who may have what, `policy` and `quota`; the client's side, `client`. The
//! broker itself sends the kernel no command: it never waits for one.

mod client;
mod command;
mod desk;
mod ending;
mod files;
mod hosts;
mod mark;
mod order;
mod policy;
mod quota;
mod requests;
mod server;
mod table;
mod warden;
mod watch;
pub mod wire;

pub use client::{Capability, DEFAULT_SOCKET, answers, attach, device, host, list};
pub use desk::serve;
pub use order::receive;
pub use policy::{Allowed, Peer, Policy, parse_names};
pub use quota::{Quota, Use};
pub use warden::guard;
pub use watch::{Counts, Watch};
