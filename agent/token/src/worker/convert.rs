//! Between the messages and the port's types, in one place.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::messages::{
    CardState, Failure, Ghosts, Info, Listing, Object, Open, PinText, Secret, Seen, Survey,
};
use crate::pkcs11::{Pkcs11Config, Surveyed, TokenSelector};
use crate::sc_hsm::{CardStatus, Repaired, StatusWord};
use crate::{
    ErrorClass, ObjectHandle, ObjectInfo, Pin, PinFlags, TokenError, TokenInfo, TokenListing, Visibility,
};

/// The classes by number. Both ends are one binary, so the order may change.
const CLASSES: [ErrorClass; 14] = [
    ErrorClass::TokenAbsent,
    ErrorClass::Unreachable,
    ErrorClass::Busy,
    ErrorClass::SessionLost,
    ErrorClass::Full,
    ErrorClass::Invalid,
    ErrorClass::NoSuchObject,
    ErrorClass::ObjectGone,
    ErrorClass::ObjectDamaged,
    ErrorClass::PinRequired,
    ErrorClass::PinIncorrect,
    ErrorClass::PinLength,
    ErrorClass::PinLocked,
    ErrorClass::Module,
];

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        let class = CLASSES.iter().position(|class| *class == error.class);
        Self {
            class: class.and_then(|index| u32::try_from(index).ok()).unwrap_or(u32::MAX),
            code: error.code,
            message: error.message,
        }
    }
}

impl Failure {
    pub(crate) fn into_error(self, operation: &'static str) -> TokenError {
        let class = usize::try_from(self.class).ok().and_then(|index| CLASSES.get(index));
        TokenError {
            class: class.copied().unwrap_or(ErrorClass::Module),
            operation,
            code: self.code,
            message: self.message,
        }
    }
}

impl From<&Pin> for PinText {
    fn from(pin: &Pin) -> Self {
        Self { text: pin.expose().to_owned() }
    }
}

impl PinText {
    pub(crate) fn take(mut self) -> Pin {
        Pin::exactly(std::mem::take(&mut self.text))
    }
}

impl From<&[u8]> for Secret {
    fn from(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec() }
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(mut bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { bytes: std::mem::take(&mut *bytes) }
    }
}

impl Secret {
    pub(crate) fn take(mut self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(std::mem::take(&mut self.bytes))
    }
}

pub(crate) fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

pub(crate) fn path_from(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

impl Open {
    pub(crate) fn new(config: &Pkcs11Config, epoch: u64) -> Self {
        let mut open = Self { module: path_bytes(&config.module), epoch, ..Self::default() };
        match config.token.clone() {
            TokenSelector::Only => {}
            TokenSelector::Label(label) => open.label = Some(label),
            TokenSelector::Slot(slot) => open.slot = Some(slot),
            TokenSelector::Serial(serial) => open.serial = Some(serial),
            TokenSelector::Reader(reader) => open.reader = Some(reader),
        }
        open
    }

    pub(crate) fn into_config(self) -> Pkcs11Config {
        let selectors = [
            self.label.map(TokenSelector::Label),
            self.slot.map(TokenSelector::Slot),
            self.serial.map(TokenSelector::Serial),
            self.reader.map(TokenSelector::Reader),
        ];
        let token = selectors.into_iter().flatten().next().unwrap_or(TokenSelector::Only);
        Pkcs11Config { module: path_from(self.module), token }
    }
}

impl From<Vec<Surveyed>> for Survey {
    fn from(tokens: Vec<Surveyed>) -> Self {
        let seen = |token: Surveyed| Seen { info: Some(token.info.into()), initialized: token.initialized };
        Self { tokens: tokens.into_iter().map(seen).collect() }
    }
}

impl From<Survey> for Vec<Surveyed> {
    fn from(survey: Survey) -> Self {
        let token = |seen: Seen| Surveyed {
            info: seen.info.unwrap_or_default().into(),
            initialized: seen.initialized,
        };
        survey.tokens.into_iter().map(token).collect()
    }
}

impl From<CardStatus> for CardState {
    fn from(status: CardStatus) -> Self {
        Self {
            version_major: status.version.0.into(),
            version_minor: status.version.1.into(),
            transport_pin: status.transport_pin,
            user_pin: StatusWord::from(status.user_pin).0.into(),
            so_pin: StatusWord::from(status.so_pin).0.into(),
            files: status.files as u64,
        }
    }
}

impl From<CardState> for CardStatus {
    fn from(state: CardState) -> Self {
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        let pin = |number: u32| StatusWord(u16::try_from(number).unwrap_or(u16::MAX)).into();
        Self {
            version: (byte(state.version_major), byte(state.version_minor)),
            transport_pin: state.transport_pin,
            user_pin: pin(state.user_pin),
            so_pin: pin(state.so_pin),
            files: usize::try_from(state.files).unwrap_or(usize::MAX),
        }
    }
}

impl From<Repaired> for Ghosts {
    fn from(repaired: Repaired) -> Self {
        Self { removed: repaired.removed, left: repaired.left }
    }
}

impl From<Ghosts> for Repaired {
    fn from(ghosts: Ghosts) -> Self {
        Self { removed: ghosts.removed, left: ghosts.left }
    }
}

impl From<TokenInfo> for Info {
    fn from(info: TokenInfo) -> Self {
        Self {
            label: info.label,
            manufacturer: info.manufacturer,
            model: info.model,
            serial: info.serial,
            firmware: info.firmware,
            slot_description: info.slot_description,
            slot: info.slot,
            count_low: info.pin.count_low,
            final_try: info.pin.final_try,
            locked: info.pin.locked,
            initialized: info.pin.initialized,
            software: info.software,
        }
    }
}

impl From<Info> for TokenInfo {
    fn from(info: Info) -> Self {
        Self {
            label: info.label,
            manufacturer: info.manufacturer,
            model: info.model,
            serial: info.serial,
            firmware: info.firmware,
            slot_description: info.slot_description,
            slot: info.slot,
            pin: PinFlags {
                count_low: info.count_low,
                final_try: info.final_try,
                locked: info.locked,
                initialized: info.initialized,
            },
            software: info.software,
        }
    }
}

impl From<TokenListing> for Listing {
    fn from(listing: TokenListing) -> Self {
        let object = |info: ObjectInfo| Object {
            handle: info.handle.0,
            label: info.label,
            application: info.application,
            private: info.visibility == Visibility::Private,
        };
        Self { data: listing.data.into_iter().map(object).collect(), others: listing.others as u64 }
    }
}

impl From<Listing> for TokenListing {
    fn from(listing: Listing) -> Self {
        let info = |object: Object| ObjectInfo {
            handle: ObjectHandle(object.handle),
            label: object.label,
            application: object.application,
            visibility: visibility(object.private),
        };
        Self {
            data: listing.data.into_iter().map(info).collect(),
            others: usize::try_from(listing.others).unwrap_or(usize::MAX),
        }
    }
}

pub(crate) fn visibility(private: bool) -> Visibility {
    if private { Visibility::Private } else { Visibility::Public }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_survives_the_wire() {
        for class in CLASSES {
            let error = TokenError { code: Some("CKR_X".into()), ..TokenError::new(class, "op", "text") };
            assert_eq!(Failure::from(error.clone()).into_error("op"), error);
        }
    }

    #[test]
    fn a_cards_state_survives_the_wire() {
        use crate::sc_hsm::PinState;
        for state in [
            PinState::NotSet,
            PinState::TriesLeft(3),
            PinState::Locked,
            PinState::LoggedIn,
            PinState::Transport,
            PinState::Unclear(StatusWord(0x6F12)),
        ] {
            let status = CardStatus {
                version: (6, 2),
                transport_pin: true,
                user_pin: state,
                so_pin: PinState::TriesLeft(15),
                files: 7,
            };
            assert_eq!(CardStatus::from(CardState::from(status.clone())), status);
        }
    }

    #[test]
    fn selectors_survive_the_wire() {
        for token in [
            TokenSelector::Only,
            TokenSelector::Label("a b".into()),
            TokenSelector::Slot(7),
            TokenSelector::Serial("ESPICOHSMTR".into()),
            TokenSelector::Reader("Pico Key 00 00".into()),
        ] {
            let config = Pkcs11Config { module: "/m.so".into(), token };
            assert_eq!(Open::new(&config, 3).into_config(), config);
        }
    }
}
