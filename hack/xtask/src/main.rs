//! Code generation and checks, run as `cargo xtask COMMAND`.

mod check_house;
mod generate;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Code generation and checks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold the walls of the house: what each crate must never know, against the real dependency tree.
    CheckHouse,
    /// Write the generated files.
    Generate {
        /// Fail when one differs, and write nothing.
        #[arg(long)]
        check: bool,
    },
}

#[allow(clippy::print_stderr, reason = "a command's message is for the terminal")]
fn main() -> ExitCode {
    let outcome = match Args::parse().command {
        Command::CheckHouse => check_house::run(),
        Command::Generate { check } => generate::run(check),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Not `{:?}`: that adds a backtrace, and a broken wall is no crash.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
