//! What a client's channel asks of the libraries that encrypt: one for certificates, one for pre-shared keys.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;

use super::certificates::{Certified, server_config};
use super::keys::{Keyed, Keys};
use crate::error::Result;

/// How the server and its clients know each other.
#[derive(Debug)]
pub enum Tls {
    /// By certificates: the server's, and perhaps those of clients.
    Certificates(Arc<ServerConfig>),
    /// By pre-shared keys, of which each client has one.
    Keys(Keys),
}

impl Tls {
    /// Reads a folder of certificates. With `verify_clients`, only clients with a certificate of the folder's
    /// authority are let in.
    ///
    /// # Errors
    ///
    /// Names the file, and what is wrong with it.
    pub fn certificates(folder: &Path, verify_clients: bool) -> Result<Tls> {
        server_config(folder, verify_clients).map(Tls::Certificates)
    }

    /// Reads a file of pre-shared keys. Only clients with one of them are let in.
    ///
    /// # Errors
    ///
    /// Names the file, the line, what is wrong with it and what to do.
    pub fn keys(file: &Path) -> Result<Tls> {
        Keys::read(file).map(Tls::Keys)
    }

    /// The name that clients have to give, where there is only one.
    #[must_use]
    pub fn user(&self) -> Option<&[u8]> {
        match self {
            Tls::Certificates(_) => None,
            Tls::Keys(keys) => keys.only_user(),
        }
    }

    /// Begins with one client.
    pub(super) fn begin(&self) -> io::Result<Box<dyn Encryption>> {
        Ok(match self {
            Tls::Certificates(config) => Box::new(Certified::new(config)?),
            Tls::Keys(keys) => Box::new(Keyed::new(keys)?),
        })
    }
}

/// One client's encryption. It has buffers of a bounded size, and nothing in it waits.
pub(super) trait Encryption {
    /// Takes what the socket has, by one read; 0 is the end.
    fn read_tls(&mut self, socket: &mut File) -> io::Result<usize>;

    /// Works on what was taken, as far as it is about the connection itself. After an error, an alert may be
    /// there to be sent.
    fn process(&mut self) -> io::Result<()>;

    /// Gives what is decrypted; `WouldBlock` where there is nothing, 0 where the client has said that it ends.
    /// After an error, an alert may be there to be sent.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Whether `read` may give something without more being taken. It is no more after a `WouldBlock`.
    fn has_input(&self) -> bool;

    /// Encrypts as many of the bytes as there is room for, which may be none.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Whether something encrypted is to be sent.
    fn has_unsent(&self) -> bool;

    /// Sends what is encrypted, by one write.
    fn write_tls(&mut self, socket: &mut File) -> io::Result<usize>;

    /// Says that this is the end.
    fn close(&mut self);
}
