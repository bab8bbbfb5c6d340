//! The TLS configuration and its renewal: the files are read again when they change, without dropping a connection.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use crate::config::TlsFiles;

/// A file of the TLS configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The current configuration; connections take it at their start.
pub struct Tls {
    files: TlsFiles,
    current: ArcSwap<Loaded>,
    expiry: AtomicI64,
}

struct Loaded {
    config: Arc<ServerConfig>,
    fingerprint: [u8; 32],
    expiry: i64,
}

impl Tls {
    /// Reads the files.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let loaded = load(&files)?;
        let expiry = AtomicI64::new(loaded.expiry);
        Ok(Self { files, current: ArcSwap::from_pointee(loaded), expiry })
    }

    /// The configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// When our certificate ends, in seconds since 1970.
    pub fn expiry(&self) -> i64 {
        self.expiry.load(Ordering::Relaxed)
    }

    /// Looks at the files for ever. What cannot be used is said once and the old configuration stays.
    pub async fn watch(self: Arc<Self>, every: Duration) {
        let mut complained = String::new();
        loop {
            tokio::time::sleep(every).await;
            match load(&self.files) {
                Ok(new) if new.fingerprint == self.current.load().fingerprint => complained.clear(),
                Ok(new) => {
                    complained.clear();
                    tracing::info!(
                        expires = new.expiry,
                        "The certificate files changed; new connections use them."
                    );
                    self.expiry.store(new.expiry, Ordering::Relaxed);
                    self.current.store(Arc::new(new));
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != complained {
                        tracing::error!(
                            error = text,
                            "The certificate files changed and cannot be used; the earlier ones stay."
                        );
                        complained = text;
                    }
                }
            }
        }
    }
}

fn read(flag: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|e| TlsError(format!("{flag} {} cannot be read: {e}", path.display())))
}

fn load(files: &TlsFiles) -> Result<Loaded, TlsError> {
    let cert = read("--tls-cert", &files.cert)?;
    let key = read("--tls-key", &files.key)?;
    let ca = read("--client-ca", &files.client_ca)?;
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in [&cert, &key, &ca] {
        hash.update(&part.len().to_be_bytes());
        hash.update(part);
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(hash.finish().as_ref());

    let chain = certificates("--tls-cert", &files.cert, &cert)?;
    let expiry = expiry(&chain[0])?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|e| TlsError(format!("--tls-key {} holds no private key: {e}", files.key.display())))?;
    let mut roots = RootCertStore::empty();
    for root in certificates("--client-ca", &files.client_ca, &ca)? {
        roots.add(root).map_err(|e| TlsError(format!("--client-ca {}: {e}", files.client_ca.display())))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|e| TlsError(format!("--client-ca {}: {e}", files.client_ca.display())))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| TlsError(format!("TLS 1.3 cannot be set up: {e}")))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| TlsError(format!("--tls-cert and --tls-key do not belong together: {e}")))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // No resumption: a client that a rotated CA no longer vouches for must not come back with an old ticket.
    config.send_tls13_tickets = 0;
    Ok(Loaded { config: Arc::new(config), fingerprint, expiry })
}

fn certificates(flag: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError(format!("{flag} {} is not PEM: {e}", path.display())))?;
    if found.is_empty() {
        return Err(TlsError(format!("{flag} {} holds no certificate", path.display())));
    }
    Ok(found)
}

fn expiry(der: &CertificateDer<'_>) -> Result<i64, TlsError> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate.validity().not_after.timestamp())
        .map_err(|e| TlsError(format!("--tls-cert: the certificate cannot be read: {e}")))
}
