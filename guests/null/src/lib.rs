//! `null`: reads give zeros, or what was written before in the same slot; writes are forgotten. It does
//! nothing, so what it costs is the cost of the path to it.
//!
//! Options: `size` in bytes, with K, M, G or T (default 1G).

mod disk;

wasmblk_guest::export_ring!(disk::Null);
