//! Making a store on a blank token at the controller's word. Never by itself.

use std::time::Duration;

use hsm_store::{Options, Store};
use hsm_token::pkcs11::{BlankSlot, TokenSelector};
use hsm_token::worker::init_software_token;
use hsm_token::{Pin, Token as _};
use hsm_types::TokenId;

use super::State;
use super::handle::{Initialize, Opened};
use super::pin::Owner;
use super::thread::Actor;
use crate::error::{Kind, OpError};
use crate::state::{Admissions, By, Tie};
use crate::token_open::{self, lock_path, with_pin};

const LIMIT: Duration = Duration::from_mins(1);

fn refused(message: &str) -> OpError {
    OpError::new(Kind::Refused, None, message)
}

impl Actor {
    /// Only for a token that is positively blank, or absent where the module can make a software token of the label
    /// that this agent was told to serve.
    pub(super) fn initialize(&mut self, request: &Initialize) -> Result<TokenId, OpError> {
        match self.status.state {
            State::Blank => {}
            State::Absent => self.make_software_token(request)?,
            _ => return Err(refused("the token is not known to be blank; nothing was changed")),
        }
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => token_open::worker(&self.config.chosen)?,
        };
        let made: Result<_, OpError> = (|| {
            worker.reopen()?;
            let info = worker.info()?;
            let chosen = &self.config.chosen;
            with_pin(chosen, &info, &mut worker, |worker| worker.login(&request.pin))?;
            let mut options = Options::new(lock_path(&chosen.runtime_dir, &info));
            let identity = Store::format(&mut worker, None, &mut options)?;
            Ok((identity, Tie::of(&info)))
        })();
        self.worker = Some(worker);
        let (identity, tie) = made?;
        let token_id = identity.token_id;
        // Whoever made it here says by that that it takes part.
        Admissions::load(&self.config.chosen.state_dir)
            .and_then(|mut book| {
                book.admit(token_id, Some(&identity.fingerprint.to_string()), tie.clone(), By::Person)
            })
            .map_err(|e| {
                OpError::new(Kind::Internal, None, format!("{token_id} was made, but not admitted: {e}"))
            })?;
        let owner = Owner { token_id: Some(token_id), tie };
        self.pin.give(request.pin.duplicate(), Some(owner));
        self.blank = None;
        Ok(token_id)
    }

    fn make_software_token(&self, request: &Initialize) -> Result<(), OpError> {
        let chosen = &self.config.chosen;
        match &chosen.token {
            TokenSelector::Label(label) if *label == request.label => {}
            TokenSelector::Label(label) => {
                return Err(refused(&format!(
                    "this agent serves the token with the label {label:?}; give that one"
                )));
            }
            TokenSelector::Only
            | TokenSelector::Slot(_)
            | TokenSelector::Serial(_)
            | TokenSelector::Reader(_) => {
                return Err(refused("this agent was not told a label (--token-label), so it makes no token"));
            }
        }
        let program = token_open::program()
            .map_err(|e| OpError::new(Kind::Internal, None, format!("our own program is not found: {e}")))?;
        let Initialize { label, pin, so_pin } = request;
        init_software_token(&program, LIMIT, &chosen.module, BlankSlot::First, label, so_pin, pin)?;
        Ok(())
    }

    /// Changes the PIN of the open token. The file still has the old one, so the new one is kept for later epochs.
    pub(super) fn change_pin(&mut self, store: &mut Opened, old: &Pin, new: &Pin) -> Result<(), OpError> {
        let info = self.status.info.clone().unwrap_or_default();
        with_pin(&self.config.chosen, &info, store.token(), |worker| worker.change_pin(old, new))?;
        self.pin.give(new.duplicate(), self.pin.owner().cloned());
        Ok(())
    }
}
