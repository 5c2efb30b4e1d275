//! Certificates, as nbdkit lays them out in a folder: `server-cert.pem`, `server-key.pem`, and
//! `ca-cert.pem` for those of clients.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::error::{Error, Result};

/// Reads a folder of certificates. With `verify_clients`, only clients with a certificate of the folder's
/// authority are let in.
///
/// # Errors
///
/// Names the file, and what is wrong with it.
pub fn server_config(folder: &Path, verify_clients: bool) -> Result<Arc<ServerConfig>> {
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
