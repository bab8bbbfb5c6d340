//! Initialising a software token in a worker of its own, so that a module is never loaded into the agent.

use std::path::Path;
use std::time::{Duration, Instant};

use super::config::WorkerProgram;
use super::convert::path_bytes;
use super::frame::Waited;
use super::messages::{Answer, Command, InitSoftwareToken, Request};
use super::process::Process;
use crate::pkcs11::BlankSlot;
use crate::{ErrorClass, Pin, TokenError, TokenInfo};

const OPERATION: &str = "init_software_token";

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
    let deadline = Instant::now() + limit;
    let mut process = Process::start(worker).map_err(|e| {
        let message = format!("the token worker {} cannot be started: {e}", worker.program.display());
        TokenError::new(ErrorClass::Module, OPERATION, message)
    })?;
    let command = InitSoftwareToken {
        module: path_bytes(module),
        slot: match slot {
            BlankSlot::First => None,
            BlankSlot::Number(number) => Some(number),
        },
        label: label.to_owned(),
        so_pin: Some(so_pin.into()),
        pin: Some(pin.into()),
    };
    let request = Request { id: 1, call: String::new(), command: Some(Command::InitSoftwareToken(command)) };
    let unknown = |message| TokenError::new(ErrorClass::Unreachable, OPERATION, message);
    process.send(&request, limit).map_err(|_| unknown("the token worker ended before it was asked"))?;
    drop(request);
    let result = match process.receive(1, || deadline) {
        Waited::Message(response) => match response.answer {
            Some(Answer::Info(info)) => Ok(info.into()),
            Some(Answer::Error(failure)) => Err(failure.into_error(OPERATION)),
            _ => Err(unknown("the token worker gave an answer to another question")),
        },
        Waited::TimedOut => Err(unknown("the token worker did not answer in time; the outcome is unknown")),
        Waited::Closed => Err(unknown("the token worker ended during the command; the outcome is unknown")),
    };
    process.shut_down(limit);
    result
}
