//! `hsm-agent completion`.

use std::process::ExitCode;

use clap::CommandFactory as _;

use super::output::raw;
use crate::config::Cli;

/// The shells that we keep completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

/// Prints the script that a shell sources.
pub fn print_completion(shell: Shell) -> ExitCode {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hsm-agent", &mut script);
    // A reader that has gone is no error of ours.
    drop(raw(&script));
    ExitCode::SUCCESS
}
