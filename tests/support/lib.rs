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

pub use apt::install;
