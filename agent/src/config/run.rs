//! The settings of `hsm-agent run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hsm_store::Encryption;

use super::{Chosen, ConfigError, ServeArgs, parse_duration};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// How new versions of records are written on the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EncryptionMode {
    /// Sealed with the token's store key.
    Envelope,
    /// In clear: whoever reads the token's flash reads them.
    None,
}

impl From<EncryptionMode> for Encryption {
    fn from(mode: EncryptionMode) -> Self {
        match mode {
            EncryptionMode::Envelope => Self::Envelope,
            EncryptionMode::None => Self::None,
        }
    }
}

/// The flags of `run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Which tokens, and their PINs.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// The node's name, as Kubernetes knows it
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// Where the controller's calls are served (mTLS)
    #[arg(long, env = "HSM_LISTEN", default_value = "127.0.0.1:9090", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "HSM_HEALTH_LISTEN", default_value = "127.0.0.1:8093", value_name = "ADDR")]
    pub health_listen: SocketAddr,
    /// The agent's certificate chain (PEM); read again when it changes
    #[arg(long, env = "HSM_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, env = "HSM_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The CA certificates that the controller's certificate must chain to (PEM)
    #[arg(long, env = "HSM_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The one DNS or URI name in the client's certificate that may call
    #[arg(
        long,
        env = "HSM_CONTROLLER_IDENTITY",
        default_value = "hsm-secrets-operator-controller",
        value_name = "NAME"
    )]
    pub controller_identity: String,
    /// How new versions of records are written where no HSMDevice says it of their token: sealed (envelope), or in clear
    /// as objects that plain PKCS#11 tools can read (none)
    #[arg(long, env = "HSM_ENCRYPTION", value_enum, default_value = "envelope", value_name = "HOW")]
    pub encryption: EncryptionMode,
    /// How often a software token is looked at for changes by others
    #[arg(long, env = "HSM_POLL_INTERVAL", default_value = "5s", value_parser = parse_duration, value_name = "TIME")]
    pub poll_interval: Duration,
    /// How often the certificate files are looked at
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub tls_reload_interval: Duration,
    /// How long calls under way may take to finish at shutdown
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "TIME")]
    pub drain_timeout: Duration,
    /// The form of log lines
    #[arg(long, env = "HSM_LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as info,hsm_agent=debug
    #[arg(long, env = "HSM_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
}

/// The three files of mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// CA of the clients.
    pub client_ca: PathBuf,
}

/// The settings after validation.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The tokens: at least one.
    pub tokens: Vec<Chosen>,
    /// The folder of what must survive a restart.
    pub state_dir: PathBuf,
    /// See [`ServeArgs::ignore_reader`].
    pub ignored_readers: Vec<String>,
    /// How often hardware tokens are read anew, where others may reach them too.
    pub reread: Option<Duration>,
    /// The node's name.
    pub node_name: String,
    /// gRPC address.
    pub listen: SocketAddr,
    /// Health and metrics address.
    pub health_listen: SocketAddr,
    /// TLS files.
    pub tls: TlsFiles,
    /// Who may call.
    pub controller_identity: String,
    /// See [`RunArgs::encryption`].
    pub encryption: Encryption,
    /// See [`RunArgs::poll_interval`].
    pub poll_interval: Duration,
    /// See [`RunArgs::tls_reload_interval`].
    pub tls_reload_interval: Duration,
    /// See [`RunArgs::drain_timeout`].
    pub drain_timeout: Duration,
}

impl RunArgs {
    /// Validates everything that can be validated without touching a file, a socket or a token.
    pub fn validate(&self) -> Result<RunConfig, ConfigError> {
        let tls = match (&self.tls_cert, &self.tls_key, &self.client_ca) {
            (Some(cert), Some(key), Some(client_ca)) => {
                TlsFiles { cert: cert.clone(), key: key.clone(), client_ca: client_ca.clone() }
            }
            (cert, key, ca) => {
                let missing: Vec<&str> = [
                    (cert.is_none(), "--tls-cert"),
                    (key.is_none(), "--tls-key"),
                    (ca.is_none(), "--client-ca"),
                ]
                .iter()
                .filter_map(|(missing, flag)| missing.then_some(*flag))
                .collect();
                return Err(ConfigError::new(format!(
                    "mutual TLS needs --tls-cert, --tls-key and --client-ca; {} not given. \
                     The agent never serves secrets without it",
                    missing.join(" and ")
                )));
            }
        };
        if self.controller_identity.trim().is_empty() {
            return Err(ConfigError::new(
                "--controller-identity is empty; give the DNS or URI name in the controller's certificate",
            ));
        }
        if self.listen == self.health_listen && self.listen.port() != 0 {
            return Err(ConfigError::new(format!(
                "--listen and --health-listen are both {}; give two ports",
                self.listen
            )));
        }
        let node_name = match self.node_name.clone().filter(|n| !n.is_empty()) {
            Some(name) => name,
            None => hostname()?,
        };
        let tokens = self.serve.choose()?;
        let state_dir = tokens
            .first()
            .map(|chosen| chosen.state_dir.clone())
            .ok_or_else(|| ConfigError::new("no token is named"))?;
        Ok(RunConfig {
            tokens,
            state_dir,
            ignored_readers: self.serve.ignore_reader.clone(),
            reread: self.serve.shared_reader.then_some(self.serve.reread_interval),
            node_name,
            listen: self.listen,
            health_listen: self.health_listen,
            tls,
            controller_identity: self.controller_identity.clone(),
            encryption: self.encryption.into(),
            poll_interval: self.poll_interval,
            tls_reload_interval: self.tls_reload_interval,
            drain_timeout: self.drain_timeout,
        })
    }
}

fn hostname() -> Result<String, ConfigError> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| ConfigError::new("the node has no name; give --node-name or set NODE_NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> RunArgs {
        RunArgs {
            serve: crate::config::serve::tests::args(),
            node_name: Some("n".into()),
            listen: "127.0.0.1:9090".parse().unwrap(),
            health_listen: "127.0.0.1:8093".parse().unwrap(),
            tls_cert: Some("/c".into()),
            tls_key: Some("/k".into()),
            client_ca: Some("/ca".into()),
            controller_identity: "controller".into(),
            encryption: EncryptionMode::Envelope,
            poll_interval: Duration::from_secs(5),
            tls_reload_interval: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
            log_format: LogFormat::Json,
            log_level: "info".into(),
        }
    }

    #[test]
    fn half_a_tls_configuration_refuses_to_start() {
        assert!(args().validate().is_ok());
        for drop in 1..8u8 {
            let mut half = args();
            if drop & 1 != 0 {
                half.tls_cert = None;
            }
            if drop & 2 != 0 {
                half.tls_key = None;
            }
            if drop & 4 != 0 {
                half.client_ca = None;
            }
            let message = half.validate().map(|_| ()).unwrap_err().0;
            assert!(message.contains("not given"), "{message}");
            assert_eq!(message.matches("--client-ca").count() == 2, drop & 4 != 0);
        }
    }

    #[test]
    fn two_servers_need_two_addresses_and_somebody_must_be_allowed() {
        let mut same = args();
        same.health_listen = same.listen;
        assert!(same.validate().map(|_| ()).unwrap_err().0.contains("two ports"));
        let mut nobody = args();
        nobody.controller_identity = " ".into();
        assert!(nobody.validate().is_err());
    }
}
