//! `hsm-agent token`: works on a token from the command line, beside a running agent or where there is no cluster.
//!
//! It opens the token through a worker of its own and writes under the same lock as the agent.

mod args;
mod edit;
mod init;
mod inspect;
mod output;
mod session;
mod sources;

use std::process::ExitCode;

pub use args::TokenArgs;
pub use output::{complain, print_version};

use args::Verb;
use session::again;

use crate::config::{ConfigError, LogFormat};
use crate::error::OpError;

/// Why a command ends badly.
enum Failure {
    /// The command line cannot be followed: exit code 2.
    Usage(String),
    /// What was asked for is not there: exit code 3.
    NotFound(String),
    /// The operation failed: exit code 1, 3 or 4.
    Op(OpError),
    /// Anything else: exit code 1.
    Other(String),
}

type Outcome = Result<(), Failure>;

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

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Other(error.to_string())
    }
}

/// Runs a verb. Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 conflict.
pub fn main(args: &TokenArgs) -> ExitCode {
    // What a person is told goes through `output`; lines of log are for whoever asks for them.
    let level = std::env::var("HSM_LOG_LEVEL").unwrap_or_else(|_| "error".to_owned());
    drop(crate::log::start(LogFormat::Text, &level));
    let outcome = match &args.verb {
        Verb::List(verb) => again(|| inspect::list(&args.select, verb)),
        Verb::Get(verb) => again(|| inspect::get(&args.select, verb)),
        Verb::Doctor(verb) => again(|| inspect::doctor(&args.select, verb)),
        Verb::Put(verb) => edit::put(&args.select, verb),
        Verb::Delete(verb) => again(|| edit::delete(&args.select, verb)),
        Verb::Init(verb) => init::init(&args.select, verb),
        Verb::ChangePin(verb) => init::change_pin(&args.select, verb),
    };
    let (message, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (message, 2),
        Err(Failure::NotFound(message)) => (message, 3),
        Err(Failure::Op(error)) => (error.to_string(), error.exit_code()),
        Err(Failure::Other(message)) => (message, 1),
    };
    complain(&message);
    ExitCode::from(code)
}
