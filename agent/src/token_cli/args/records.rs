//! The flags of the verbs that work on one record, or list them.

use super::Format;

/// How a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Encryption {
    /// Sealed with the token's store key.
    Envelope,
    /// In clear: whoever reads the token's flash reads it.
    None,
}

/// `list`
#[derive(clap::Args)]
pub struct ListArgs {
    /// Only paths that begin so
    #[arg(default_value = "")]
    pub prefix: String,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `get`
#[derive(clap::Args)]
pub struct GetArgs {
    /// The record, for example secrets/NAMESPACE/NAME
    pub path: String,
    /// Only this value: its raw bytes on stdout and nothing else
    #[arg(long, conflicts_with = "output")]
    pub key: Option<String>,
    /// This version, current or earlier, as `history` prints it
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Show values instead of masking them
    #[arg(long)]
    pub show_values: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `put`
#[derive(clap::Args)]
pub struct PutArgs {
    /// The record, for example secrets/NAMESPACE/NAME
    pub path: String,
    /// A value from a file, under the file's name or KEY; `KEY=-` is stdin
    #[arg(long, value_name = "[KEY=]FILE")]
    pub from_file: Vec<String>,
    /// Values from lines of KEY=VALUE; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub from_env_file: Option<String>,
    /// Drop the keys that are not given here
    #[arg(long)]
    pub replace: bool,
    /// Only if the record is at this version, as `get -o json` prints it
    #[arg(long, value_name = "VERSION")]
    pub expect_version: Option<String>,
    /// How it is written: sealed with the token's key, or in clear, as one JSON object that plain tools can read
    #[arg(long, value_enum, default_value = "envelope")]
    pub encryption: Encryption,
    /// How many earlier values of the record are kept, where there is room for them
    #[arg(long, value_name = "N", default_value_t = super::super::edit::KEEP_HISTORY)]
    pub keep_history: usize,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `delete`
#[derive(clap::Args)]
pub struct DeleteArgs {
    /// The record
    pub path: String,
    /// Only this key
    #[arg(long)]
    pub key: Option<String>,
    /// Only if the record is at this version
    #[arg(long, value_name = "VERSION")]
    pub expect_version: Option<String>,
    /// Succeed if it is not there
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `history`
#[derive(clap::Args)]
pub struct HistoryArgs {
    /// The record
    pub path: String,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `restore`
#[derive(clap::Args)]
pub struct RestoreArgs {
    /// The record
    pub path: String,
    /// The earlier version whose content is to be the current one again, as `history` prints it
    #[arg(long, value_name = "VERSION")]
    pub version: String,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}
