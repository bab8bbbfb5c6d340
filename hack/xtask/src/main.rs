//! Code generation and checks: `cargo xtask generate [--check]`.

mod generate;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write the generated files.
    Generate {
        /// Fail when one differs, and write nothing.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::Generate { check } => generate::run(check),
    }
}
