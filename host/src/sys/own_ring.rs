//! How the ring of a worker is made: for one thread, and for nothing else than a worker does.

use std::io;

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue};

/// A ring for one thread, with completions delivered when that thread asks for them.
pub(super) fn build_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        // Until it is restricted.
        .setup_r_disabled()
        .build(entries)
}

/// From here on the ring does what requests and transfers take, on its own files,
/// and nothing else: a filter of system calls does not see what goes through a ring.
pub(super) fn restrict(ring: &IoUring) -> io::Result<()> {
    let operations = [
        opcode::UringCmd16::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::ReadFixed::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
    ];
    let on_its_files = squeue::Flags::FIXED_FILE.bits();
    let mut restrictions = Vec::from(operations.map(Restriction::sqe_op));
    restrictions.push(Restriction::sqe_flags_required(on_its_files));
    restrictions.push(Restriction::sqe_flags_allowed(on_its_files));
    ring.submitter().register_restrictions(&mut restrictions)?;
    ring.submitter().register_enable_rings()
}
