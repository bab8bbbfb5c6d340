//! The token as the command line has it: a worker of its own, logged in, its store open.

use std::time::Duration;

use hsm_store::{Encryption, Options, Store};
use hsm_token::worker::WorkerToken;
use hsm_token::{Pin, Token as _, TokenError, TokenInfo};
use hsm_types::{Presence, TokenId};

use super::{Failure, Outcome, find};
use crate::actor::PinSource;
use crate::config::{Chosen, SelectArgs};
use crate::reason::Reason;
use crate::state::{Admissions, Decision, Tie};
use crate::token_open::{identify, lock_path, prepare, with_pin, worker};

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
    open_with(select, Encryption::Envelope)
}

/// The same, with what is written in this form.
pub(super) fn open_with(select: &SelectArgs, encryption: Encryption) -> Result<Store<WorkerToken>, Failure> {
    let chosen = find::chosen(select)?;
    let (worker, info) = log_in(&chosen)?;
    let options = Options { encryption, ..options(&chosen, &info) };
    admitted(&chosen, &info, Store::open(worker, options).map_err(|(_, error)| error)?)
}

/// The store of a token that is logged in. Its key must be the one that was pinned, if one was.
pub(super) fn open_store(
    chosen: &Chosen,
    worker: WorkerToken,
    info: &TokenInfo,
) -> Result<Store<WorkerToken>, Failure> {
    admitted(chosen, info, Store::open(worker, options(chosen, info)).map_err(|(_, error)| error)?)
}

fn admitted(
    chosen: &Chosen,
    info: &TokenInfo,
    store: Store<WorkerToken>,
) -> Result<Store<WorkerToken>, Failure> {
    let (id, seen) = (store.token_id(), store.fingerprint().to_string());
    match Admissions::load(&chosen.state_dir)?.decide(id, &Tie::of(info)) {
        Decision::Admitted { fingerprint: Some(pinned) } if pinned != seen => Err(Failure::Other(format!(
            "{id} has the store key {seen}, and {pinned} was pinned when it was admitted: it is another token, or its \
             store was made anew. If you know why, run hsm-agent token admit"
        ))),
        _ => Ok(store),
    }
}

/// The lock is the agent's.
pub(super) fn options(chosen: &Chosen, info: &TokenInfo) -> Options {
    Options::new(lock_path(&chosen.runtime_dir, info))
}

/// A worker whose token is the one that was named, and is logged in. What was forgotten here, or is carried by
/// something else than what was admitted, is given no PIN.
pub(super) fn log_in(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    let (mut worker, info) = guarded(chosen)?;
    give_pin(chosen, &mut worker, &info)?;
    Ok((worker, info))
}

/// The same, before it is given its PIN.
pub(super) fn guarded(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    let (mut worker, info) = connect(chosen)?;
    if let Presence::Present(id) = identify(chosen, &info, &mut worker)? {
        guard(chosen, id, &info)?;
    }
    Ok((worker, info))
}

/// Logs in with the PIN in the file.
pub(super) fn give_pin(chosen: &Chosen, worker: &mut WorkerToken, info: &TokenInfo) -> Outcome {
    let pin = pin(chosen)?;
    Ok(with_pin(chosen, info, worker, |worker| worker.login(&pin))?)
}

fn guard(chosen: &Chosen, id: TokenId, info: &TokenInfo) -> Outcome {
    let tie = Tie::of(info);
    match Admissions::load(&chosen.state_dir)?.decide(id, &tie) {
        // A person who names a token at the command line and has its PIN needs no admission before.
        Decision::Admitted { .. } | Decision::New => Ok(()),
        Decision::Forgotten => Err(Failure::Other(format!(
            "{id} was forgotten on this machine (hsm-agent token forget): no PIN was given to it; hsm-agent token admit \
             takes it in again"
        ))),
        Decision::OtherDevice { admitted } => Err(Failure::Other(format!(
            "this says that it is {id}, which was admitted as {admitted}, and this is {tie}: no PIN was given to it; if \
             it is that token, run hsm-agent token admit"
        ))),
    }
}

/// A worker whose token is the one that was named, without login.
pub(super) fn connect(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    let (mut worker, info) = reopened(chosen)?;
    if let Some(named) = chosen.token_id {
        match identify(chosen, &info, &mut worker)? {
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

/// The token behind the selector, whatever its identity.
pub(super) fn reopened(chosen: &Chosen) -> Result<(WorkerToken, TokenInfo), Failure> {
    prepare(chosen)?;
    let mut worker = worker(chosen)?;
    worker.set_opensc(Some(find::opensc(chosen)?));
    let opened: Result<TokenInfo, TokenError> = worker.reopen().and_then(|()| worker.info());
    match opened {
        Ok(info) => Ok((worker, info)),
        Err(error) => Err(find::held(chosen, error)),
    }
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

/// Waits until what was superseded is gone, and packs what a token that runs short of objects has room for: this process
/// ends, and nobody else would do it soon.
pub(super) fn finish(store: &mut Store<WorkerToken>) -> Result<(), Failure> {
    loop {
        while let Some(due) = store.settle()? {
            std::thread::sleep(due);
        }
        if !store.repack()? {
            return Ok(());
        }
    }
}
