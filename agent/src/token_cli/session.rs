//! The token as the command line has it: a worker of its own, logged in, its store open.

use std::time::Duration;

use hsm_store::{Options, Store, identify};
use hsm_token::worker::WorkerToken;
use hsm_token::{Pin, Token as _, TokenInfo};
use hsm_types::Presence;

use super::Failure;
use crate::actor::PinSource;
use crate::config::{Chosen, SelectArgs};
use crate::reason::Reason;
use crate::token_open::{lock_path, prepare, with_pin, worker};

/// How often a verb is begun anew.
const TRIES: u32 = 6;

/// Runs a verb, and again from the start when the session was lost under it: another program that replaces objects
/// meanwhile takes handles away. Every verb may be run again: what is already so is not written twice.
pub(super) fn again<R>(mut verb: impl FnMut() -> Result<R, Failure>) -> Result<R, Failure> {
    let lost = |failure: &Failure| matches!(failure, Failure::Op(e) if e.ends_epoch && e.reason == Some(Reason::TokenUnhealthy));
    let mut tries = 1;
    loop {
        match verb() {
            Err(failure) if tries < TRIES && lost(&failure) => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(50) * tries);
            }
            outcome => return outcome,
        }
    }
}

/// The store of the token that the flags name.
pub(super) fn open(select: &SelectArgs) -> Result<Store<WorkerToken>, Failure> {
    let chosen = select.choose()?;
    let (worker, info) = log_in(&chosen)?;
    open_store(&chosen, worker, &info)
}

/// The store of a token that is logged in.
pub(super) fn open_store(
    chosen: &Chosen,
    worker: WorkerToken,
    info: &TokenInfo,
) -> Result<Store<WorkerToken>, Failure> {
    Store::open(worker, options(chosen, info)).map_err(|(_, error)| error.into())
}

/// The lock is the agent's.
pub(super) fn options(chosen: &Chosen, info: &TokenInfo) -> Options {
    Options::new(lock_path(&chosen.runtime_dir, info))
}

/// A worker whose token is the one that was named, and is logged in.
pub(super) fn log_in(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    let (mut worker, info) = connect(chosen)?;
    let pin = pin(chosen)?;
    with_pin(chosen, &info, &mut worker, |worker| worker.login(&pin))?;
    Ok((worker, info))
}

/// The same without login.
pub(super) fn connect(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    prepare(chosen)?;
    let mut worker = worker(chosen)?;
    worker.reopen()?;
    let info = worker.info()?;
    if let Some(named) = chosen.token_id {
        match identify(&mut worker)? {
            Presence::Present(id) if id == named => {}
            Presence::Present(id) => {
                return Err(Failure::Other(format!(
                    "the token is {id}, not {named} (--token-id); no PIN was given to it"
                )));
            }
            Presence::Absent => {
                return Err(Failure::Other(format!(
                    "the token has no identity, so it is not {named} (--token-id)"
                )));
            }
            Presence::Unknown(why) => return Err(Failure::Other(why.to_string())),
        }
    }
    Ok((worker, info))
}

/// The PIN from its file.
pub(super) fn pin(chosen: &Chosen) -> Result<Pin, Failure> {
    if chosen.pin_file.is_none() {
        return Err(Failure::Usage(
            "no PIN file is named; give --pin-file FILE or set HSM_PIN_FILE".to_owned(),
        ));
    }
    PinSource::new(chosen.pin_file.clone())
        .current()
        .map_err(|message| Failure::Other(message.replace(", it is read again by itself", "")))
}

/// Waits until what was superseded is gone: this process ends, and nobody else would do it soon.
pub(super) fn finish(store: &mut Store<WorkerToken>) -> Result<(), Failure> {
    while let Some(due) = store.settle()? {
        std::thread::sleep(due);
    }
    Ok(())
}
