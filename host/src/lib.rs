//! wasmblk: WebAssembly components as Linux block devices.
//!
//! A *guest* is a component that fulfils a contract of `wit/`. The *host* is this crate: it loads a
//! guest into a sandbox and lets the kernel's ublk driver send it the requests of `/dev/ublkbN`, or NBD
//! clients theirs.
//!
//! ```text
//!   mkfs, mount, fio ...          wasmblk list | info | del
//!        |                                |
//!   /dev/ublkbN                    control socket
//!        |  ublk_drv                      |
//!   =====|================================|======= one process per device: `plane`
//!        v                                v
//!   ublk::worker -> serve -> guest    status, stats
//!   (a thread)              (sandbox)
//! ```
//!
//! The way of one request, top to bottom; values only move down this list:
//!
//! 1. [`sys::QueueRing::serve`] waits in one system call; a completion says tag 17 has a request. It
//!    copies the descriptor out and lends the tag's slot.
//! 2. `ublk::worker` `answer` is called with both: one request, one answer.
//! 3. [`ublk::decode::request`] turns the descriptor into a [`block::Request`].
//! 4. [`block::Request::check`] holds it against the [`block::Geometry`]: [`block::Checked`], or an errno.
//! 5. [`serve::serve`] counts it and calls the [`block::Backend`].
//! 6. [`guest::Instance`] sets the deadline and calls the guest's export.
//! 7. `guests/<name>` does the work in the sandbox; what it asks of the host is `guest::imports`.
//! 8. `guest::fault` makes an errno of what came back, or of a trap.
//! 9. [`ublk::encode::result`] makes the kernel's number of it.
//! 10. [`sys::QueueRing::serve`] queues COMMIT_AND_FETCH, and goes on with the batch; the next turn of
//!     step 1 submits all of them.
//!
//! Over NBD, `nbd::connection` stands in for steps 1 and 10, [`nbd::decode`] and [`nbd::encode`] for 3 and
//! 9, and [`nbd::Export`] for 2; the rest is the same.

pub mod block;
pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
pub mod guest;
pub mod limits;
pub mod nbd;
pub mod plane;
pub mod serve;
pub mod stats;
#[expect(unsafe_code, reason = "the one place for it")]
pub mod sys;
pub mod text;
pub mod ublk;
pub mod wake;
