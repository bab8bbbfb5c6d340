//! The flags of the verbs that move records between a token and a file.

use std::path::PathBuf;

use super::Format;

/// To whom an export is encrypted.
#[derive(clap::Args)]
#[group(id = "lock", required = true, multiple = true)]
pub struct LockArgs {
    /// The file that holds the passphrase; `age -d` opens the export with it, too
    #[arg(long, value_name = "FILE", conflicts_with_all = ["recipient", "recipients_file"])]
    pub passphrase_file: Option<PathBuf>,
    /// Whose key opens the export (age1…, as age-keygen prints it); may be given several times
    #[arg(long, value_name = "AGE1…")]
    pub recipient: Vec<String>,
    /// A file of recipients, one a line
    #[arg(long, value_name = "FILE")]
    pub recipients_file: Option<PathBuf>,
}

/// What opens an export.
#[derive(clap::Args)]
#[group(id = "unlock", required = true, multiple = false)]
pub struct UnlockArgs {
    /// The file that holds the passphrase
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The file that holds the key (AGE-SECRET-KEY-1…, as age-keygen writes it)
    #[arg(long, value_name = "FILE")]
    pub identity: Option<PathBuf>,
}

/// `export`
#[derive(clap::Args)]
pub struct ExportArgs {
    /// Only paths that begin so
    #[arg(default_value = "")]
    pub prefix: String,
    /// To whom it is encrypted.
    #[command(flatten)]
    pub lock: LockArgs,
    /// Check an export to recipients by opening it with this key, which must be one of theirs
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub identity: Option<PathBuf>,
    /// The file to write; it appears when it is complete and checked
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    pub force: bool,
    /// The form of the summary
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `import`
#[derive(clap::Args)]
pub struct ImportArgs {
    /// The export
    pub file: PathBuf,
    /// What opens it.
    #[command(flatten)]
    pub unlock: UnlockArgs,
    /// Where the token has another version, or has deleted the record, take the file's content as a new version
    #[arg(long)]
    pub replace: bool,
    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before records are deleted that the file says are deleted
    #[arg(long)]
    pub yes: bool,
    /// The form of the summary
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `compact`
#[derive(clap::Args)]
pub struct CompactArgs {
    /// To whom the export is encrypted.
    #[command(flatten)]
    pub lock: LockArgs,
    /// With recipients: the key that opens the export, which must be one of theirs
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    pub identity: Option<PathBuf>,
    /// The export, from which the token is filled again; after a crash give the same file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Take the whole store off and make it anew with the same identity: for flash that comes back only so
    #[arg(long)]
    pub reformat: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `migrate`
#[derive(clap::Args)]
pub struct MigrateArgs {
    /// Say what would become of each record; so it is also without --yes where nobody can be asked
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}
