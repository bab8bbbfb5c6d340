//! The start of an epoch: worker, description, identity, PIN, login, store.

use std::time::Instant;

use hsm_store::{Encryption, Options, Store};
use hsm_token::worker::{OpenscSettings, WorkerToken};
use hsm_token::{ErrorClass, Pin, Token as _, TokenError, TokenInfo};
use hsm_types::{Presence, TokenId};

use super::State;
use super::down::{Down, Wake};
use super::handle::Opened;
use super::peers::Sighting;
use super::thread::Actor;
use crate::error::OpError;
use crate::reason::Reason;
use crate::state::{Tie, TokenFacts, encryption_of};
use crate::token_open::{self, identify, lock_path, with_pin};

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
        (self.status.shadow, self.refused_key) = (false, None);
        let mut worker = self.start_worker().map_err(|e| Down::from(&e))?;
        let tie = match self.prepare(&mut worker) {
            Ok(tie) => tie,
            Err(down) => {
                self.worker = Some(worker);
                return Err(down);
            }
        };
        let info = self.status.info.clone().unwrap_or_default();
        let mut options = Options::new(lock_path(&self.config.chosen.runtime_dir, &info));
        options.encryption = self.encryption();
        match Store::open(worker, options) {
            Ok(store) => self.accept(store, &tie),
            Err((worker, error)) => {
                self.worker = Some(worker);
                let down = Down::from(&error);
                if down.state == State::Blank && !info.software {
                    self.blank = Some((tie, down.clone()));
                }
                Err(down)
            }
        }
    }

    /// The store is open: is it the token that was admitted?
    fn accept(&mut self, store: Opened, tie: &Tie) -> Result<Opened, Down> {
        let identity = store.identity();
        let shown = self.seen.as_ref().map(|seen| seen.token_id);
        self.status.fingerprint = identity.fingerprint.to_string();
        // The identity object is lost or altered where the two differ: the seal tells which token it is.
        let checked = match shown {
            Some(id) if id == identity.token_id => Ok(()),
            _ => {
                self.sees(identity.token_id, tie);
                self.admit(identity.token_id, tie)
            }
        };
        match checked.and_then(|()| self.pin_key(&identity)) {
            Ok(()) => {
                self.status.token_id = Some(identity.token_id);
                Ok(store)
            }
            Err(down) => {
                let mut worker = store.into_token();
                // Without a login while it waits for a person.
                drop(worker.reopen());
                self.worker = Some(worker);
                Err(down)
            }
        }
    }

    /// How new versions of records are written on the token that is there: as the HSMDevices that mean it say, else as
    /// the flags do. Said once when it is not as before.
    pub(super) fn encryption(&mut self) -> Encryption {
        let info = self.status.info.clone().unwrap_or_default();
        let token = TokenFacts::of(&self.config.chosen.module, &info);
        let now = self.config.configured.borrow();
        let encryption = encryption_of(&now.devices, &token, self.config.encryption);
        drop(now);
        if encryption != self.encryption {
            let token_id = self.status.token_id.map(|id| id.to_string()).unwrap_or_default();
            match encryption {
                Encryption::None => tracing::warn!(
                    token_id,
                    "New versions of records are written to the token in clear from now on, as was configured."
                ),
                Encryption::Envelope => {
                    tracing::info!(token_id, "New versions of records are sealed on the token from now on.");
                }
            }
            self.encryption = encryption;
        }
        encryption
    }

    fn start_worker(&mut self) -> Result<WorkerToken, TokenError> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => token_open::worker(&self.config.chosen)?,
        };
        // Of effect on OpenSC alone: each worker has the card of its own reader, and no other.
        worker.set_opensc(Some(OpenscSettings {
            exclusive: self.config.reread.is_none(),
            other_readers: self.config.peers.other_readers(self.config.place),
            ..OpenscSettings::new(&self.config.chosen.runtime_dir)
        }));
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

    /// Description, identity, admission and login.
    fn prepare(&mut self, worker: &mut WorkerToken) -> Result<Tie, Down> {
        let down = |e: TokenError| Down::from(&e);
        let info = worker.info().map_err(down)?;
        self.status.capacity = worker.limits().objects_at_rest.map_or(0, |n| n as u64);
        self.status.info = Some(info.clone());
        self.status.epoch = worker.epoch();
        let tie = Tie::of(&info);
        self.status.usb_serial = tie.usb().cloned();
        if !info.software {
            self.config.peers.reader(self.config.place, &info.slot_description);
        }
        let token_id = match identify(&self.config.chosen, &info, worker).map_err(|e| Down::from(&e))? {
            Presence::Present(id) => {
                self.sees(id, &tie);
                self.admit(id, &tie)?;
                Some(id)
            }
            // Without an identity it may be blank, or have lost that one object: the store tells, after login.
            Presence::Absent => {
                self.sees_nobody();
                self.admit_nameless(&tie, "the token has no identity of ours")?;
                None
            }
            Presence::Unknown(why) => {
                self.sees_nobody();
                self.admit_nameless(&tie, &why.to_string())?;
                None
            }
        };
        self.pin.set_token(token_id, &info);
        // A token that was found blank needs no second login to be blank again.
        match self.blank.take() {
            Some((known, down)) if token_id.is_none() && known == tie => {
                self.blank = Some((known, down.clone()));
                return Err(down);
            }
            _ => {}
        }
        let pin = self
            .pin
            .current()
            .map_err(|message| Down::new(State::Locked, Reason::PinMissing, message, Wake::NewPin))?;
        self.budget.set_token(&self.config.chosen.state_dir, &info).map_err(down)?;
        self.budget.afford()?;
        self.log_in(worker, &pin, &info)?;
        self.status.epoch = worker.epoch();
        Ok(tie)
    }

    /// Notes which token is there.
    fn sees(&mut self, token_id: TokenId, tie: &Tie) {
        self.status.token_id = Some(token_id);
        self.seen = Some(Sighting { token_id, tie: tie.clone() });
    }

    /// Something is there, and does not say what it is.
    fn sees_nobody(&mut self) {
        self.status.token_id = None;
        self.status.fingerprint.clear();
        self.seen = None;
    }

    fn log_in(&mut self, worker: &mut WorkerToken, pin: &Pin, info: &TokenInfo) -> Result<(), Down> {
        let begun = Instant::now();
        let before = worker.logins();
        let result = with_pin(&self.config.chosen, info, worker, |worker| worker.login(pin));
        // A try that the guard refused was not sent: it wears nothing and counts for nothing.
        self.logged_in = worker.logins() > before;
        if self.logged_in {
            self.budget.logged_in();
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
