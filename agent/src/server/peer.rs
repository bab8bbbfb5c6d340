//! Who is at the other end of a connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The client of one connection, whose certificate chains to our CA.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The DNS and URI names of its certificate.
    pub names: Arc<[String]>,
    /// Whether one of them is the controller's identity.
    pub allowed: bool,
}

impl Peer {
    /// Reads the names of the client's certificate (DER). One that cannot be read has no names.
    pub fn of_certificate(der: &[u8], identity: &str) -> Self {
        let names = names(der);
        Self { allowed: names.iter().any(|n| n == identity), names: names.into() }
    }
}

fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Vec::new();
    };
    let Ok(Some(san)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    san.value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(n) | GeneralName::URI(n) => Some((*n).to_owned()),
            _ => None,
        })
        .collect()
}

/// A TLS connection that knows its client.
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl PeerStream {
    /// After the handshake.
    pub fn new(stream: TlsStream<TcpStream>, peer: Peer) -> Self {
        Self { stream, peer }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: &[&str], uri: Option<&str>) -> Vec<u8> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn only_the_exact_name_is_allowed() {
        let allowed = |der: &[u8], who| Peer::of_certificate(der, who).allowed;
        let der = certificate(&["controller", "other"], Some("spiffe://c/controller"));
        assert!(allowed(&der, "controller"));
        assert!(allowed(&der, "spiffe://c/controller"));
        assert!(!allowed(&der, "control"));
        assert!(!allowed(&certificate(&["*.controller"], None), "a.controller"));
        assert!(!allowed(&certificate(&[], None), "controller"));
        assert!(!allowed(b"junk", "controller"));
    }
}
