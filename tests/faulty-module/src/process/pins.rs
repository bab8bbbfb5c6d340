//! PINs and logins.

use cryptoki_sys as ck;

use super::{Login, Process};
use crate::context::{Context, trouble};
use crate::head::PinAnswer;
use crate::machine::wipe;
use crate::rv::{Done, Rv};

/// The longest SO-PIN, in bytes.
const SO_PIN_MAX: usize = 64;

fn judge(answer: PinAnswer) -> Done {
    match answer {
        PinAnswer::Right => Ok(()),
        PinAnswer::Wrong => Err(Rv::CKR_PIN_INCORRECT),
        PinAnswer::Locked => Err(Rv::CKR_PIN_LOCKED),
    }
}

impl Process {
    /// A PIN of a wrong length is refused before the card is asked.
    fn fits(&self, pin: &str) -> Done {
        let range = self.settings.pin_min..=self.settings.pin_max;
        if range.contains(&pin.len()) { Ok(()) } else { Err(Rv::CKR_PIN_LEN_RANGE) }
    }

    pub(crate) fn login(
        &mut self,
        context: &mut Context,
        handle: ck::CK_SESSION_HANDLE,
        user: ck::CK_USER_TYPE,
        pin: &str,
    ) -> Done {
        let slot = self.session(handle)?.slot;
        match (&self.slots[slot].user, user) {
            (Login::Nobody, _) => {}
            (Login::User, ck::CKU_USER) | (Login::So(_), ck::CKU_SO) => {
                return Err(Rv::CKR_USER_ALREADY_LOGGED_IN);
            }
            _ => return Err(Rv::CKR_USER_ANOTHER_ALREADY_LOGGED_IN),
        }
        match user {
            ck::CKU_USER => {
                self.fits(pin)?;
                self.on_card(slot, Rv::CKR_SESSION_HANDLE_INVALID, |process, card| {
                    if card.head.is_blank() {
                        return Err(Rv::CKR_USER_PIN_NOT_INITIALIZED);
                    }
                    context.apdus(card, 1);
                    judge(card.head.verify(pin, &process.settings))
                })?;
                self.slots[slot].user = Login::User;
                Ok(())
            }
            // Whatever the PIN: it is only sent with C_InitPIN.
            ck::CKU_SO => {
                if !self.connected(slot) {
                    return Err(Rv::CKR_SESSION_HANDLE_INVALID);
                }
                self.slots[slot].user = Login::So(pin.to_owned());
                Ok(())
            }
            _ => Err(Rv::CKR_USER_TYPE_INVALID),
        }
    }

    pub(crate) fn logout(&mut self, context: &mut Context, handle: ck::CK_SESSION_HANDLE) -> Done {
        let slot = self.session(handle)?.slot;
        if matches!(self.slots[slot].user, Login::Nobody) {
            return Err(Rv::CKR_USER_NOT_LOGGED_IN);
        }
        self.leave(context, slot)
    }

    /// A wrong old PIN costs a try.
    pub(crate) fn set_pin(
        &mut self,
        context: &mut Context,
        handle: ck::CK_SESSION_HANDLE,
        old: &str,
        new: &str,
    ) -> Done {
        let session = self.session(handle)?;
        if !session.writable {
            return Err(Rv::CKR_SESSION_READ_ONLY);
        }
        let slot = session.slot;
        self.fits(old)?;
        self.fits(new)?;
        self.on_card(slot, Rv::CKR_SESSION_HANDLE_INVALID, |process, card| {
            if card.head.is_blank() {
                return Err(Rv::CKR_USER_PIN_NOT_INITIALIZED);
            }
            context.apdus(card, 1);
            judge(card.head.change_pin(old, new, &process.settings))
        })
    }

    /// Here a wrong SO-PIN is found out.
    pub(crate) fn init_pin(
        &mut self,
        context: &mut Context,
        handle: ck::CK_SESSION_HANDLE,
        new: &str,
    ) -> Done {
        let slot = self.session(handle)?.slot;
        let Login::So(so_pin) = &self.slots[slot].user else {
            return Err(Rv::CKR_USER_NOT_LOGGED_IN);
        };
        let so_pin = so_pin.clone();
        self.fits(new)?;
        self.on_card(slot, Rv::CKR_SESSION_HANDLE_INVALID, |process, card| {
            context.apdus(card, 1);
            judge(card.head.reset_pin(&so_pin, new, &process.settings))
        })
    }

    /// Wipes the card, and then fails. What it leaves is a blank card.
    pub(crate) fn init_token(&mut self, context: &mut Context, id: ck::CK_SLOT_ID, so_pin: &str) -> Done {
        let slot = self.slot(id)?;
        if so_pin.len() > SO_PIN_MAX {
            return Err(Rv::CKR_PIN_LEN_RANGE);
        }
        let lock = self.disk.lock().map_err(trouble)?;
        let mut card = self.card(slot)?.ok_or(Rv::CKR_TOKEN_NOT_PRESENT)?;
        wipe(card.flash(&mut self.cache).map_err(trouble)?);
        card.head.initialize(None, Some(so_pin), &self.settings);
        context.apdus(&mut card, 2);
        card.save(&mut self.cache).map_err(trouble)?;
        drop(lock);
        self.slots[slot].user = Login::Nobody;
        Err(Rv::CKR_GENERAL_ERROR)
    }
}
