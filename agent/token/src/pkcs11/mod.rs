//! PKCS#11 behind the [`Token`] port, over any module (PKCS#11 2.40 and 3.x).
//!
//! A [`Pkcs11Token`] is one epoch: C_Initialize, one session, C_Finalize when dropped. After an error that ends the
//! epoch it refuses everything; open a new one. A process holds one at a time, and because a module can block for ever
//! the agent does not use this directly but through [`crate::worker::WorkerToken`].
//!
//! # What it costs, in calls to the module
//!
//! | | calls |
//! |---|---|
//! | open | C_Initialize, C_GetInfo, C_GetSlotList (2), C_OpenSession, and 2 for each token that is there |
//! | `info`, `still_there` | 1 |
//! | `login`, a change of the PIN | 2: the flags first |
//! | `list` | 3 for up to 255 objects, and 2 for each object that this epoch has not listed or made |
//! | `read` | 2: the size, then the value |
//! | `create`, `destroy`, `random` | 1 |
//! | `find_key_pair` | 6, and 2 for the point; `derive` 7 |
//!
//! A listing takes one handle a call, and so one call more for each object, from a module that is not known to fill
//! its answers (SoftHSM and OpenSC are).
//!
//! # What is wiped
//!
//! PINs and values are, in every buffer of ours and in cryptoki's `AuthPin`. cryptoki reads a value into a buffer of
//! its own and frees that as it is, and the module has copies of which we know nothing (OpenSC keeps values that it
//! read until C_Finalize). The worker process has glibc overwrite whatever is freed, and ends with the epoch.

mod ec_point;
mod handles;
mod init;
mod keys;
mod module;
mod objects;
mod pin_guard;
mod pin_try;
mod return_values;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cryptoki::error::Error;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use handles::Handles;
use module::{Found, Module};
pub(crate) use pin_try::{PinTry, Verdict};
use return_values::token_error;

use crate::pin_memory::{Known, PinMemory};
use crate::{
    ErrorClass, Limits, ObjectHandle, ObjectInfo, Pin, PinFlags, Token, TokenError, TokenInfo, TokenListing,
    Visibility,
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
    /// Whether a short answer of C_FindObjects is the last one.
    fills_answers: bool,
    /// The slot's description, which does not change in an epoch.
    slot_description: String,
    /// On a software token: what the last listing showed, by the module's handles, and what was made since.
    listed: Option<BTreeSet<u64>>,
    /// What objects say of themselves, by the module's handles; `None` for what is not data.
    described: BTreeMap<u64, Option<ObjectInfo>>,
    memory: PinMemory,
}

impl Pkcs11Token {
    /// Loads the module and opens a session; no login. `epoch` is the number of this epoch, chosen by the caller,
    /// higher than any before.
    ///
    /// Errors: `Module` where the module cannot be loaded, `TokenAbsent` where no such token is there (the message
    /// lists what is), `Unreachable` where its reader is there and shows no token, `Invalid` where the selector fits
    /// several.
    pub fn open(config: &Pkcs11Config, epoch: u64) -> Result<Self, TokenError> {
        let module = Module::load(&config.module, "open")?;
        let found = module.select(&config.token, "open")?;
        let session = module.context()?.open_rw_session(found.slot).map_err(|e| token_error("open", &e))?;
        let module_is_opensc = module.is_opensc();
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
            fills_answers: found.info.software || module_is_opensc,
            slot_description: found.info.slot_description,
            described: BTreeMap::new(),
            listed: None,
            memory: PinMemory::ephemeral()?,
        })
    }

    /// Where failed PINs are remembered from now on. Without it they are remembered until this value is dropped.
    pub fn remember_pins(&mut self, memory: PinMemory) {
        self.memory = memory;
    }

    /// The reader whose card was logged in to in this epoch and has to be left logged out, once the module is finalised:
    /// OpenSC does not do it from 0.24 on.
    #[cfg(feature = "pcsc")]
    pub(crate) fn reader_to_leave(&self) -> Option<String> {
        (!self.software && self.logins > 0).then(|| self.slot_description.clone())
    }

    /// How many tries were sent to the token in this epoch, right or wrong. Each costs a flash erase on a Pico HSM.
    pub fn logins(&self) -> u64 {
        self.logins
    }

    /// Changes the user PIN (C_SetPIN). Logs in with the old one first where that was not done, so that a wrong one is
    /// found out by a login: a new epoch begins. The guard stands before both.
    ///
    /// The memory notes the change before it is made. When its outcome is not known (a crash, an error that ends the
    /// epoch), a login with either of the two values, each at most once, says which is the PIN, and nothing else is
    /// sent. The new value first costs no try where the change was made; where the memory knows of no change
    /// ([`PinMemory::change_under_way`]) none was begun, and the old value goes first. After that, or after `Ok`, the other value is
    /// known to be wrong, also to whoever still has the old file.
    pub fn change_pin(&mut self, old: &Pin, new: &Pin) -> Result<(), TokenError> {
        const OPERATION: &str = "change_pin";
        self.live(OPERATION)?;
        if let Some(accepted) = &self.accepted {
            if accepted.expose() != old.expose() {
                return Err(TokenError::new(
                    ErrorClass::PinIncorrect,
                    OPERATION,
                    "the old PIN is not the one that the token is logged in with; it was not tried",
                ));
            }
        } else {
            self.flags_before_try(OPERATION, &[old, new])?;
            self.login(old)?;
        }
        let flags = self.flags_before_try(OPERATION, &[old, new])?;
        let attempt = PinTry::change(&mut self.memory, OPERATION, flags, old, new)?;
        self.logins += 1;
        let answer = self.session.set_pin(&auth(old), &auth(new));
        self.judged(attempt, answer, OPERATION)?;
        self.accepted = Some(new.duplicate());
        Ok(())
    }

    /// What the module says of the token now.
    fn look(&mut self, operation: &'static str) -> Result<Found, TokenError> {
        let description = self.slot_description.clone();
        self.module.look_in(self.slot, description, operation).map_err(|error| self.note(error))
    }

    /// The flags now, if the token lets anybody try, and takes PINs of these lengths.
    fn flags_before_try(&mut self, operation: &'static str, pins: &[&Pin]) -> Result<PinFlags, TokenError> {
        let found = self.look(operation)?;
        pin_guard::permit(operation, found.info.pin, Known::Nothing)?;
        for pin in pins {
            pin_guard::fits(operation, pin, found.lengths)?;
        }
        Ok(found.info.pin)
    }

    /// Remembers what the token said of the PIN.
    fn judged(
        &mut self,
        attempt: PinTry,
        answer: Result<(), Error>,
        operation: &'static str,
    ) -> Result<(), TokenError> {
        let answer = answer.map_err(|error| token_error(operation, &error));
        let verdict = Verdict::of(answer.as_ref().copied());
        if let Err(trouble) = attempt.judged(&mut self.memory, verdict) {
            // Still noted as under way on the disk, which is enough not to try a wrong value twice.
            tracing::warn!(error = %trouble, "The memory of failed PINs is not up to date.");
        }
        answer.map_err(|error| self.note(error))
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
        Ok(self.look("info")?.info)
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
        let flags = self.flags_before_try(OPERATION, &[pin])?;
        let attempt = PinTry::login(&mut self.memory, OPERATION, flags, pin)?;
        self.logins += 1;
        let answer = self.session.login(UserType::User, Some(&auth(pin)));
        self.judged(attempt, answer, OPERATION)?;
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
