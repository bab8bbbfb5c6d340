//! The command line.

use clap::{Parser, Subcommand, ValueEnum};

use crate::rest::Server;

/// Secrets on hardware tokens, from the command line.
#[derive(Debug, Parser)]
#[command(name = "kubectl-hsm", bin_name = "kubectl hsm", version)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// How to print.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// The controller's REST API, such as http://127.0.0.1:8090; plain HTTP goes to this machine only.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<Server>,
    /// The namespace of the HSMSecrets that are meant.
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the version of this program, and with --server the controller's too.
    Version,
    /// Print a completion script, to be sourced by the shell.
    Completion {
        /// The shell that completes.
        shell: Shell,
    },
}

/// The shells that we keep completions for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl From<Shell> for clap_complete::Shell {
    fn from(shell: Shell) -> Self {
        match shell {
            Shell::Bash => Self::Bash,
            Shell::Zsh => Self::Zsh,
            Shell::Fish => Self::Fish,
        }
    }
}
