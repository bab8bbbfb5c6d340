//! Initialising a software token through C_InitToken.
//!
//! Never on hardware: C_InitToken wipes a Pico HSM and then fails, and setting its label crashes the firmware
//! (measured on firmware 6.6). Those are personalised with the SC-HSM INITIALIZE command.

use std::path::Path;

use cryptoki::session::UserType;

use super::module::{Found, Module, TokenSelector};
use super::return_values::token_error;
use super::{auth, pin_guard};
use crate::{ErrorClass, Pin, TokenError, TokenInfo};

const OPERATION: &str = "init_software_token";
/// CK_TOKEN_INFO's label field, in bytes.
const LABEL_MAX: usize = 32;

/// Which slot to initialise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlankSlot {
    /// The first one whose token is not initialised.
    First,
    /// The one with this number; it must be blank as well.
    Number(u64),
}

/// Makes a software token usable: label, SO-PIN and user PIN. Gives the new token's description (its slot number
/// differs from the blank one's on SoftHSM).
///
/// Errors: `Invalid` where the token is not software, is initialised already, or the label is taken; `TokenAbsent`
/// where no blank slot is there; `PinLength` for either PIN.
pub fn init_software_token(
    module: &Path,
    slot: BlankSlot,
    label: &str,
    so_pin: &Pin,
    pin: &Pin,
) -> Result<TokenInfo, TokenError> {
    if label.is_empty() || label.len() > LABEL_MAX || label.trim() != label {
        return Err(refuse(format!("a token's label is 1 to {LABEL_MAX} bytes without spaces around it")));
    }
    {
        let loaded = Module::load(module, OPERATION)?;
        let blank = choose(loaded.tokens(OPERATION)?, slot, label)?;
        for new in [so_pin, pin] {
            pin_guard::fits(OPERATION, new, blank.lengths)?;
        }
        let made = loaded.context()?.init_token(blank.slot, &auth(so_pin), label);
        made.map_err(|e| token_error(OPERATION, &e))?;
    }
    // SoftHSM gives the new token another slot number: look again from the start.
    let loaded = Module::load(module, OPERATION)?;
    let token = loaded.select(&TokenSelector::Label(label.to_owned()), OPERATION)?;
    let session = loaded.context()?.open_rw_session(token.slot).map_err(|e| token_error(OPERATION, &e))?;
    session.login(UserType::So, Some(&auth(so_pin))).map_err(|e| token_error(OPERATION, &e))?;
    session.init_pin(&auth(pin)).map_err(|e| token_error(OPERATION, &e))?;
    session.logout().map_err(|e| token_error(OPERATION, &e))?;
    drop(session);
    Ok(loaded.look(token.slot, OPERATION)?.info)
}

/// The blank token, if the module says positively that it is blank and software.
fn choose(tokens: Vec<Found>, slot: BlankSlot, label: &str) -> Result<Found, TokenError> {
    if tokens.iter().any(|found| found.initialized && found.info.label == label) {
        return Err(refuse(format!(
            "a token with the label {label:?} is there already; nothing was changed"
        )));
    }
    let chosen = tokens.into_iter().find(|found| match slot {
        BlankSlot::First => !found.initialized,
        BlankSlot::Number(number) => found.info.slot == number,
    });
    let Some(found) = chosen else {
        return Err(TokenError::new(
            ErrorClass::TokenAbsent,
            OPERATION,
            "there is no slot with a token that is not initialised",
        ));
    };
    if !found.info.software {
        return Err(refuse(format!(
            "the token in slot {} ({} {}) is not a software token: C_InitToken wipes a SmartCard-HSM or Pico HSM and \
             then fails; initialise it as hardware instead",
            found.info.slot, found.info.manufacturer, found.info.model
        )));
    }
    if found.initialized {
        return Err(refuse(format!(
            "the token in slot {} is initialised; nothing was changed",
            found.info.slot
        )));
    }
    Ok(found)
}

fn refuse(message: String) -> TokenError {
    TokenError::new(ErrorClass::Invalid, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use cryptoki::slot::Slot;

    use super::*;
    use crate::pkcs11::pin_guard::PinLengths;

    fn found(slot: u64, label: &str, software: bool, initialized: bool) -> Found {
        Found {
            slot: Slot::try_from(slot).unwrap(),
            info: TokenInfo { label: label.to_owned(), slot, software, ..TokenInfo::default() },
            initialized,
            lengths: PinLengths { shortest: 4, longest: 255 },
        }
    }

    #[test]
    fn only_a_blank_software_token_is_chosen() {
        let tokens = || vec![found(7, "old", true, true), found(8, "", true, false)];
        assert_eq!(choose(tokens(), BlankSlot::First, "new").ok().unwrap().info.slot, 8);
        let class = |tokens, slot, label| choose(tokens, slot, label).err().unwrap().class;
        assert_eq!(class(tokens(), BlankSlot::Number(7), "new"), ErrorClass::Invalid);
        assert_eq!(class(tokens(), BlankSlot::First, "old"), ErrorClass::Invalid);
        assert_eq!(class(tokens(), BlankSlot::Number(9), "new"), ErrorClass::TokenAbsent);
    }

    #[test]
    fn hardware_is_refused_even_when_blank() {
        for initialized in [true, false] {
            let tokens = vec![found(1, "", false, initialized)];
            let error = choose(tokens, BlankSlot::Number(1), "new").err().unwrap();
            assert_eq!(error.class, ErrorClass::Invalid);
            assert!(error.message.contains("wipes"), "{error}");
        }
    }
}
