//! `memory`: a RAM disk. Only what was written takes memory; discarded blocks give it back to be
//! used for others. Everything is lost with the instance.
//!
//! Options: `size` in bytes, with K, M, G or T (required); `block` the logical block in bytes (512).

mod disk;

wasmblk_guest::export_ring!(disk::Memory);
