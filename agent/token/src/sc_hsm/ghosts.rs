//! Ghosts: descriptions of data objects whose value is gone. PKCS#11 cannot remove them, and each takes one of the
//! places for objects.

use super::apdu::{Apdu, Expect, StatusWord};
use super::{ScHsm, USER_PIN};
use crate::pin_memory::PinMemory;
use crate::pkcs11::{PinTry, Verdict};
use crate::{ErrorClass, Pin, TokenError};

/// The first byte of the files of a data object.
const DESCRIPTION: u8 = 0xC9;
const PRIVATE_VALUE: u8 = 0xCD;
const PUBLIC_VALUE: u8 = 0xCF;

/// What came of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The ghosts that are gone, by the second byte of their file's identifier.
    pub removed: Vec<u8>,
    /// Those that the card would not remove.
    pub left: Vec<u8>,
}

impl ScHsm<'_> {
    /// The ghosts, by the second byte of their file's identifier. No login: a file is selected, not read. A file whose
    /// absence the card does not state is no ghost, nor one whose description cannot be selected, which shows that the
    /// card selects files by their identifiers at all.
    pub fn ghosts(&mut self, operation: &'static str) -> Result<Vec<u8>, TokenError> {
        let described = self.list_files(operation)?.into_iter().filter(|[kind, _]| *kind == DESCRIPTION);
        let mut ghosts = Vec::new();
        for [_, id] in described {
            if self.is_ghost(id, operation)? {
                ghosts.push(id);
            }
        }
        Ok(ghosts)
    }

    fn is_ghost(&mut self, id: u8, operation: &'static str) -> Result<bool, TokenError> {
        Ok(self.select_file([PRIVATE_VALUE, id], operation)? == StatusWord::FILE_NOT_FOUND
            && self.select_file([PUBLIC_VALUE, id], operation)? == StatusWord::FILE_NOT_FOUND
            && self.select_file([DESCRIPTION, id], operation)? == StatusWord::OK)
    }

    fn select_file(&mut self, file: [u8; 2], operation: &'static str) -> Result<StatusWord, TokenError> {
        let select = Apdu::new([0x00, 0xA4, 0x00, 0x00], &file, Expect::Short);
        Ok(self.exchange(operation, &select)?.status)
    }

    /// Removes every ghost, with one login under the guard that stands before all logins: see
    /// [`crate::pkcs11::Pkcs11Token`]. Each is looked at again after the login, as PKCS#11 would see it then: what can be
    /// read is not removed. Leaves the card logged out. Without a ghost there is no login.
    ///
    /// Errors: those of a login. `Module` where the card fails in the middle; what it removed until then is gone.
    pub fn remove_ghosts(
        mut self,
        pin: &Pin,
        memory: &mut PinMemory,
        operation: &'static str,
    ) -> Result<Repaired, TokenError> {
        let ghosts = self.ghosts(operation)?;
        if ghosts.is_empty() {
            return Ok(Repaired::default());
        }
        self.verify(pin, memory, operation)?;
        let removed = self.delete_each(&ghosts, operation);
        // Whatever came of it, nobody stays logged in.
        let left_logged_out = ScHsm::select(self.channel, operation).map(drop);
        let repaired = removed?;
        left_logged_out?;
        Ok(repaired)
    }

    fn delete_each(&mut self, ghosts: &[u8], operation: &'static str) -> Result<Repaired, TokenError> {
        let mut tried = Vec::new();
        for id in ghosts {
            if self.is_ghost(*id, operation)? {
                self.delete_ghost(*id, operation)?;
                tried.push(*id);
            }
        }
        let still_there = self.list_files(operation)?;
        let (left, removed) = tried.into_iter().partition(|id| still_there.contains(&[DESCRIPTION, *id]));
        Ok(Repaired { removed, left })
    }

    /// DELETE FILE. That the card refuses one is seen in the list afterwards.
    fn delete_ghost(&mut self, id: u8, operation: &'static str) -> Result<(), TokenError> {
        let delete = Apdu::new([0x00, 0xE4, 0x02, 0x00], &[DESCRIPTION, id], Expect::Nothing);
        let answer = self.exchange(operation, &delete)?;
        match answer.status {
            StatusWord::SECURITY => Err(answer.status.error(
                ErrorClass::SessionLost,
                operation,
                "the card has forgotten the login",
            )),
            status => {
                if status != StatusWord::OK {
                    tracing::warn!(?status, id, "The card does not remove a ghost.");
                }
                Ok(())
            }
        }
    }

    fn verify(
        &mut self,
        pin: &Pin,
        memory: &mut PinMemory,
        operation: &'static str,
    ) -> Result<(), TokenError> {
        let flags = self.status(operation)?.pin_flags();
        let attempt = PinTry::login(memory, operation, flags, pin)?;
        let verify = Apdu::new([0x00, 0x20, 0x00, USER_PIN], pin.expose().as_bytes(), Expect::Nothing);
        let answer = self.exchange(operation, &verify);
        let result = answer.and_then(|answer| match answer.status {
            StatusWord::OK => Ok(()),
            StatusWord::WRONG_LENGTH => Err(answer.status.error(
                ErrorClass::PinLength,
                operation,
                "the card takes no PIN of this length",
            )),
            StatusWord::BLOCKED => Err(answer.status.error(ErrorClass::PinLocked, operation, "no login")),
            status if status.tries_left().is_some() => {
                let what = "the PIN is wrong and one try was used; give another PIN";
                Err(status.error(ErrorClass::PinIncorrect, operation, what))
            }
            status => Err(status.error(
                ErrorClass::Module,
                operation,
                "the card does not say whether the PIN is right",
            )),
        });
        attempt.judged(memory, Verdict::of(result.as_ref().copied()))?;
        result
    }
}
