//! The verbs and their flags (CONVENTIONS, "Command line").

use std::path::PathBuf;

use crate::config::SelectArgs;

/// Work on a token from the command line.
#[derive(clap::Args)]
pub struct TokenArgs {
    /// Which token.
    #[command(flatten)]
    pub select: SelectArgs,
    /// What to do with it.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do with a token.
#[derive(clap::Subcommand)]
pub enum Verb {
    /// List the records
    List(ListArgs),
    /// Show a record; values are masked unless --show-values
    Get(GetArgs),
    /// Set keys of a record, or make it
    Put(PutArgs),
    /// Delete a record, or one key of it
    Delete(DeleteArgs),
    /// Make a software token, and a store on a token that has none
    Init(InitArgs),
    /// Change the token's PIN
    ChangePin(ChangePinArgs),
    /// Say how the token is
    Doctor(DoctorArgs),
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For people, with more columns.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// One path a line.
    Name,
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

/// `init`
#[derive(clap::Args)]
pub struct InitArgs {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The file of the SO-PIN; made with a random one if it does not exist
    #[arg(long, value_name = "FILE")]
    pub so_pin_file: Option<PathBuf>,
}

/// `change-pin`
#[derive(clap::Args)]
pub struct ChangePinArgs {
    /// The file that holds the new PIN
    #[arg(long, value_name = "FILE")]
    pub new_pin_file: PathBuf,
}

/// `doctor`
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}
