//! What the test suite and `cargo xtask` share: the test bed, the guests, and running programs.
//!
//! The machines that this project is developed on have no ublk in their kernel, so real ublk runs in
//! two beds: [`uml`], User-mode Linux, boots in half a second and runs programs at native speed, so
//! that each test has a kernel of its own; [`qemu`] boots a distribution's unchanged kernel, the oldest
//! that is supported.

mod apt;
pub mod backing;
pub mod bed;
pub mod command;
pub mod container;
pub mod disk;
pub mod guests;
pub mod null_blk;
pub mod paths;
pub mod qemu;
pub mod steps;
pub mod uml;
pub mod user;

use std::time::Duration;

pub use apt::install;

/// Longer than anything takes that ends at all: on a slow machine whose processors are away for a second now and
/// then, beside other tests. What is waited for is there much sooner; what never comes is a failure just as well.
pub const PATIENCE: Duration = Duration::from_secs(60);
