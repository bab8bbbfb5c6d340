//! The token as the command line has it: a worker of its own, logged in, its store open.

use hsm_store::{Options, Store, identify};
use hsm_token::worker::WorkerToken;
use hsm_token::{Pin, Token as _, TokenInfo};
use hsm_types::Presence;

use super::Failure;
use crate::actor::PinSource;
use crate::config::{Chosen, SelectArgs};
use crate::token_open::{lock_path, pin_memory_path, prepare, worker};

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
    worker.login(&pin)?;
    Ok((worker, info))
}

/// The same without login.
pub(super) fn connect(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    prepare(chosen)?;
    let mut worker = worker(chosen)?;
    worker.reopen()?;
    let info = worker.info()?;
    worker.set_pin_memory(Some(pin_memory_path(&chosen.state_dir, &info)));
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
