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
//!   =====|================================|======= one process per device, confined: `plane`
//!        v                                v
//!   ublk::worker -> serve -> guest    status, stats
//!   (a thread)              (sandbox)
//! ```
//!
//! The way of one request, top to bottom; values only move down this list:
//!
//! 1. [`sys::QueueRing::turn`] waits in one system call; a completion says that tag 17 has a request. It
//!    copies the descriptor out; the tag's data lies in its slot ([`sys::Slots`]).
//! 2. [`ublk::decode::request`] turns the descriptor into a [`block::Request`].
//! 3. [`serve::Engine::begin`] is the door: [`block::Request::check`] holds the request against the
//!    [`block::Geometry`] and makes it [`block::Checked`], or an errno.
//! 4. [`block::Target::submit`] hands it to the guest's side, by the slot's number.
//! 5. When all that are there have come in, [`serve::Engine::poll`] lets the [`block::Target`] work.
//! 6. `guest::ring`, the contract `ring`, has written each as a record into the guest's memory, and now
//!    calls the guest once for all, under a deadline; [`guest::Calls`], the contract `device`, calls it for
//!    each.
//! 7. `guests/<name>` does the work in the sandbox; what it asks of the host is `guest::imports`.
//! 8. [`guest::records`] (of a `ring` guest) or `guest::fault` makes an errno of what came back; a trap is
//!    EIO. It is one [`block::Answer`] for each.
//! 9. [`serve::Engine::poll`] passes it on, behind a flush where the request asks for that, and
//!    [`ublk::encode::result`] makes the kernel's number of it.
//! 10. [`sys::QueueRing::commit`] queues COMMIT_AND_FETCH; the next turn of step 1 submits all of them.
//!
//! A guest that uses stores asks for transfers instead of answering at once: `guest::account` checks them in step 8,
//! [`serve::Engine::transfers`] hands them down beside the answers, and [`block::Carrier::begin`] of the ring queues
//! them for the turn; their ends come with step 1, go to [`block::Target::ended`], and to the guest with step 6.
//! `guest::supervisor` stands before the target, and puts a new instance in the place of one that broke.
//!
//! Over NBD, `nbd::server` has the loop, [`nbd::decode`] stands in for step 2, `nbd::operation` splits what
//! is too long, and [`nbd::encode`] and the socket are steps 9 and 10; [`sys::Blocking`] carries out
//! transfers; the rest is the same.

pub mod backoff;
pub mod block;
pub mod broker;
pub mod cli;
pub mod commands;
pub mod config;
pub mod confine;
pub mod error;
pub mod guest;
pub mod image;
pub mod limits;
pub mod message;
pub mod nbd;
pub mod plane;
pub mod policy;
pub mod serve;
pub mod stats;
pub mod store;
#[expect(unsafe_code, reason = "the one place for it")]
pub mod sys;
pub mod text;
pub mod ublk;
pub mod udev;
pub mod wake;
pub mod wanted;
