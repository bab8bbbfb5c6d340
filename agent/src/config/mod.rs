//! The command line: parsed and validated once, before anything binds or opens.

mod run;
mod select;
mod serve;
mod units;

pub use run::{EncryptionMode, LogFormat, RunArgs, RunConfig, TlsFiles};
pub use select::{Chosen, SelectArgs};
pub use serve::ServeArgs;
pub use units::parse_duration;

use crate::token_cli::{Shell, TokenArgs};

/// What this build is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit it was built from; `unknown` in a build that was not told.
pub const COMMIT: &str = match option_env!("HSM_BUILD_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// The agent of hsm-secrets-operator: serves the HSM tokens of one node.
#[derive(clap::Parser)]
#[command(name = "hsm-agent", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The program's subcommands.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Serve this node's tokens to the controller
    Run(Box<RunArgs>),
    /// Work on a token from the command line, with or without a cluster
    Token(Box<TokenArgs>),
    /// The child process that calls the PKCS#11 module; started by the agent, never by a person
    #[command(name = "token-worker", hide = true)]
    TokenWorker {
        /// The form of log lines
        #[arg(long, env = "HSM_LOG_FORMAT", value_enum, default_value = "json")]
        log_format: LogFormat,
    },
    /// Print a completion script, to be sourced by the shell
    Completion {
        /// The shell that completes
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the version
    Version,
}

/// A setting that cannot be used. The message names the flag and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}
