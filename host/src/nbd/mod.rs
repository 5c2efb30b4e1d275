//! The frontend that needs no privilege: the NBD protocol (`doc/proto.md` of the NBD project), fixed
//! newstyle, over unix sockets and TCP. One thread serves all connections of a device, because there is
//! one instance.

mod certificates;
mod channel;
mod connection;
pub mod decode;
pub mod encode;
pub mod handshake;
mod keys;
mod listen;
mod operation;
mod outgoing;
mod pages;
mod patience;
mod pool;
mod refusal;
mod requests;
mod server;
mod staging;
mod tls;
pub mod wire;

pub use listen::{Address, Listener};
pub use server::{Service, serve_clients};
pub use tls::Tls;
