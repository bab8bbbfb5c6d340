//! The start of an epoch: worker, description, identity, PIN, login, store.

use std::time::Instant;

use hsm_store::{Options, Store, identify};
use hsm_token::worker::WorkerToken;
use hsm_token::{ErrorClass, Pin, Token as _, TokenError, TokenInfo};
use hsm_types::Presence;

use super::State;
use super::down::{Down, Wake};
use super::handle::Opened;
use super::thread::Actor;
use crate::error::OpError;
use crate::reason::Reason;
use crate::token_open::{self, lock_path, with_pin};

impl Actor {
    /// Opens the token, or says why not. The worker stays with the actor when it fails.
    pub(super) fn begin(&mut self) -> Result<Opened, Down> {
        self.logged_in = false;
        let begun = Instant::now();
        let result = self.try_begin();
        let word = match &result {
            Ok(_) => "ok",
            Err(down) => down.error().result(),
        };
        self.config.metrics.operation("open", word, begun.elapsed());
        result
    }

    fn try_begin(&mut self) -> Result<Opened, Down> {
        let mut worker = self.start_worker().map_err(|e| Down::from(&e))?;
        match self.prepare(&mut worker) {
            Ok(()) => {}
            Err(down) => {
                self.worker = Some(worker);
                return Err(down);
            }
        }
        let info = self.status.info.clone().unwrap_or_default();
        let options = Options::new(lock_path(&self.config.chosen.runtime_dir, &info));
        match Store::open(worker, options) {
            Ok(store) => {
                self.status.token_id = Some(store.token_id());
                self.status.fingerprint = store.fingerprint().to_string();
                Ok(store)
            }
            Err((worker, error)) => {
                self.worker = Some(worker);
                Err(Down::from(&error))
            }
        }
    }

    fn start_worker(&mut self) -> Result<WorkerToken, TokenError> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => token_open::worker(&self.config.chosen)?,
        };
        let before = worker.restarts();
        let opened = worker.reopen();
        self.config.metrics.restarts.inc_by(worker.restarts().saturating_sub(before));
        match opened {
            Ok(()) => Ok(worker),
            Err(error) => {
                self.worker = Some(worker);
                Err(error)
            }
        }
    }

    /// Description, identity and login.
    fn prepare(&mut self, worker: &mut WorkerToken) -> Result<(), Down> {
        let down = |e: TokenError| Down::from(&e);
        let info = worker.info().map_err(down)?;
        self.status.capacity = worker.limits().objects_at_rest.map_or(0, |n| n as u64);
        self.status.info = Some(info.clone());
        self.status.epoch = worker.epoch();
        match identify(worker).map_err(|e| Down::from(&e))? {
            Presence::Present(id) => {
                self.status.token_id = Some(id);
                if let Some(named) = self.config.chosen.token_id.filter(|named| *named != id) {
                    let message = format!(
                        "the token is {id}, and {named} was named with --token-id; no PIN was given to it"
                    );
                    return Err(Down::new(
                        State::NotAdmitted,
                        Reason::TokenNotAdmitted,
                        message,
                        Wake::Later,
                    ));
                }
            }
            // Without an identity it may be blank, or have lost that one object: the store tells, after login.
            Presence::Absent | Presence::Unknown(_) => {}
        }
        let pin = self
            .pin
            .current()
            .map_err(|message| Down::new(State::Locked, Reason::PinMissing, message, Wake::NewPin))?;
        self.log_in(worker, &pin, &info)?;
        self.status.epoch = worker.epoch();
        Ok(())
    }

    fn log_in(&mut self, worker: &mut WorkerToken, pin: &Pin, info: &TokenInfo) -> Result<(), Down> {
        let begun = Instant::now();
        let before = worker.logins();
        let result = with_pin(&self.config.chosen, info, worker, |worker| worker.login(pin));
        // A try that the guard refused was not sent: it wears nothing and counts for nothing.
        self.logged_in = worker.logins() > before;
        if self.logged_in {
            if !info.software {
                self.budget.logged_in(begun);
            }
            let word = result.as_ref().map_or_else(|e| login_word(e.class), |()| "ok");
            self.config.metrics.login(word);
        }
        let outcome = result.as_ref().map_or_else(|e| OpError::from(e).result(), |()| "ok");
        self.config.metrics.operation("login", outcome, begun.elapsed());
        match result {
            Ok(()) => {
                self.pin.accepted();
                Ok(())
            }
            Err(error) => {
                if matches!(
                    error.class,
                    ErrorClass::PinIncorrect | ErrorClass::PinLength | ErrorClass::PinLocked
                ) {
                    self.pin.refused(pin);
                }
                // The flags after the try, for the status.
                if let Ok(info) = worker.info() {
                    self.status.info = Some(info);
                }
                Err(Down::from(&error))
            }
        }
    }
}

const fn login_word(class: ErrorClass) -> &'static str {
    match class {
        ErrorClass::PinIncorrect => "incorrect",
        ErrorClass::PinLength => "length",
        ErrorClass::PinLocked => "locked",
        _ => "error",
    }
}
