//! Slots, tokens and sessions.

use cryptoki_sys as ck;

use super::{Login, Process, Session};
use crate::context::{Context, trouble};
use crate::rv::{Done, Rv};
use crate::settings::OpenSc;

/// CK_TOKEN_INFO, without its form in C.
pub(crate) struct Information {
    pub(crate) label: String,
    pub(crate) manufacturer: String,
    pub(crate) model: String,
    pub(crate) serial: String,
    pub(crate) flags: ck::CK_FLAGS,
    pub(crate) pin_min: usize,
    pub(crate) pin_max: usize,
    pub(crate) firmware: (u8, u8),
}

impl Process {
    /// The slots; looking for new ones is part of it, as in OpenSC.
    pub(crate) fn slot_list(&mut self, context: &mut Context, with_token: bool) -> Done<Vec<ck::CK_SLOT_ID>> {
        self.detect(context)?;
        let mut list = Vec::new();
        for slot in 0..self.slots.len() {
            if !with_token || self.connected(slot) {
                list.push(slot as ck::CK_SLOT_ID);
            }
        }
        Ok(list)
    }

    /// The reader's name, and whether a card is in it.
    pub(crate) fn slot_info(&mut self, context: &mut Context, id: ck::CK_SLOT_ID) -> Done<(String, bool)> {
        let slot = self.slot(id)?;
        self.detect(context)?;
        Ok((self.slots[slot].reader.clone(), self.connected(slot)))
    }

    /// The slot, if its card is there; a card that another process holds exclusively is not called absent.
    fn present(&mut self, context: &mut Context, id: ck::CK_SLOT_ID) -> Done<usize> {
        let slot = self.slot(id)?;
        self.detect(context)?;
        if self.connected(slot) {
            return Ok(slot);
        }
        let lock = self.disk.lock().map_err(trouble)?;
        let same_pcscd = self.disk.pcscd().map_err(trouble)? == self.pcscd;
        let there = self.disk.card(&self.slots[slot].reader).map_err(trouble)?.is_some();
        drop(lock);
        Err(if there && same_pcscd { Rv::CKR_DEVICE_ERROR } else { Rv::CKR_TOKEN_NOT_PRESENT })
    }

    pub(crate) fn token_info(&mut self, context: &mut Context, id: ck::CK_SLOT_ID) -> Done<Information> {
        let slot = self.present(context, id)?;
        self.on_card(slot, Rv::CKR_TOKEN_NOT_PRESENT, |process, card| {
            context.apdus(card, 1);
            let settings = &process.settings;
            let mut flags = ck::CKF_RNG | ck::CKF_LOGIN_REQUIRED;
            if !card.head.is_blank() {
                flags |= ck::CKF_TOKEN_INITIALIZED | ck::CKF_USER_PIN_INITIALIZED;
                let tries = card.head.tries;
                if tries < settings.pin_tries {
                    flags |= ck::CKF_USER_PIN_COUNT_LOW;
                }
                flags |= match tries {
                    0 => ck::CKF_USER_PIN_LOCKED,
                    1 => ck::CKF_USER_PIN_FINAL_TRY,
                    _ => 0,
                };
            }
            Ok(Information {
                label: settings.token_label.clone(),
                manufacturer: settings.manufacturer.clone(),
                model: settings.model.clone(),
                serial: settings.serial.clone(),
                flags,
                pin_min: settings.pin_min,
                pin_max: settings.pin_max,
                firmware: settings.firmware,
            })
        })
    }

    pub(crate) fn open_session(
        &mut self,
        context: &mut Context,
        id: ck::CK_SLOT_ID,
        flags: ck::CK_FLAGS,
    ) -> Done<ck::CK_SESSION_HANDLE> {
        if flags & ck::CKF_SERIAL_SESSION == 0 {
            return Err(Rv::CKR_SESSION_PARALLEL_NOT_SUPPORTED);
        }
        let slot = self.present(context, id)?;
        self.next_session += 1;
        let session = Session {
            slot,
            writable: flags & ck::CKF_RW_SESSION != 0,
            search: None,
            secrets: std::collections::BTreeMap::new(),
        };
        self.sessions.insert(self.next_session, session);
        Ok(self.next_session)
    }

    pub(crate) fn close_session(&mut self, context: &mut Context, handle: ck::CK_SESSION_HANDLE) -> Done {
        let slot = self.session(handle)?.slot;
        self.sessions.remove(&handle);
        if !self.sessions.values().any(|session| session.slot == slot) {
            self.leave(context, slot)?;
        }
        Ok(())
    }

    pub(crate) fn close_all_sessions(&mut self, context: &mut Context, id: ck::CK_SLOT_ID) -> Done {
        let slot = self.slot(id)?;
        self.sessions.retain(|_, session| session.slot != slot);
        self.leave(context, slot)
    }

    /// The slot, the state and the flags. One APDU asks the card whether it still knows of the login.
    pub(crate) fn session_info(
        &mut self,
        context: &mut Context,
        handle: ck::CK_SESSION_HANDLE,
    ) -> Done<(ck::CK_SLOT_ID, ck::CK_STATE, ck::CK_FLAGS)> {
        let session = self.session(handle)?;
        let (slot, writable) = (session.slot, session.writable);
        let logged_in = self.on_card(slot, Rv::CKR_SESSION_HANDLE_INVALID, |_, card| {
            context.apdus(card, 1);
            Ok(card.head.logged_in)
        })?;
        if self.slots[slot].user.is_user() && !logged_in {
            self.slots[slot].user = Login::Nobody;
            if self.settings.opensc == OpenSc::V0_23 {
                self.sessions.retain(|_, session| session.slot != slot);
                return Err(Rv::CKR_SESSION_HANDLE_INVALID);
            }
        }
        let state = match (&self.slots[slot].user, writable) {
            (Login::Nobody, true) => ck::CKS_RW_PUBLIC_SESSION,
            (Login::Nobody, false) => ck::CKS_RO_PUBLIC_SESSION,
            (Login::User, true) => ck::CKS_RW_USER_FUNCTIONS,
            (Login::User, false) => ck::CKS_RO_USER_FUNCTIONS,
            (Login::So(_), _) => ck::CKS_RW_SO_FUNCTIONS,
        };
        let flags = ck::CKF_SERIAL_SESSION | if writable { ck::CKF_RW_SESSION } else { 0 };
        Ok((slot as ck::CK_SLOT_ID, state, flags))
    }

    /// Random bytes from the token's generator; one APDU gives up to 1024.
    pub(crate) fn random(
        &mut self,
        context: &mut Context,
        handle: ck::CK_SESSION_HANDLE,
        bytes: &mut [u8],
    ) -> Done {
        let slot = self.session(handle)?.slot;
        self.on_card(slot, Rv::CKR_DEVICE_REMOVED, |_, card| {
            context.apdus(card, (bytes.len() as u64).div_ceil(1024));
            aws_lc_rs::rand::fill(bytes).map_err(|_| Rv::CKR_FUNCTION_FAILED)
        })
    }
}
