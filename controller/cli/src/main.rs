//! `kubectl hsm`: the kubectl plugin. It speaks the controller's REST API and knows nothing of its inside.

mod args;
mod output;
mod rest;
mod version;

use std::process::ExitCode;

use args::{Args, Command};
use clap::{CommandFactory as _, Parser as _};

/// What a command may fail with; the exit codes are in CONVENTIONS.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// It was asked for wrongly; clap's own exit code for this is the same.
    #[error("{0}")]
    Usage(String),
    /// It did not work.
    #[error("{0:#}")]
    Error(#[from] anyhow::Error),
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Error(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
        }
    }
}

#[allow(clippy::print_stderr, reason = "a command's message is for the terminal")]
fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Version => version::run(&args.global),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            // The name of the program, which a shell completes; kubectl calls it as `kubectl hsm`.
            clap_complete::generate(
                clap_complete::Shell::from(*shell),
                &mut Args::command(),
                "kubectl-hsm",
                &mut script,
            );
            Ok(output::raw(&script)?)
        }
    }
}
