//! The test suite: one program, a module for each subject. What needs ublk runs in the test bed.

mod account;
mod cli;
mod codec;
mod data;
mod direct;
mod examples;
mod faults;
mod filesystem;
mod geometry;
mod guest;
mod lifecycle;
mod model;
mod nbd;
mod nbd_extended;
mod nbd_hostile;
mod nbd_interop;
mod nbd_random;
mod nbd_server;
mod nbd_tls;
mod nbd_transport;
mod nbd_wire;
mod oldest;
mod ring;
mod stores;
mod tidy;
