//! Certificates, as nbdkit lays them out in a folder: `server-cert.pem`, `server-key.pem`, and
//! `ca-cert.pem` for those of clients.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use super::tls::Encryption;
use crate::error::{Error, Result};
use crate::limits;

/// Reads a folder of certificates. With `verify_clients`, only clients with a certificate of the folder's
/// authority are let in.
///
/// # Errors
///
/// Names the file, and what is wrong with it.
pub(super) fn server_config(folder: &Path, verify_clients: bool) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(default_provider());
    let failed = |why: rustls::Error| {
        let shown = folder.display();
        Error::usage(format!("the certificates in {shown} cannot be used")).because(why)
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = if verify_clients {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&folder.join("ca-cert.pem"))? {
            roots.add(certificate).map_err(failed)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|why| {
                Error::usage("clients cannot be verified with ca-cert.pem").because(why)
            })?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key_file = folder.join("server-key.pem");
    let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|why| unreadable(&key_file, why))?;
    let chain = certificates(&folder.join("server-cert.pem"))?;
    let config = builder.with_single_cert(chain, key).map_err(failed)?;
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|why| unreadable(file, why))?;
    if certificates.is_empty() {
        let shown = file.display();
        return Err(Error::usage(format!("there is no certificate in {shown}")));
    }
    Ok(certificates)
}

fn unreadable(file: &Path, why: PemError) -> Error {
    let shown = file.display();
    Error::usage(format!(
        "cannot read {shown}; --tls-certificates names a folder with server-cert.pem, server-key.pem and \
         ca-cert.pem"
    ))
    .because(why)
}

/// One client, by rustls.
pub(super) struct Certified {
    tls: ServerConnection,
    /// Decrypted bytes that nobody has read.
    decrypted: usize,
}

impl Certified {
    pub(super) fn new(config: &Arc<ServerConfig>) -> io::Result<Certified> {
        let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(limits::NBD_TLS_BYTES_MAX));
        Ok(Certified { tls, decrypted: 0 })
    }
}

impl Encryption for Certified {
    fn read_tls(&mut self, socket: &mut File) -> io::Result<usize> {
        self.tls.read_tls(socket)
    }

    fn process(&mut self) -> io::Result<()> {
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        self.decrypted = state.plaintext_bytes_to_read();
        Ok(())
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.tls.reader().read(bytes);
        match &read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.decrypted = 0,
            Err(_) => {}
            Ok(bytes) => self.decrypted -= bytes,
        }
        read
    }

    fn has_input(&self) -> bool {
        self.decrypted > 0
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tls.writer().write(bytes)
    }

    fn has_unsent(&self) -> bool {
        self.tls.wants_write()
    }

    fn write_tls(&mut self, socket: &mut File) -> io::Result<usize> {
        self.tls.write_tls(socket)
    }

    fn close(&mut self) {
        self.tls.send_close_notify();
    }
}
