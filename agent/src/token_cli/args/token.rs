//! The flags of the verbs that work on a token as a whole.

use std::path::PathBuf;

use super::Format;

/// `init`; the global `--token-id` gives the new store an old identity here.
#[derive(clap::Args)]
pub struct InitArgs {
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The file of the SO-PIN; made with a random one if it does not exist. Without it a random one is shown once, or,
    /// where nobody is there to read it, written to PIN-FILE.so
    #[arg(long, value_name = "FILE")]
    pub so_pin_file: Option<PathBuf>,
}

/// `change-pin`
#[derive(clap::Args)]
pub struct ChangePinArgs {
    /// The file that holds the new PIN; made with a random one if it does not exist
    #[arg(long, value_name = "FILE")]
    pub new_pin_file: PathBuf,
    /// In the end, write the new PIN over the old one in the file that --pin-file names
    #[arg(long)]
    pub replace_pin_file: bool,
}

/// `info`
#[derive(clap::Args)]
pub struct InfoArgs {
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `doctor`
#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Remove ghosts from a SmartCard-HSM: objects that are listed and can be neither read nor destroyed
    #[arg(long)]
    pub repair: bool,
    /// Do not ask before a repair
    #[arg(long)]
    pub yes: bool,
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}

/// `admit`
#[derive(clap::Args)]
pub struct AdmitArgs {
    /// Pin this store key (32 hexadecimal digits, as doctor prints it) before the token is ever given its PIN
    #[arg(long, value_name = "HEX")]
    pub fingerprint: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// `forget`
#[derive(clap::Args)]
pub struct ForgetArgs {
    /// A lost token: it is given no PIN any more, and is in quarantine when it returns
    #[arg(value_name = "TOKEN_ID", required_unless_present = "tombstone", conflicts_with = "tombstone")]
    pub token: Option<String>,
    /// Forget that this record was deleted: a copy on a token that was away could then come back
    #[arg(long, value_name = "PATH")]
    pub tombstone: Option<String>,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}
