//! The only place with `unsafe`: what Rust cannot check, behind signatures that cannot be misused.

mod arena;
mod artefact;
mod at_once;
mod blocking;
mod confine;
mod leave;
mod lock;
mod memory;
mod nothing;
mod own_ring;
mod passed;
mod peer;
mod place;
mod process;
mod queue;
mod ring;
mod s2n;
mod slots;
mod socket;
mod splice;

pub use arena::{Arena, Lent, Records};
pub use artefact::{Artefact, image};
pub use blocking::Blocking;
pub use confine::{PR_SET_MDWE, deny_write_execute, restrict_mount, unshare_mounts};
pub use leave::leave;
pub use lock::lock_file;
pub use memory::AlignedBytes;
pub use nothing::nothing;
pub use passed::{Passed, Taken, Words};
pub use peer::{has_ended, kill_as_root, peer_groups, peer_pidfd};
pub use place::Place;
pub use process::{
    copy_of_fd, drop_capabilities, first_inherited_fd, inherited_fd, keep_brokers_capabilities,
    keep_files_here, keep_hosts_capabilities, keep_minders_capabilities, process_cpu_time,
    set_io_flusher, thread_cpu_time,
};
pub use queue::{Event, QueueRing};
pub use ring::ControlRing;
pub use s2n::S2nConnection;
pub use slots::Slots;
pub use socket::{Piece, SlotRange, read_scattered, write_gathered};
pub use splice::{CACHESTAT, Pages};
