//! `hsm-agent token`: works on a token from the command line, beside a running agent or where there is no cluster.
//!
//! It opens the token through a worker of its own and writes under the same lock as the agent.

mod admit;
mod args;
mod change_pin;
mod compact;
mod completion;
mod doctor;
mod edit;
mod export;
mod find;
mod get;
mod ghosts;
mod history;
mod import;
mod info;
mod init;
mod list;
mod migrate;
mod output;
mod pin_file;
mod progress;
mod record;
mod session;
mod sources;

use std::process::ExitCode;

pub use args::TokenArgs;
pub use completion::{Shell, print_completion};
pub use output::{complain, print_version};

use args::Verb;
use session::again;

use crate::config::{ConfigError, LogFormat};
use crate::error::OpError;
use crate::export::ExportError;

/// Why a command ends badly.
enum Failure {
    /// The command line cannot be followed: exit code 2.
    Usage(String),
    /// What was asked for is not there: exit code 3.
    NotFound(String),
    /// The operation failed: exit code 1, 3 or 4.
    Op(OpError),
    /// Nothing was done, because both sides differ: exit code 4.
    Conflict(String),
    /// Some of it was done: exit code 5.
    Partial(String),
    /// Anything else: exit code 1.
    Other(String),
}

type Outcome = Result<(), Failure>;

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::NotFound(_) => 3,
            Self::Op(error) => error.exit_code(),
            Self::Conflict(_) => 4,
            Self::Partial(_) => 5,
            Self::Other(_) => 1,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Op(error) => error.to_string(),
            Self::Usage(message)
            | Self::NotFound(message)
            | Self::Conflict(message)
            | Self::Partial(message)
            | Self::Other(message) => message.clone(),
        }
    }
}

impl From<OpError> for Failure {
    fn from(error: OpError) -> Self {
        Self::Op(error)
    }
}

impl From<hsm_store::StoreError> for Failure {
    fn from(error: hsm_store::StoreError) -> Self {
        Self::Op(error.into())
    }
}

impl From<hsm_token::TokenError> for Failure {
    fn from(error: hsm_token::TokenError) -> Self {
        Self::Op(error.into())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.0)
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Key(message) => Self::Usage(message),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// Runs a verb. Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict, 5 partial.
pub fn main(args: &TokenArgs) -> ExitCode {
    // What a person is told goes through `output`; lines of log are for whoever asks for them.
    let level = std::env::var("HSM_LOG_LEVEL").unwrap_or_else(|_| "error".to_owned());
    drop(crate::log::start(LogFormat::Text, &level));
    let outcome = match &args.verb {
        Verb::List(verb) => again(|| list::list(&args.select, verb)),
        Verb::Get(verb) => again(|| get::get(&args.select, verb)),
        Verb::Info(verb) => again(|| info::info(&args.select, verb)),
        Verb::Doctor(verb) => again(|| doctor::doctor(&args.select, verb)),
        Verb::Admit(verb) => admit::admit(&args.select, verb),
        Verb::Forget(verb) => admit::forget(&args.select, verb),
        Verb::Export(verb) => export::export(&args.select, verb),
        Verb::Import(verb) => import::import(&args.select, verb),
        Verb::Put(verb) => edit::put(&args.select, verb),
        Verb::Delete(verb) => again(|| edit::delete(&args.select, verb)),
        Verb::History(verb) => again(|| history::history(&args.select, verb)),
        Verb::Restore(verb) => again(|| history::restore(&args.select, verb)),
        Verb::Migrate(verb) => migrate::migrate(&args.select, verb),
        Verb::Compact(verb) => compact::compact(&args.select, verb),
        Verb::Init(verb) => init::init(&args.select, verb),
        Verb::ChangePin(verb) => change_pin::change_pin(&args.select, verb),
    };
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    complain(&failure.message());
    ExitCode::from(failure.exit_code())
}
