//! What the library does for a test, for a person: the cards, readers and faults of a machine.

#![expect(clippy::print_stdout, reason = "a command prints what it was asked for")]

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use faulty_pkcs11::{Action, CardOptions, Fault, Keep, Machine, When};

/// Cards, readers and faults for the faulty PKCS#11 module.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// DIR is the machine's folder; CARD is a reader, or a card in the drawer.
#[derive(Subcommand)]
enum Command {
    /// Make a machine without readers.
    Init { dir: PathBuf },
    /// Plug a new card into a new reader. Its user PIN is read from standard input.
    Add {
        dir: PathBuf,
        reader: String,
        /// A card that was never initialised; no PIN is read.
        #[arg(long)]
        blank: bool,
    },
    /// Take the card out of a reader, and print its name in the drawer.
    Unplug { dir: PathBuf, reader: String },
    /// Put a card from the drawer into a reader.
    Plug { dir: PathBuf, reader: String, card: String },
    /// Print the readers with a card in them, and the cards in the drawer.
    Status { dir: PathBuf },
    /// Restart pcscd.
    RestartPcscd { dir: PathBuf },
    /// Arm a fault.
    Fault {
        dir: PathBuf,
        /// The function, C_CreateObject say; without it the calls of all functions are counted.
        #[arg(long)]
        function: Option<String>,
        /// At which of these calls, from 1.
        #[arg(long, default_value_t = 1)]
        call: u64,
        /// At that call and every later one.
        #[arg(long)]
        for_ever: bool,
        /// before, between or after the call's work.
        #[arg(long, default_value = "before", value_parser = when)]
        when: When,
        /// `CKR_…` or 0x… (fail), hang, hang=MILLISECONDS, crash, remove, restart-pcscd.
        #[arg(value_parser = action)]
        action: Action,
    },
    /// Print the armed faults with their counts.
    Faults { dir: PathBuf },
    /// Forget all faults.
    ClearFaults { dir: PathBuf },
    /// Print what a card has done so far.
    Counters { dir: PathBuf, card: String },
    /// Print the labels and sizes of what is on a card; never a value.
    Objects { dir: PathBuf, card: String },
    /// Print the log of calls, as JSON lines.
    Log { dir: PathBuf },
    /// Lose power: of the writes that are not in the flash yet, keep the first so many.
    PowerLoss {
        dir: PathBuf,
        card: String,
        /// How many of them are kept.
        #[arg(long, default_value_t = 0)]
        keep_first: usize,
    },
    /// Print the variables that a program needs, as shell lines.
    Env { dir: PathBuf },
}

fn when(text: &str) -> Result<When, String> {
    match text {
        "before" => Ok(When::Before),
        "between" => Ok(When::Between),
        "after" => Ok(When::After),
        _ => Err("it is before, between or after".to_owned()),
    }
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "hang" => Ok(Action::Hang(None)),
        "crash" => Ok(Action::Crash),
        "remove" => Ok(Action::Remove),
        "restart-pcscd" => Ok(Action::RestartPcscd),
        _ if text.starts_with("CKR_") || text.starts_with("0x") => Ok(Action::Fail(text.to_owned())),
        _ => match text.strip_prefix("hang=").map(str::parse) {
            Some(Ok(millis)) => Ok(Action::Hang(Some(millis))),
            _ => Err("it is CKR_…, 0x…, hang, hang=MILLISECONDS, crash, remove or restart-pcscd".to_owned()),
        },
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use io::Write as _;
            let _ = writeln!(io::stderr(), "faulty-token: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<()> {
    match command {
        Command::Init { dir } => Machine::new(dir).map(drop),
        Command::Add { dir, reader, blank } => {
            let options = if blank {
                CardOptions::blank()
            } else {
                let mut pin = String::new();
                io::stdin().read_line(&mut pin)?;
                let pin = pin.trim_end_matches(['\r', '\n']);
                if pin.is_empty() {
                    return Err(io::Error::other("give the card's PIN on standard input, or --blank"));
                }
                CardOptions::with_pin(pin)
            };
            println!("{}", Machine::open(dir)?.add_card(&reader, &options)?);
            Ok(())
        }
        Command::Unplug { dir, reader } => {
            println!("{}", Machine::open(dir)?.unplug(&reader)?);
            Ok(())
        }
        Command::Plug { dir, reader, card } => Machine::open(dir)?.plug(&reader, &card),
        Command::Status { dir } => {
            let machine = Machine::open(dir)?;
            for reader in machine.readers()? {
                println!("reader {reader}");
            }
            for card in machine.drawer()? {
                println!("drawer {card}");
            }
            Ok(())
        }
        Command::RestartPcscd { dir } => Machine::open(dir)?.restart_pcscd(),
        Command::Fault { dir, function, call, for_ever, when, action } => {
            let fault = match function {
                Some(function) => Fault::at(&function, call, when, action),
                None => Fault::at_call(call, when, action),
            };
            Machine::open(dir)?.script(if for_ever { fault.for_ever() } else { fault })
        }
        Command::Faults { dir } => json_lines(&Machine::open(dir)?.faults()?),
        Command::ClearFaults { dir } => Machine::open(dir)?.clear_script(),
        Command::Counters { dir, card } => {
            println!("{}", serde_json::to_string_pretty(&Machine::open(dir)?.counters(&card)?)?);
            Ok(())
        }
        Command::Objects { dir, card } => {
            for object in Machine::open(dir)?.objects(&card)? {
                println!("{object:?}");
            }
            Ok(())
        }
        Command::Log { dir } => json_lines(&Machine::open(dir)?.log()?),
        Command::PowerLoss { dir, card, keep_first } => {
            Machine::open(dir)?.power_loss(&card, &Keep::First(keep_first))
        }
        Command::Env { dir } => {
            for (name, value) in Machine::open(dir)?.env() {
                let value = value.to_string_lossy().replace('\'', r"'\''");
                println!("export {}='{value}'", name.to_string_lossy());
            }
            Ok(())
        }
    }
}

fn json_lines<T: serde::Serialize>(lines: &[T]) -> io::Result<()> {
    for line in lines {
        println!("{}", serde_json::to_string(line)?);
    }
    Ok(())
}
