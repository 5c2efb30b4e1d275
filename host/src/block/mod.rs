//! What a block device is, for every frontend and every contract: requests, their limits, and the
//! errors they may end with. Nothing here knows of the kernel, of sockets or of WebAssembly.

mod backend;
mod errno;
mod geometry;
mod request;
mod target;
mod transfer;

pub use backend::Backend;
pub use errno::Errno;
pub use geometry::{Claims, Geometry, GeometryError, Trim, TrimClaims};
pub use request::{Checked, Op, Request};
pub use target::{Answer, Next, Output, Target};
pub use transfer::{Carrier, Ended, Memory, Transfer, Work, ZEROS_BYTES};
