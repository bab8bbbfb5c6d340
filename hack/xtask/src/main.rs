//! Code generation and checks, run as `cargo xtask COMMAND`.

mod check_house;

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
}

fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        Command::CheckHouse => check_house::run(),
    }
}
