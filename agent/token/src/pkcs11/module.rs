//! Loading a PKCS#11 module, and finding a token among its slots.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::slot::Slot;

use super::pin_guard::PinLengths;
use super::return_values::token_error;
use crate::reader_name::usb_serial;
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
    /// The token with this PKCS#11 serial, without the spaces around it. Unique on SoftHSM; the same on every Pico HSM.
    Serial(String),
    /// The token in the slot with this description, which for PC/SC is the reader's name, without the spaces around
    /// it. On hardware nothing else tells two Pico HSMs apart. PKCS#11 shows the first 64 bytes of a name, so that of
    /// a longer one only these are compared. Where both names show a USB serial, that is compared instead: the numbers
    /// at a name's end change when the device is plugged in again.
    Reader(String),
}

/// CK_SLOT_INFO's description, in bytes.
const DESCRIPTION_MAX: usize = 64;

/// Whether both name one reader, as far as PKCS#11 shows its name.
pub(crate) fn same_reader(one: &str, other: &str) -> bool {
    fn shown(name: &str) -> Cow<'_, str> {
        let name = name.trim().as_bytes();
        String::from_utf8_lossy(&name[..name.len().min(DESCRIPTION_MAX)])
    }
    // A name that was cut may end in a blank, which goes by trimming again.
    shown(one).trim_end() == shown(other).trim_end()
}

impl fmt::Display for TokenSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => f.write_str("initialised token"),
            Self::Label(label) => write!(f, "token with label {label:?}"),
            Self::Slot(slot) => write!(f, "token in slot {slot}"),
            Self::Serial(serial) => write!(f, "token with serial {serial:?}"),
            Self::Reader(reader) => write!(f, "token in reader {reader:?}"),
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

    /// Whether this is OpenSC's module, of which we know more than the standard says.
    pub(crate) fn is_opensc(&self) -> bool {
        let info = self.context().map(Pkcs11::get_library_info);
        info.is_ok_and(|info| info.is_ok_and(|info| info.manufacturer_id().starts_with("OpenSC")))
    }

    /// Every slot that holds a token, initialised or not.
    pub(crate) fn tokens(&self, operation: &'static str) -> Result<Vec<Found>, TokenError> {
        let context = self.context()?;
        let slots = context.get_slots_with_token().map_err(|e| token_error(operation, &e))?;
        slots.into_iter().map(|slot| self.look(slot, operation)).collect()
    }

    /// What the module says of the token in this slot, now.
    pub(crate) fn look(&self, slot: Slot, operation: &'static str) -> Result<Found, TokenError> {
        let slot_info = self.context()?.get_slot_info(slot).map_err(|e| token_error(operation, &e))?;
        self.look_in(slot, trimmed(slot_info.slot_description()), operation)
    }

    /// The same in a slot whose description is known.
    pub(crate) fn look_in(
        &self,
        slot: Slot,
        slot_description: String,
        operation: &'static str,
    ) -> Result<Found, TokenError> {
        let token = self.context()?.get_token_info(slot).map_err(|e| token_error(operation, &e))?;
        let (manufacturer, model) = (trimmed(token.manufacturer_id()), trimmed(token.model()));
        let info = TokenInfo {
            label: trimmed(token.label()),
            software: manufacturer.starts_with("SoftHSM") || model.starts_with("SoftHSM"),
            manufacturer,
            model,
            serial: trimmed(token.serial_number()),
            firmware: token.firmware_version().to_string(),
            slot_description,
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

    /// The token that is meant. One that gives no information does not stand in the way of another one, but where
    /// none fits it may be the one that is meant: that is not "absent".
    pub(crate) fn select(
        &self,
        selector: &TokenSelector,
        operation: &'static str,
    ) -> Result<Found, TokenError> {
        let slots = self.context()?.get_slots_with_token().map_err(|e| token_error(operation, &e))?;
        let (mut there, mut silent) = (Vec::new(), Vec::new());
        for slot in slots {
            match self.look(slot, operation) {
                Ok(found) => there.push(found),
                Err(error) => silent.push((slot.id(), error)),
            }
        }
        // A blank token in the reader that is meant is told as what it is, and not as one that cannot be reached.
        let blank = matches!(selector, TokenSelector::Reader(_))
            && there.iter().any(|found| !found.initialized && selector.fits(&found.info));
        choose(there, silent, selector, &self.path, operation).map_err(|error| match self.hides(selector) {
            Some(reader) if error.class == ErrorClass::TokenAbsent && !blank => TokenError::new(
                ErrorClass::Unreachable,
                operation,
                format!(
                    "the reader {reader:?} is there but shows no token: another program may hold the card, or it does \
                     not answer yet"
                ),
            ),
            _ => error,
        })
    }

    /// A reader in which the token that is meant may be, though the module lists none there.
    ///
    /// The reader that was named counts in any case: a Pico HSM is reader and card in one. Of others only one whose
    /// card is there and does not answer, as it is where another program holds it: a reader may well be empty.
    fn hides(&self, selector: &TokenSelector) -> Option<String> {
        if let TokenSelector::Reader(reader) = selector {
            return self.has_slot(reader).then(|| reader.clone());
        }
        let context = self.context().ok()?;
        let with_token = context.get_slots_with_token().ok()?;
        let silent = |slot: &Slot| {
            let meant = !matches!(selector, TokenSelector::Slot(id) if *id != slot.id());
            let answer = context.get_token_info(*slot).map_err(|e| token_error("open", &e).class);
            meant && answer.is_err_and(|class| class != ErrorClass::TokenAbsent)
        };
        let slots = context.get_all_slots().ok()?.into_iter().filter(|slot| !with_token.contains(slot));
        let slot = slots.into_iter().find(silent)?;
        Some(
            context
                .get_slot_info(slot)
                .map_or_else(|_| format!("slot {}", slot.id()), |info| trimmed(info.slot_description())),
        )
    }

    /// Whether there is a slot of this description, with a token or without one. A Pico HSM is reader and card in one.
    fn has_slot(&self, reader: &str) -> bool {
        let Ok(context) = self.context() else { return false };
        let described =
            |slot| context.get_slot_info(slot).is_ok_and(|info| same_reader(info.slot_description(), reader));
        context.get_all_slots().is_ok_and(|slots| slots.into_iter().any(described))
    }
}

impl TokenSelector {
    fn fits(&self, info: &TokenInfo) -> bool {
        match self {
            Self::Only => true,
            Self::Label(label) => info.label == *label,
            Self::Slot(slot) => info.slot == *slot,
            Self::Serial(serial) => info.serial == serial.trim(),
            Self::Reader(reader) => match (usb_serial(&info.slot_description), usb_serial(reader)) {
                (Some(there), Some(meant)) => there == meant,
                _ => same_reader(&info.slot_description, reader),
            },
        }
    }
}

/// The one token of these that is meant. `silent` are the slots whose token gave no information, and why.
fn choose(
    mut there: Vec<Found>,
    silent: Vec<(u64, TokenError)>,
    selector: &TokenSelector,
    path: &Path,
    operation: &'static str,
) -> Result<Found, TokenError> {
    let fits = |found: &Found| found.initialized && selector.fits(&found.info);
    let matching: Vec<usize> =
        there.iter().enumerate().filter(|(_, found)| fits(found)).map(|(index, _)| index).collect();
    let shows = describe(&there, &silent);
    match matching.as_slice() {
        // Whether it is the only one, a token that says nothing leaves open.
        [index] if silent.is_empty() || *selector != TokenSelector::Only => Ok(there.swap_remove(*index)),
        [] | [_] => match silent.into_iter().next() {
            Some((_, error)) => Err(TokenError { message: format!("{}; {shows}", error.message), ..error }),
            None => Err(TokenError::new(
                ErrorClass::TokenAbsent,
                operation,
                format!("no {selector} at {}; {shows}", path.display()),
            )),
        },
        _ => Err(TokenError::new(
            ErrorClass::Invalid,
            operation,
            format!("more than one {selector}: name a label, a serial, a reader or a slot; {shows}"),
        )),
    }
}

/// A fixed-length text of PKCS#11.
fn trimmed(text: &str) -> String {
    text.trim_end_matches([' ', '\0']).to_owned()
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
fn describe(there: &[Found], silent: &[(u64, TokenError)]) -> String {
    let spoken = there.iter().map(|found| {
        let TokenInfo { label, model, serial, slot_description, slot, .. } = &found.info;
        if found.initialized {
            format!("slot {slot}: {label:?} ({model}, serial {serial:?}, reader {slot_description:?})")
        } else {
            format!("slot {slot}: a token that is not initialised ({model}, reader {slot_description:?})")
        }
    });
    let silent = silent.iter().map(|(slot, error)| {
        format!(
            "slot {slot}: a token that gives no information ({})",
            error.code.as_deref().unwrap_or("failed")
        )
    });
    let each: Vec<String> = spoken.chain(silent).collect();
    if each.is_empty() {
        "it shows no token at all".to_owned()
    } else {
        format!("it shows {}", each.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(slot: u64, label: &str, serial: &str, reader: &str) -> Found {
        Found {
            slot: Slot::try_from(slot).unwrap(),
            info: TokenInfo {
                label: label.into(),
                serial: serial.into(),
                slot_description: reader.into(),
                slot,
                ..TokenInfo::default()
            },
            initialized: true,
            lengths: PinLengths { shortest: 6, longest: 15 },
        }
    }

    fn pick(selector: &TokenSelector, silent: &[u64]) -> Result<u64, TokenError> {
        let there = vec![
            found(0, "Pico-HSM", "ESPICOHSMTR", "Pico Key (A) 00 00"),
            found(1, "Pico-HSM", "ESPICOHSMTR", "Pico Key (B) 01 00"),
            found(2, "soft", "cafe", "SoftHSM slot ID 0x2"),
        ];
        let why = TokenError {
            code: Some("CKR_DEVICE_ERROR".into()),
            ..TokenError::new(ErrorClass::Module, "open", "no answer")
        };
        let silent = silent.iter().map(|slot| (*slot, why.clone())).collect();
        choose(there, silent, selector, Path::new("/m.so"), "open").map(|found| found.info.slot)
    }

    #[test]
    fn two_pico_hsms_are_told_apart_by_their_readers_alone() {
        for selector in [
            TokenSelector::Only,
            TokenSelector::Label("Pico-HSM".into()),
            TokenSelector::Serial("ESPICOHSMTR".into()),
        ] {
            let error = pick(&selector, &[]).unwrap_err();
            assert_eq!(error.class, ErrorClass::Invalid);
            for part in ["Pico Key (A) 00 00", "Pico Key (B) 01 00", "reader"] {
                assert!(error.message.contains(part), "{error}");
            }
        }
        assert_eq!(pick(&TokenSelector::Reader(" Pico Key (B) 01 00 ".into()), &[]).unwrap(), 1);
        assert_eq!(pick(&TokenSelector::Serial("cafe".into()), &[]).unwrap(), 2);
        assert_eq!(
            pick(&TokenSelector::Reader("Pico Key (B) 07 00".into()), &[]).unwrap(),
            1,
            "another port"
        );
        for absent in ["Pico Key", "(B", "Pico Key (C) 01 00", ""] {
            let error = pick(&TokenSelector::Reader(absent.into()), &[]).unwrap_err();
            assert_eq!(error.class, ErrorClass::TokenAbsent, "{absent}");
        }
    }

    #[test]
    fn a_token_that_says_nothing_is_not_absent() {
        assert_eq!(pick(&TokenSelector::Serial("cafe".into()), &[3]).unwrap(), 2);
        let error = pick(&TokenSelector::Serial("beef".into()), &[3]).unwrap_err();
        assert_eq!((error.class, error.code.as_deref()), (ErrorClass::Module, Some("CKR_DEVICE_ERROR")));
        assert!(error.message.contains("slot 3"), "{error}");
        let alone = vec![found(2, "soft", "cafe", "r")];
        let silent = vec![(3, TokenError::new(ErrorClass::Module, "open", "no answer"))];
        let only = choose(alone, silent, &TokenSelector::Only, Path::new("/m.so"), "open");
        assert_eq!(only.err().map(|e| e.class), Some(ErrorClass::Module));
    }

    #[test]
    fn names_beyond_what_pkcs11_shows_are_compared_as_far_as_it_does() {
        let long = format!("{} (serial) 00 00", "Pico Key".repeat(8));
        assert!(same_reader(&long, &long[..64]));
        assert!(!same_reader(&long, &long[..63]));
        // A character cut in two.
        let cut = format!("{}\u{e4} 00 00", "x".repeat(63));
        assert!(same_reader(&cut, &String::from_utf8_lossy(&cut.as_bytes()[..64])));
    }
}
