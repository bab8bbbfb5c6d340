//! The SmartCard-HSM (and so the Pico HSM) in its own language, for what PKCS#11 cannot do or must not: initialising a
//! blank card, finding and removing ghosts, and leaving it logged out.
//!
//! This module knows commands and status words; who carries them to a card is a [`CardChannel`], over PC/SC with the
//! feature `pcsc` and in memory in the tests. Nothing here sets a label (the firmware crashes), nothing wipes a card
//! that has a PIN, and nothing reads a value.
//!
//! Facts from OpenSC (`card-sc-hsm.c`, `pkcs15-sc-hsm.c`, `sc-hsm-tool.c`) and the pico-hsm firmware. A data object is
//! two files: its description `C9 xx`, and its value `CD xx` (private) or `CF xx` (public). Creating writes the value
//! first, destroying removes the value first; cut short between the two, a destroy leaves a description without a value,
//! which PKCS#11 lists and can neither read nor destroy: a **ghost**.

mod apdu;
mod ghosts;
mod initialize;
#[cfg(feature = "pcsc")]
pub(crate) mod pcsc_channel;

use apdu::{Answer, Apdu, Expect, exchange};

use crate::{ErrorClass, PinFlags, TokenError};

pub use apdu::StatusWord;
pub use ghosts::Repaired;

/// The way to a card: one command there, its answer back, status word included.
pub trait CardChannel {
    /// Sends these bytes and gives what the card answers.
    ///
    /// Errors: `TokenAbsent` where the card went away, `Unreachable` where the outcome is not known.
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, TokenError>;
}

/// The applet's identifier.
const AID: [u8; 11] = [0xE8, 0x2B, 0x06, 0x01, 0x04, 0x01, 0x81, 0xC3, 0x1F, 0x02, 0x01];
/// CardContact's options in the answer to SELECT: the PIN is a transport PIN.
const OPTION_TRANSPORT_PIN: u8 = 0x02;
/// The key of the device itself, which is there from the start.
const DEVICE_KEY: u8 = 0;
const USER_PIN: u8 = 0x81;
const SO_PIN: u8 = 0x88;

/// What the card says of one of its PINs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinState {
    /// It was never set.
    NotSet,
    /// It is set, and this many tries are left.
    TriesLeft(u8),
    /// No tries are left.
    Locked,
    /// The card is logged in with it.
    LoggedIn,
    /// A transport PIN that its owner has to change first; or, before version 2.0, never set.
    Transport,
    /// Something else, which says nothing that can be relied on (public-key authentication, say).
    Unclear(StatusWord),
}

impl From<StatusWord> for PinState {
    fn from(status: StatusWord) -> Self {
        match status {
            StatusWord::OK => Self::LoggedIn,
            StatusWord::NOT_SET => Self::NotSet,
            StatusWord::NOT_USABLE => Self::Transport,
            StatusWord::BLOCKED => Self::Locked,
            status => match status.tries_left() {
                Some(0) => Self::Locked,
                Some(left) => Self::TriesLeft(left),
                None => Self::Unclear(status),
            },
        }
    }
}

impl From<PinState> for StatusWord {
    fn from(state: PinState) -> Self {
        match state {
            PinState::LoggedIn => Self::OK,
            PinState::NotSet => Self::NOT_SET,
            PinState::Transport => Self::NOT_USABLE,
            PinState::Locked => Self::BLOCKED,
            PinState::TriesLeft(left) => Self(0x63C0 | u16::from(left & 0xF)),
            PinState::Unclear(status) => status,
        }
    }
}

/// What a card says of itself without a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardStatus {
    /// The applet's version, major and minor.
    pub version: (u8, u8),
    /// Whether the PIN is a transport PIN.
    pub transport_pin: bool,
    /// The user PIN.
    pub user_pin: PinState,
    /// The SO-PIN.
    pub so_pin: PinState,
    /// How many files belong to somebody: keys, certificates and data objects beside the device's own.
    pub files: usize,
}

impl CardStatus {
    /// Whether the card says **positively** that it was never initialised: no user PIN, no SO-PIN, no files. What it
    /// does not say clearly is not blank.
    pub fn is_blank(&self) -> bool {
        let never_set = if self.version >= (2, 0) {
            // The SO-PIN tells (sc-hsm-tool asks it too); beside it the user PIN may be called not usable.
            self.so_pin == PinState::NotSet && matches!(self.user_pin, PinState::NotSet | PinState::Transport)
        } else {
            self.user_pin == PinState::Transport
                && matches!(self.so_pin, PinState::NotSet | PinState::Transport)
        };
        never_set && !self.transport_pin && self.files == 0
    }

    /// The user PIN's state as PKCS#11 shows it. A card does not say how many tries there are when none is used up:
    /// fewer than the three of a card that we initialised are few.
    pub fn pin_flags(&self) -> PinFlags {
        let left = match self.user_pin {
            PinState::TriesLeft(left) => left,
            PinState::Locked => 0,
            _ => u8::MAX,
        };
        PinFlags {
            count_low: left < initialize::TRIES,
            final_try: left == 1,
            locked: left == 0,
            initialized: !matches!(self.user_pin, PinState::NotSet),
        }
    }
}

/// A card whose applet answers.
pub struct ScHsm<'a> {
    channel: &'a mut dyn CardChannel,
    version: (u8, u8),
    transport_pin: bool,
}

impl<'a> ScHsm<'a> {
    /// Selects the applet, which also logs out whoever was logged in.
    ///
    /// Errors: `Invalid` where the card is no SmartCard-HSM.
    pub fn select(channel: &'a mut dyn CardChannel, operation: &'static str) -> Result<Self, TokenError> {
        let answer = exchange(channel, operation, &Apdu::new([0x00, 0xA4, 0x04, 0x00], &AID, Expect::Short))?;
        let no_card = "the card in this reader is no SmartCard-HSM or Pico HSM";
        if answer.status != StatusWord::OK {
            return Err(answer.status.error(ErrorClass::Invalid, operation, no_card));
        }
        // The options lie four bytes before the end, the version in the last two.
        match proprietary(&answer.data) {
            Some(&[.., options, _, major, minor]) => {
                let transport_pin = options & OPTION_TRANSPORT_PIN != 0;
                Ok(Self { channel, version: (major, minor), transport_pin })
            }
            Some(&[major, minor]) => Ok(Self { channel, version: (major, minor), transport_pin: false }),
            _ => Err(TokenError::new(ErrorClass::Invalid, operation, no_card)),
        }
    }

    /// What the card says of itself. No login, no try.
    pub fn status(&mut self, operation: &'static str) -> Result<CardStatus, TokenError> {
        let (user_pin, so_pin) = (self.pin_state(USER_PIN, operation)?, self.pin_state(SO_PIN, operation)?);
        let ids = self.list_files(operation)?;
        let files = ids.iter().filter(|[_, id]| *id != DEVICE_KEY).count();
        Ok(CardStatus { version: self.version, transport_pin: self.transport_pin, user_pin, so_pin, files })
    }

    /// VERIFY without a PIN asks for the state and uses no try.
    fn pin_state(&mut self, pin: u8, operation: &'static str) -> Result<PinState, TokenError> {
        let answer = self.exchange(operation, &Apdu::new([0x00, 0x20, 0x00, pin], &[], Expect::Nothing))?;
        Ok(answer.status.into())
    }

    /// ENUMERATE OBJECTS: the identifiers of keys, key descriptions, certificates' and data objects' descriptions.
    pub fn list_files(&mut self, operation: &'static str) -> Result<Vec<[u8; 2]>, TokenError> {
        let ask = |expect| Apdu::new([0x80, 0x58, 0x00, 0x00], &[], expect);
        let mut answer = self.exchange(operation, &ask(Expect::Extended))?;
        if answer.status == StatusWord::WRONG_LENGTH {
            answer = self.exchange(operation, &ask(Expect::Short))?;
        }
        if answer.status != StatusWord::OK {
            return Err(answer.status.error(
                ErrorClass::Module,
                operation,
                "the card does not list its files",
            ));
        }
        if answer.data.len() % 2 != 0 {
            return Err(TokenError::new(
                ErrorClass::Module,
                operation,
                "the card's list of files has an odd number of bytes",
            ));
        }
        let ids = answer.data.chunks_exact(2).map(|id| [id[0], id[1]]);
        // The firmware appends an empty identifier where the answer would fill whole USB packets.
        Ok(ids.filter(|id| *id != [0, 0]).collect())
    }

    fn exchange(&mut self, operation: &'static str, apdu: &Apdu) -> Result<Answer, TokenError> {
        exchange(self.channel, operation, apdu)
    }
}

/// The value of tag 85 in the applet's file control information (ISO/IEC 7816-4, table 12: proprietary information).
fn proprietary(fci: &[u8]) -> Option<&[u8]> {
    // One template around everything: 6F or 62.
    let [0x6F | 0x62, length, rest @ ..] = fci else { return None };
    let mut rest = rest.get(..usize::from(*length))?;
    while let [tag, length, after @ ..] = rest {
        let value = after.get(..usize::from(*length))?;
        if *tag == 0x85 {
            return Some(value);
        }
        rest = &after[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_lies_in_the_proprietary_information() {
        let pico = [0x6F, 0x0B, 0x82, 0x02, 0x78, 0x00, 0x85, 0x05, 0x00, 0x01, 0xFF, 0x06, 0x06];
        assert_eq!(proprietary(&pico), Some(&[0x00, 0x01, 0xFF, 0x06, 0x06][..]));
        for cut in 0..pico.len() {
            assert_eq!(proprietary(&pico[..cut]), None, "{cut}");
        }
        assert_eq!(proprietary(&[0x6F, 0x00]), None);
    }

    #[test]
    fn blank_is_only_what_says_so_positively() {
        let blank = CardStatus {
            version: (6, 6),
            transport_pin: false,
            user_pin: PinState::NotSet,
            so_pin: PinState::NotSet,
            files: 0,
        };
        assert!(blank.is_blank());
        assert!(CardStatus { user_pin: PinState::Transport, ..blank.clone() }.is_blank());
        let old = CardStatus { version: (1, 2), user_pin: PinState::Transport, ..blank.clone() };
        assert!(old.is_blank());
        for state in [
            PinState::TriesLeft(3),
            PinState::TriesLeft(15),
            PinState::Locked,
            PinState::LoggedIn,
            PinState::Unclear(StatusWord(0x6F00)),
        ] {
            assert!(!CardStatus { user_pin: state, ..blank.clone() }.is_blank(), "{state:?}");
            assert!(!CardStatus { so_pin: state, ..blank.clone() }.is_blank(), "{state:?}");
            assert!(!CardStatus { user_pin: state, ..old.clone() }.is_blank(), "{state:?}");
        }
        assert!(!CardStatus { so_pin: PinState::Transport, ..blank.clone() }.is_blank());
        assert!(!CardStatus { version: (1, 2), ..blank.clone() }.is_blank());
        assert!(!CardStatus { transport_pin: true, ..blank.clone() }.is_blank());
        assert!(!CardStatus { files: 1, ..blank }.is_blank());
    }
}
