//! Loading a PKCS#11 module, and finding a token among its slots.

use std::fmt;
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::slot::Slot;

use super::pin_guard::PinLengths;
use super::return_values::token_error;
use crate::{ErrorClass, PinFlags, TokenError, TokenInfo};

/// Which of a module's tokens is meant. None of these identifies a token (see `TokenId`); they select among what the
/// module shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSelector {
    /// The only initialised token that the module shows.
    Only,
    /// The token with this label; two of them are an error.
    Label(String),
    /// The token in the slot with this number.
    Slot(u64),
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("the only token"),
            Self::Label(label) => write!(f, "token with label {label:?}"),
            Self::Slot(slot) => write!(f, "token in slot {slot}"),
        }
    }
}

/// One slot that holds a token.
pub(crate) struct Found {
    pub(crate) slot: Slot,
    pub(crate) info: TokenInfo,
    pub(crate) initialized: bool,
    pub(crate) lengths: PinLengths,
}

/// An initialised module; finalised when dropped. One at a time in a process.
pub(crate) struct Module {
    context: Option<Pkcs11>,
    path: PathBuf,
}

impl Module {
    /// Loads the module and calls C_Initialize.
    pub(crate) fn load(path: &Path, operation: &'static str) -> Result<Self, TokenError> {
        let trouble = |message: String| TokenError::new(ErrorClass::Module, operation, message);
        if !path.exists() {
            return Err(trouble(format!(
                "there is no PKCS#11 module at {}; install it (OpenSC: opensc-pkcs11, SoftHSM: softhsm2), or set the \
                 module's path",
                path.display()
            )));
        }
        let context = Pkcs11::new(path).map_err(|error| match error {
            Error::LibraryLoading(e) => trouble(format!(
                "the PKCS#11 module {} cannot be loaded: {e}; is it a shared library for this machine, with all that \
                 it needs?",
                path.display()
            )),
            Error::MissingSymbol(_) => {
                trouble(format!("{} is a shared library, but not a PKCS#11 module", path.display()))
            }
            other => token_error(operation, &other),
        })?;
        context
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(|e| token_error(operation, &e))?;
        Ok(Self { context: Some(context), path: path.to_owned() })
    }

    pub(crate) fn context(&self) -> Result<&Pkcs11, TokenError> {
        self.context
            .as_ref()
            .ok_or_else(|| TokenError::new(ErrorClass::SessionLost, "open", "the module is finalised"))
    }

    /// Every slot that holds a token, initialised or not.
    pub(crate) fn tokens(&self, operation: &'static str) -> Result<Vec<Found>, TokenError> {
        let context = self.context()?;
        let slots = context.get_slots_with_token().map_err(|e| token_error(operation, &e))?;
        slots.into_iter().map(|slot| self.look(slot, operation)).collect()
    }

    /// What the module says of the token in this slot, now.
    pub(crate) fn look(&self, slot: Slot, operation: &'static str) -> Result<Found, TokenError> {
        let context = self.context()?;
        let token = context.get_token_info(slot).map_err(|e| token_error(operation, &e))?;
        let slot_info = context.get_slot_info(slot).map_err(|e| token_error(operation, &e))?;
        let trimmed = |text: &str| text.trim_end_matches([' ', '\0']).to_owned();
        let (manufacturer, model) = (trimmed(token.manufacturer_id()), trimmed(token.model()));
        let info = TokenInfo {
            label: trimmed(token.label()),
            software: manufacturer.starts_with("SoftHSM") || model.starts_with("SoftHSM"),
            manufacturer,
            model,
            serial: trimmed(token.serial_number()),
            firmware: token.firmware_version().to_string(),
            slot_description: trimmed(slot_info.slot_description()),
            slot: slot.id(),
            pin: PinFlags {
                count_low: token.user_pin_count_low(),
                final_try: token.user_pin_final_try(),
                locked: token.user_pin_locked(),
                initialized: token.user_pin_initialized(),
            },
        };
        Ok(Found {
            slot,
            info,
            initialized: token.token_initialized(),
            lengths: PinLengths { shortest: token.min_pin_length(), longest: token.max_pin_length() },
        })
    }

    /// The token that is meant.
    pub(crate) fn select(
        &self,
        selector: &TokenSelector,
        operation: &'static str,
    ) -> Result<Found, TokenError> {
        let mut there = self.tokens(operation)?;
        let matching: Vec<usize> = there
            .iter()
            .enumerate()
            .filter(|(_, found)| {
                found.initialized
                    && match selector {
                        TokenSelector::Only => true,
                        TokenSelector::Label(label) => found.info.label == *label,
                        TokenSelector::Slot(slot) => found.info.slot == *slot,
                    }
            })
            .map(|(index, _)| index)
            .collect();
        match matching.as_slice() {
            [index] => Ok(there.swap_remove(*index)),
            [] => Err(TokenError::new(
                ErrorClass::TokenAbsent,
                operation,
                format!("no {selector} at {}; {}", self.path.display(), describe(&there)),
            )),
            _ => Err(TokenError::new(
                ErrorClass::Invalid,
                operation,
                format!("more than one {selector}: name a label or a slot; {}", describe(&there)),
            )),
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if let Some(context) = self.context.take()
            && let Err(error) = context.finalize()
        {
            tracing::debug!(error = %token_error("close", &error), "The PKCS#11 module does not finalise.");
        }
    }
}

/// What is there, for the person whose token was not found.
fn describe(there: &[Found]) -> String {
    if there.is_empty() {
        return "it shows no token at all".to_owned();
    }
    let each: Vec<String> = there
        .iter()
        .map(|found| {
            let name = if found.initialized {
                format!("{:?}", found.info.label)
            } else {
                "a token that is not initialised".to_owned()
            };
            format!("slot {}: {name} ({})", found.info.slot, found.info.model)
        })
        .collect();
    format!("it shows {}", each.join(", "))
}
