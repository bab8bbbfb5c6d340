//! The command line, checked before anything is opened.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Parser, Subcommand};
use hsm_api::names;

use crate::agents::{Connector, Service, TlsFiles};
use crate::index::Instance;
use crate::logs::Format;

/// Keeps Kubernetes Secrets and the records on hardware tokens equal.
#[derive(Debug, Parser)]
#[command(name = "hsm-controller", disable_version_flag = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller.
    Run(Box<RunArgs>),
    /// Print the version.
    Version,
}

/// The flags of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// An agent: its node's name and its URL. May be given several times
    #[arg(long = "agent", value_name = "NAME=https://HOST:PORT")]
    pub agents: Vec<String>,
    /// Find agents by the EndpointSlices of this Service
    #[arg(long, value_name = "NAMESPACE/SERVICE:PORT")]
    pub agent_endpoints: Option<Service>,
    /// Who signs the agents' certificates (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate that the controller shows to agents (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The name in the agents' certificates, where it is not the URL's host
    #[arg(long, value_name = "NAME")]
    pub agent_server_name: Option<String>,
    /// The controller's own namespace: HSMDevices and the digest key lie there
    #[arg(long, env = "POD_NAMESPACE", default_value = names::NAMESPACE)]
    pub namespace: String,
    /// Serve only these namespaces
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// The name of this instance, which a parentRef may give
    #[arg(long, default_value = names::MANAGER)]
    pub instance: String,
    /// Serve the HSMSecrets that have no parentRef
    #[arg(long, default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub default_instance: bool,
    /// How many secrets are worked on at the same time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,
    /// Where /healthz and /readyz are served
    #[arg(long, default_value = "127.0.0.1:8081")]
    pub health_listen: SocketAddr,
    /// Where /metrics is served
    #[arg(long, default_value = "127.0.0.1:8443")]
    pub metrics_listen: SocketAddr,
    /// Where the REST API is served
    #[arg(long, default_value = "127.0.0.1:8090")]
    pub rest_listen: SocketAddr,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", env = "HSM_LOG_FORMAT")]
    pub log_format: Format,
    /// What is logged: error, warn, info, debug, trace, or filters by module
    #[arg(long, default_value = "info", env = "HSM_LOG_LEVEL")]
    pub log_level: String,
}

/// What `run` runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The agents that were given by name.
    pub agents: BTreeMap<String, String>,
    /// The Service of the others.
    pub agent_endpoints: Option<Service>,
    /// How to connect.
    pub connector: Connector,
    /// Who this is.
    pub instance: Instance,
    /// `None`: all.
    pub scopes: Vec<Option<String>>,
    /// How many turns at once.
    pub workers: usize,
    /// See the flags.
    pub health_listen: SocketAddr,
    /// See the flags.
    pub metrics_listen: SocketAddr,
    /// See the flags.
    pub rest_listen: SocketAddr,
}

impl RunArgs {
    /// Checks what clap cannot.
    pub fn check(self) -> anyhow::Result<Config> {
        let tls = match (self.tls_ca, self.tls_cert, self.tls_key) {
            (Some(ca), Some(cert), Some(key)) => Some(TlsFiles { ca, cert, key }),
            (None, None, None) => None,
            _ => bail!("--tls-ca, --tls-cert and --tls-key go together: give all three or none"),
        };
        if let Some(files) = &tls {
            for file in [&files.ca, &files.cert, &files.key] {
                std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
            }
        }
        let connector = Connector { tls, server_name: self.agent_server_name };
        let mut agents = BTreeMap::new();
        for text in &self.agents {
            let (name, url) = text
                .split_once('=')
                .filter(|(name, _)| !name.is_empty())
                .with_context(|| format!("--agent {text}: expected NAME=https://HOST:PORT"))?;
            connector.check(url).with_context(|| format!("--agent {text}"))?;
            if agents.insert(name.to_owned(), url.to_owned()).is_some() {
                bail!("--agent {text}: there are two agents of this name");
            }
        }
        if self.agent_endpoints.is_some() && connector.tls.is_none() {
            bail!("--agent-endpoints needs --tls-ca, --tls-cert and --tls-key");
        }
        if agents.is_empty() && self.agent_endpoints.is_none() {
            bail!("no agent is given: use --agent or --agent-endpoints");
        }
        let mut scopes: Vec<_> =
            self.watch_namespaces.into_iter().filter(|n| !n.is_empty()).map(Some).collect();
        scopes.sort();
        scopes.dedup();
        if scopes.is_empty() {
            scopes.push(None);
        }
        Ok(Config {
            agents,
            agent_endpoints: self.agent_endpoints,
            connector,
            instance: Instance {
                name: self.instance,
                namespace: self.namespace,
                default: self.default_instance,
            },
            scopes,
            workers: usize::from(self.workers),
            health_listen: self.health_listen,
            metrics_listen: self.metrics_listen,
            rest_listen: self.rest_listen,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: &[&str]) -> anyhow::Result<Config> {
        let line = ["hsm-controller", "run"].iter().chain(flags);
        match Args::try_parse_from(line)?.command {
            Command::Run(args) => args.check(),
            Command::Version => bail!("not run"),
        }
    }

    #[test]
    fn half_a_tls_configuration_refuses_to_start() {
        for flags in [
            &["--agent", "a=https://h:1", "--tls-ca", "x"][..],
            &["--agent", "a=https://h:1", "--tls-cert", "x", "--tls-key", "y"],
            &["--agent", "a=https://h:1"],
            &["--agent-endpoints", "ns/svc:9090"],
            &["--agent", "a=http://10.0.0.1:1"],
            &["--agent", "a=http://127.0.0.1:1", "--agent", "a=http://127.0.0.1:2"],
            &[],
        ] {
            assert!(check(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = check(&["--agent", "node-1=http://127.0.0.1:9090"]).unwrap();
        assert_eq!(config.agents["node-1"], "http://127.0.0.1:9090");
        assert!(config.instance.default);
        assert_eq!(config.scopes, [None]);
        assert_eq!(config.health_listen.to_string(), "127.0.0.1:8081");
        let one =
            ["--agent", "n=http://127.0.0.1:1", "--watch-namespaces", "b,a,b", "--default-instance=false"];
        let config = check(&one).unwrap();
        assert_eq!(config.scopes, [Some("a".to_owned()), Some("b".to_owned())]);
        assert!(!config.instance.default);
    }
}
