//! One question to a worker of its own, so that no module is ever loaded into the agent.

use std::path::Path;
use std::time::{Duration, Instant};

use super::config::WorkerProgram;
use super::convert::path_bytes;
use super::frame::Waited;
use super::messages::{Answer, Command, Hello, InitSoftwareToken, Nothing, PROTOCOL, Request};
use super::process::Process;
use crate::pkcs11::{BlankSlot, Surveyed};
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
