//! The frontend that needs no privilege: the NBD protocol (`doc/proto.md` of the NBD project), fixed
//! newstyle, over unix sockets and TCP. One thread serves all connections of a device, because there is
//! one instance.

mod connection;
pub mod decode;
pub mod encode;
pub mod handshake;
mod listen;
mod server;
mod transmit;
pub mod wire;

pub use listen::{Address, Listener};
pub use server::serve_clients;
pub use transmit::Export;
