//! The verbs and their flags (CONVENTIONS, "Command line").

mod records;
mod token;
mod transfer;

pub(super) use records::{DeleteArgs, Encryption, GetArgs, HistoryArgs, ListArgs, PutArgs, RestoreArgs};
pub(super) use token::{AdmitArgs, ChangePinArgs, DoctorArgs, ForgetArgs, InfoArgs, InitArgs};
pub(super) use transfer::{CompactArgs, ExportArgs, ImportArgs, LockArgs, MigrateArgs, UnlockArgs};

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
    /// Delete a record with its history, or one key of it
    Delete(DeleteArgs),
    /// List the versions of a record that are kept
    History(HistoryArgs),
    /// Make an earlier value of a record the current one again
    Restore(RestoreArgs),
    /// Write the records into an encrypted file, and check it
    Export(ExportArgs),
    /// Read the records of an encrypted file onto the token; a newer or differing version there is kept
    Import(ImportArgs),
    /// Make the records of the Go operator and of plain tools ours
    Migrate(MigrateArgs),
    /// Give back flash that the token has leaked: export, empty, refill
    Compact(CompactArgs),
    /// Make a software token, and a store on a token that has none
    Init(InitArgs),
    /// Change the token's PIN
    ChangePin(ChangePinArgs),
    /// Say what the token is, without a PIN
    Info(InfoArgs),
    /// Let the token take part on this machine: it is known by its identity, its device and its store key
    Admit(AdmitArgs),
    /// Forget a lost token, or that a record was deleted
    Forget(ForgetArgs),
    /// Say how the token and its records are
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
