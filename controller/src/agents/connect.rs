//! Channels to agents over mutual TLS.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The three files of mutual TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Who signs the agents' certificates.
    pub ca: PathBuf,
    /// The controller's certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes channels.
#[derive(Debug, Clone)]
pub struct Connector {
    /// Without it only http on loopback is allowed.
    pub tls: Option<TlsFiles>,
    /// The name that the agents' certificates must have, where it is not the URL's host.
    pub server_name: Option<String>,
}

impl Connector {
    /// Whether this URL may be used at all; for the command line.
    pub fn check(&self, url: &str) -> anyhow::Result<()> {
        let uri: tonic::codegen::http::Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let loopback =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") if self.tls.is_some() => Ok(()),
            Some("https") => bail!("{url} needs --tls-ca, --tls-cert and --tls-key"),
            Some("http") if loopback => Ok(()),
            Some("http") => bail!("{url} would send secrets in clear; use https"),
            _ => bail!("{url} must begin with https://"),
        }
    }

    /// Connects. The files are read anew each time, so a rotated certificate is taken up with the next connection.
    pub async fn connect(&self, url: &str) -> anyhow::Result<Channel> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())?
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        if let (Some(files), true) = (&self.tls, url.starts_with("https:")) {
            let read = async |path: &PathBuf| {
                tokio::fs::read(path).await.with_context(|| format!("cannot read {}", path.display()))
            };
            let mut tls = ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(read(&files.ca).await?))
                .identity(Identity::from_pem(read(&files.cert).await?, read(&files.key).await?));
            if let Some(name) = &self.server_name {
                tls = tls.domain_name(name);
            }
            endpoint = endpoint.tls_config(tls)?;
        }
        endpoint.connect().await.map_err(|error| anyhow::anyhow!(chain(&error)))
    }
}

/// An error with its causes in one line: tonic's own text is only "transport error".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_for_loopback_and_https_needs_certificates() {
        let bare = Connector { tls: None, server_name: None };
        assert!(bare.check("http://127.0.0.1:9090").is_ok());
        assert!(bare.check("http://[::1]:9090").is_ok());
        for refused in ["http://10.0.0.1:9090", "https://10.0.0.1:9090", "10.0.0.1:9090", "unix:/x"] {
            assert!(bare.check(refused).is_err(), "{refused}");
        }
        let file = PathBuf::from("x");
        let tls = Some(TlsFiles { ca: file.clone(), cert: file.clone(), key: file });
        assert!(Connector { tls, server_name: None }.check("https://10.0.0.1:9090").is_ok());
    }
}
