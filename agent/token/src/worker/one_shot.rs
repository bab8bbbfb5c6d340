//! One question to a worker of its own, so that no module is ever loaded into the agent.

use std::path::Path;
use std::time::{Duration, Instant};

use super::config::WorkerProgram;
use super::convert::path_bytes;
use super::frame::Waited;
use super::messages::{
    Answer, Card, CardCommand, CardPins, Command, Hello, InitSoftwareToken, Login, Nothing, PROTOCOL, Request,
};
use super::process::Process;
use crate::pkcs11::{BlankSlot, Surveyed};
use crate::sc_hsm::{CardStatus, Repaired};
use crate::{ErrorClass, Pin, TokenError, TokenInfo};

/// How long a worker that has answered may take to end.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// [`crate::pkcs11::init_software_token`] in a worker, killed past `limit`.
pub fn init_software_token(
    worker: &WorkerProgram,
    limit: Duration,
    module: &Path,
    slot: BlankSlot,
    label: &str,
    so_pin: &Pin,
    pin: &Pin,
) -> Result<TokenInfo, TokenError> {
    let operation = "init_software_token";
    let command = Command::InitSoftwareToken(InitSoftwareToken {
        module: path_bytes(module),
        slot: match slot {
            BlankSlot::First => None,
            BlankSlot::Number(number) => Some(number),
        },
        label: label.to_owned(),
        so_pin: Some(so_pin.into()),
        pin: Some(pin.into()),
    });
    match ask(worker, limit, operation, command)? {
        Answer::Info(info) => Ok(info.into()),
        _ => Err(another_question(operation)),
    }
}

/// Every token that a module shows, initialised or not, asked in a worker, which is killed past `limit`.
///
/// Only for software modules, and for readers whose cards nobody holds: C_Initialize connects the card in every
/// reader, so that with OpenSC a survey logs out whoever works with a token over a shared connection, and does not see
/// one that is held exclusively. (A `worker` with an OPENSC_CONF whose `ignored_readers` names those leaves them alone.)
pub fn survey(worker: &WorkerProgram, limit: Duration, module: &Path) -> Result<Vec<Surveyed>, TokenError> {
    let operation = "survey";
    match ask(worker, limit, operation, Command::Survey(path_bytes(module)))? {
        Answer::Survey(survey) => Ok(survey.into()),
        _ => Err(another_question(operation)),
    }
}

/// The names of this machine's PC/SC readers, as they are for [`crate::pkcs11::TokenSelector::Reader`] and
/// [`super::OpenscSettings`]. Connects to no card, and so disturbs nobody.
///
/// Errors, here and in the functions below: `Module` where this build has no PC/SC support (feature `pcsc`), or pcscd
/// does not run.
pub fn readers(worker: &WorkerProgram, limit: Duration) -> Result<Vec<String>, TokenError> {
    match card(worker, limit, None, "readers", CardCommand::Readers(Nothing {}))? {
        Answer::Readers(readers) => Ok(readers.names),
        _ => Err(another_question("readers")),
    }
}

/// What the SmartCard-HSM in this reader says of itself, without a login and without a try. `reader` is the reader's
/// whole name; `None` is for a machine with one reader only. The card must not be held by another program, here and
/// in the functions below (`Busy`).
pub fn card_status(
    worker: &WorkerProgram,
    limit: Duration,
    reader: Option<&str>,
) -> Result<CardStatus, TokenError> {
    match card(worker, limit, reader, "card_status", CardCommand::Status(Nothing {}))? {
        Answer::CardStatus(state) => Ok(state.into()),
        _ => Err(another_question("card_status")),
    }
}

/// [`crate::sc_hsm::ScHsm::initialize`] in a worker: makes a positively blank SmartCard-HSM or Pico HSM usable. An error
/// of class `Unreachable` leaves the outcome unknown: ask [`card_status`].
pub fn init_sc_hsm(
    worker: &WorkerProgram,
    limit: Duration,
    reader: Option<&str>,
    so_pin: &Pin,
    pin: &Pin,
) -> Result<CardStatus, TokenError> {
    let pins = CardPins { so_pin: Some(so_pin.into()), pin: Some(pin.into()) };
    match card(worker, limit, reader, "init_sc_hsm", CardCommand::Init(pins))? {
        Answer::CardStatus(state) => Ok(state.into()),
        _ => Err(another_question("init_sc_hsm")),
    }
}

/// [`crate::sc_hsm::ScHsm::ghosts`] in a worker: objects that are listed and cannot be read or destroyed, each by a
/// number. No login.
pub fn ghosts(worker: &WorkerProgram, limit: Duration, reader: Option<&str>) -> Result<Vec<u8>, TokenError> {
    match card(worker, limit, reader, "ghosts", CardCommand::Ghosts(Nothing {}))? {
        Answer::Ghosts(ghosts) => Ok(ghosts.left),
        _ => Err(another_question("ghosts")),
    }
}

/// [`crate::sc_hsm::ScHsm::remove_ghosts`] in a worker: removes them, with one login. `pin_memory` is the token's own,
/// as for every login (see [`super::WorkerConfig`]).
pub fn repair_ghosts(
    worker: &WorkerProgram,
    limit: Duration,
    reader: Option<&str>,
    pin: &Pin,
    pin_memory: Option<&Path>,
) -> Result<Repaired, TokenError> {
    let memory = pin_memory.map(path_bytes).unwrap_or_default();
    let command = CardCommand::RepairGhosts(Login { pin: Some(pin.into()), memory });
    match card(worker, limit, reader, "repair_ghosts", command)? {
        Answer::Ghosts(ghosts) => Ok(ghosts.into()),
        _ => Err(another_question("repair_ghosts")),
    }
}

fn card(
    worker: &WorkerProgram,
    limit: Duration,
    reader: Option<&str>,
    operation: &'static str,
    command: CardCommand,
) -> Result<Answer, TokenError> {
    let card = Card { reader: reader.map(str::to_owned), command: Some(command) };
    ask(worker, limit, operation, Command::Card(card))
}

/// Starts a worker, asks it this one thing, and ends it. An error of class `Unreachable` leaves the outcome unknown.
fn ask(
    worker: &WorkerProgram,
    limit: Duration,
    operation: &'static str,
    command: Command,
) -> Result<Answer, TokenError> {
    let deadline = Instant::now() + limit;
    let module = |message: String| TokenError::new(ErrorClass::Module, operation, message);
    let program = worker.program.display();
    let mut process = Process::start(worker)
        .map_err(|e| module(format!("the token worker {program} cannot be started: {e}")))?;
    match exchange(&mut process, 1, Command::Hello(Nothing {}), deadline, operation)? {
        Answer::Hello(Hello { protocol: PROTOCOL, .. }) => {}
        _ => {
            return Err(module(format!(
                "{program} is not the token worker of this version; was the program replaced?"
            )));
        }
    }
    // An error leaves at once: what was not answered in time is killed.
    let answer = exchange(&mut process, 2, command, deadline, operation)?;
    process.shut_down(SHUTDOWN);
    match answer {
        Answer::Error(failure) => Err(failure.into_error(operation)),
        answer => Ok(answer),
    }
}

fn exchange(
    process: &mut Process,
    id: u64,
    command: Command,
    deadline: Instant,
    operation: &'static str,
) -> Result<Answer, TokenError> {
    let unknown = |message| TokenError::new(ErrorClass::Unreachable, operation, message);
    let request = Request { id, call: String::new(), command: Some(command) };
    let left = deadline.saturating_duration_since(Instant::now());
    process.send(&request, left).map_err(|_| unknown("the token worker ended before it was asked"))?;
    // Wiped here, not when the answer comes.
    drop(request);
    match process.receive(id, || deadline) {
        Waited::Message(response) => response.answer.ok_or_else(|| another_question(operation)),
        Waited::TimedOut => Err(unknown("the token worker did not answer in time; the outcome is unknown")),
        Waited::Closed => Err(unknown("the token worker ended during the command; the outcome is unknown")),
    }
}

fn another_question(operation: &'static str) -> TokenError {
    TokenError::new(ErrorClass::Unreachable, operation, "the token worker gave an answer to another question")
}
