//! PKCS#11 behind the [`Token`] port, over any module (PKCS#11 2.40 and 3.x).
//!
//! A [`Pkcs11Token`] is one epoch: C_Initialize, one session, C_Finalize when dropped. After an error that ends the
//! epoch it refuses everything; open a new one. A process holds one at a time, and because a module can block for ever
//! the agent does not use this directly but through [`crate::worker::WorkerToken`].

mod ec_point;
mod handles;
mod init;
mod keys;
mod module;
mod objects;
mod pin_guard;
mod return_values;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cryptoki::error::Error;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use handles::Handles;
use module::Module;
use return_values::token_error;

use crate::pin_memory::{PinDigest, PinMemory};
use crate::{
    ErrorClass, Limits, ObjectHandle, ObjectInfo, Pin, Token, TokenError, TokenInfo, TokenListing, Visibility,
};

pub use init::{BlankSlot, init_software_token};
pub use module::TokenSelector;
pub(crate) use module::same_reader;

/// One token that a module shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// What the module says of it.
    pub info: TokenInfo,
    /// Whether it is initialised (CKF_TOKEN_INITIALIZED): has a label and an SO-PIN.
    pub initialized: bool,
}

/// Every token that a module shows, initialised or not. Loads and finalises the module, so that it is for a process of
/// its own: [`crate::worker::survey`].
///
/// On hardware, C_Initialize connects the card in every reader: where others hold one, this disturbs them or fails.
pub fn survey(module: &Path) -> Result<Vec<Surveyed>, TokenError> {
    let tokens = Module::load(module, "survey")?.tokens("survey")?;
    Ok(tokens
        .into_iter()
        .map(|found| Surveyed { info: found.info, initialized: found.initialized })
        .collect())
}

/// Which token, through which module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11Config {
    /// The PKCS#11 module's shared library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenSelector,
}

/// A token through a PKCS#11 module in this process: one epoch of it.
pub struct Pkcs11Token {
    // Dropped in this order: the session is closed before the module is finalised.
    session: Session,
    module: Module,
    slot: Slot,
    limits: Limits,
    epoch: u64,
    /// The error that ended the epoch.
    ended: Option<TokenError>,
    /// The PIN that the token took.
    accepted: Option<Pin>,
    logins: u64,
    handles: Handles,
    /// Whether changes by others show at once, and handles are never given twice.
    software: bool,
    /// On a software token: what the last listing showed, by the module's handles, and what was made since.
    listed: Option<BTreeSet<u64>>,
    /// What these say of themselves; `None` for what is not data.
    described: BTreeMap<u64, Option<ObjectInfo>>,
    memory: PinMemory,
}

impl Pkcs11Token {
    /// Loads the module and opens a session; no login. `epoch` is the number of this epoch, chosen by the caller,
    /// higher than any before.
    ///
    /// Errors: `Module` where the module cannot be loaded, `TokenAbsent` where no such token is there (the message
    /// lists what is), `Invalid` where the selector fits several.
    pub fn open(config: &Pkcs11Config, epoch: u64) -> Result<Self, TokenError> {
        let module = Module::load(&config.module, "open")?;
        let found = module.select(&config.token, "open")?;
        let session = module.context()?.open_rw_session(found.slot).map_err(|e| token_error("open", &e))?;
        Ok(Self {
            session,
            module,
            slot: found.slot,
            limits: if found.info.software { Limits::SOFTWARE } else { Limits::SC_HSM },
            epoch,
            ended: None,
            accepted: None,
            logins: 0,
            handles: Handles::new(epoch),
            software: found.info.software,
            described: BTreeMap::new(),
            listed: None,
            memory: PinMemory::ephemeral()?,
        })
    }

    /// Where failed PINs are remembered from now on. Without it they are remembered until this value is dropped.
    pub fn remember_pins(&mut self, memory: PinMemory) {
        self.memory = memory;
    }

    /// How many tries were sent to the token in this epoch, right or wrong. Each costs a flash erase on a Pico HSM.
    pub fn logins(&self) -> u64 {
        self.logins
    }

    /// Changes the user PIN (C_SetPIN). The same guard as for a login stands before it.
    pub fn change_pin(&mut self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        const OPERATION: &str = "change_pin";
        self.live(OPERATION)?;
        let digest = self.may_try(OPERATION, old, &[old, new])?;
        let answer = self.session.set_pin(&auth(old), &auth(new));
        self.judged(&digest, answer, OPERATION)?;
        if self.accepted.is_some() {
            self.accepted = Some(new.duplicate());
        }
        Ok(())
    }

    /// Asks the guard, and notes the try that is about to be made. All of `lengths` must have lengths that fit.
    fn may_try(
        &mut self,
        operation: &'static str,
        pin: &Pin,
        lengths: &[&Pin],
    ) -> Result<PinDigest, TokenError> {
        let found = match self.module.look(self.slot, operation) {
            Ok(found) => found,
            Err(error) => return Err(self.note(error)),
        };
        let digest = self.memory.digest(pin);
        pin_guard::permit(operation, found.info.pin, self.memory.known(&digest)).map_err(|mut error| {
            if let (ErrorClass::PinIncorrect, Some(path)) = (error.class, self.memory.path()) {
                let _ = write!(
                    error.message,
                    " (if the token's PIN has been set to this one since, remove {})",
                    path.display()
                );
            }
            error
        })?;
        for pin in lengths {
            pin_guard::fits(operation, pin, found.lengths)?;
        }
        self.memory.begin(&digest)?;
        self.logins += 1;
        Ok(digest)
    }

    /// Remembers what the token said of the PIN.
    fn judged(
        &mut self,
        digest: &PinDigest,
        answer: Result<(), Error>,
        operation: &'static str,
    ) -> Result<(), TokenError> {
        let (noted, result) = match answer {
            Ok(()) => (self.memory.worked(), Ok(())),
            Err(error) => {
                let error = token_error(operation, &error);
                let noted = match error.class {
                    ErrorClass::PinIncorrect => self.memory.failed(digest),
                    ErrorClass::PinLength | ErrorClass::Invalid => self.memory.not_judged(digest),
                    // Stays pending: the flags will say whether the try was used.
                    _ => Ok(()),
                };
                (noted, Err(self.note(error)))
            }
        };
        if let Err(trouble) = noted {
            // Still noted as pending on the disk, which is enough not to try a wrong value twice.
            tracing::warn!(error = %trouble, "The memory of failed PINs is not up to date.");
        }
        result
    }

    /// Refuses everything after an error that ended the epoch.
    fn live(&self, operation: &'static str) -> Result<(), TokenError> {
        match &self.ended {
            None => Ok(()),
            Some(error) => Err(TokenError::new(
                ErrorClass::SessionLost,
                operation,
                format!("the session ended with an earlier error: {error}"),
            )),
        }
    }

    fn fail(&mut self, operation: &'static str, error: &Error) -> TokenError {
        let error = token_error(operation, error);
        self.note(error)
    }

    /// Keeps the error that ends the epoch. "Log in first" after a login means that the login is gone.
    fn note(&mut self, mut error: TokenError) -> TokenError {
        if error.class == ErrorClass::PinRequired && self.accepted.is_some() && error.code.is_some() {
            error.class = ErrorClass::SessionLost;
            "the token has forgotten the login (a reset, or another program); it is opened anew"
                .clone_into(&mut error.message);
        }
        if error.ends_epoch() && self.ended.is_none() {
            self.ended = Some(error.clone());
        }
        error
    }

    /// Whether the session is what it was, so that an error concerns one object only.
    fn session_alive(&self) -> bool {
        let expected = |state| match state {
            SessionState::RwUser => self.accepted.is_some(),
            SessionState::RwPublic => self.accepted.is_none(),
            _ => false,
        };
        self.session.get_session_info().is_ok_and(|info| expected(info.session_state()))
    }
}

impl Token for Pkcs11Token {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn info(&mut self) -> Result<TokenInfo, TokenError> {
        self.live("info")?;
        match self.module.look(self.slot, "info") {
            Ok(found) => Ok(found.info),
            Err(error) => Err(self.note(error)),
        }
    }

    /// One call, C_GetSessionInfo. Only after a bad answer C_GetSlotInfo is asked, to tell a token that went away from
    /// one on which somebody started: OpenSC 0.23 answers that with an invalid handle, 0.27 with a public session.
    fn still_there(&mut self) -> Result<(), TokenError> {
        const OPERATION: &str = "still_there";
        self.live(OPERATION)?;
        let error = match self.session.get_session_info().map(|info| info.session_state()) {
            Ok(SessionState::RwUser) => return Ok(()),
            Ok(SessionState::RwPublic) if self.accepted.is_none() => return Ok(()),
            Ok(_) => TokenError::new(
                ErrorClass::SessionLost,
                OPERATION,
                "somebody started on this token and our login is gone; it is opened anew",
            ),
            Err(error) => token_error(OPERATION, &error),
        };
        let slot = self.module.context()?.get_slot_info(self.slot);
        let error = if slot.is_ok_and(|slot| !slot.token_present()) {
            TokenError {
                class: ErrorClass::TokenAbsent,
                message: "the token is not in its slot; plug it in".to_owned(),
                ..error
            }
        } else {
            error
        };
        Err(self.note(error))
    }

    fn login(&mut self, pin: &Pin) -> Result<(), TokenError> {
        const OPERATION: &str = "login";
        self.live(OPERATION)?;
        if let Some(accepted) = &self.accepted {
            if accepted.expose() == pin.expose() {
                return Ok(());
            }
            return Err(TokenError::new(
                ErrorClass::Invalid,
                OPERATION,
                "the token is logged in with another PIN; open it anew to try this one",
            ));
        }
        let digest = self.may_try(OPERATION, pin, &[pin])?;
        let answer = self.session.login(UserType::User, Some(&auth(pin)));
        self.judged(&digest, answer, OPERATION)?;
        self.accepted = Some(pin.duplicate());
        // A listing from before the login lacks the private objects: it is void.
        self.epoch += 1;
        self.handles = Handles::new(self.epoch);
        self.described.clear();
        self.listed = None;
        Ok(())
    }

    fn list(&mut self) -> Result<TokenListing, TokenError> {
        self.list_objects()
    }

    fn read(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.read_object(handle)
    }

    fn create(
        &mut self,
        label: &str,
        visibility: Visibility,
        value: &[u8],
    ) -> Result<ObjectHandle, TokenError> {
        self.create_object(label, visibility, value)
    }

    fn destroy(&mut self, handle: ObjectHandle) -> Result<(), TokenError> {
        self.destroy_object(handle)
    }

    fn random(&mut self, len: usize) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.live("random")?;
        let mut bytes = Zeroizing::new(vec![0; len]);
        match self.session.generate_random_slice(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(e) => Err(self.fail("random", &e)),
        }
    }

    fn find_key_pair(&mut self, label: &str) -> Result<Option<Vec<u8>>, TokenError> {
        self.find_pair(label)
    }

    fn generate_key_pair(&mut self, label: &str) -> Result<Vec<u8>, TokenError> {
        self.generate_pair(label)
    }

    fn destroy_key_pair(&mut self, label: &str) -> Result<(), TokenError> {
        self.destroy_pair(label)
    }

    fn derive(&mut self, label: &str, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        self.derive_secret(label, peer)
    }
}

impl Drop for Pkcs11Token {
    fn drop(&mut self) {
        // Only where it can answer; OpenSC before 0.24 clears the token's login flag by it.
        if self.accepted.is_some() && self.ended.is_none() {
            let _ = self.session.logout();
        }
    }
}

/// A copy for cryptoki, which wipes it when dropped. Neither step reallocates.
fn auth(pin: &Pin) -> AuthPin {
    AuthPin::from(pin.expose().to_owned())
}
