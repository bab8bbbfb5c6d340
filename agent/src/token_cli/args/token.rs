//! The flags of the verbs that work on a token as a whole.

use std::path::PathBuf;

use super::Format;

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
    /// The form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Format,
}
