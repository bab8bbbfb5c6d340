//! The node agent's program; everything is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use hsm_agent::config::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Command::TokenWorker { log_format } => hsm_agent::worker_main(log_format),
        Command::Completion { shell } => hsm_agent::token_cli::print_completion(shell),
        Command::Version => hsm_agent::token_cli::print_version(),
        Command::Token(args) => hsm_agent::token_cli::main(&args),
        Command::Run(args) => hsm_agent::run::main(&args),
    }
}
