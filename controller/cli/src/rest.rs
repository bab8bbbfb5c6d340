//! The controller's REST API, seen from outside.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::de::DeserializeOwned;

/// How long the controller may take for one answer.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LONGEST: usize = 4 << 20;

/// Where the REST API is. Plain HTTP only, and only on this machine: what goes over it must not be readable by
/// others (`kubectl port-forward` brings the controller here).
#[derive(Debug, Clone)]
pub(crate) struct Server(Uri);

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "expected a URL such as http://127.0.0.1:8090")?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err("HTTPS is not supported yet; use kubectl port-forward and http://127.0.0.1:PORT"
                    .to_owned());
            }
            _ => return Err("expected a URL such as http://127.0.0.1:8090".to_owned()),
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Err("expected no path behind the host and port".to_owned());
        }
        let loopback = uri.host().is_some_and(|host| {
            let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
            host == "localhost" || address.is_ok_and(|address| address.is_loopback())
        });
        if !loopback {
            return Err(
                "plain HTTP goes to this machine only; use kubectl port-forward and http://127.0.0.1:PORT"
                    .to_owned(),
            );
        }
        Ok(Self(uri))
    }
}

impl Server {
    /// Asks for a resource below `/api/v1`.
    pub(crate) fn get<T: DeserializeOwned>(&self, resource: &str) -> anyhow::Result<T> {
        let base = self.0.to_string();
        let uri: Uri = format!("{}/api/v1/{resource}", base.trim_end_matches('/')).parse()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, get(uri.clone())).await });
        let bytes = answer.with_context(|| format!("no answer from {base} in {} s", LIMIT.as_secs()))??;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{uri} does not answer as the controller would"))
    }
}

async fn get(uri: Uri) -> anyhow::Result<Bytes> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let unreachable =
        || format!("cannot reach the controller at {uri}: is it running, and the port forwarded?");
    let response = client.get(uri.clone()).await.with_context(unreachable)?;
    let status = response.status();
    if !status.is_success() {
        bail!("{uri} answered {status}");
    }
    match Limited::new(response.into_body(), LONGEST).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => bail!("the answer of {uri} broke off: {error}"),
    }
}
