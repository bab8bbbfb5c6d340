//! INITIALIZE DEVICE: the one way to personalise a Pico HSM. It wipes everything and asks for no PIN, so that the only
//! thing between it and somebody's secrets is [`CardStatus::is_blank`].

use zeroize::Zeroizing;

use super::apdu::{Apdu, Expect, StatusWord};
use super::{CardStatus, PinState, ScHsm};
use crate::{ErrorClass, Pin, TokenError};

/// How many wrong PINs lock the card that we initialise.
pub(super) const TRIES: u8 = 3;
/// The lengths of a user PIN, in bytes.
const PIN_LENGTHS: std::ops::RangeInclusive<usize> = 6..=15;
/// The option that lets the SO-PIN reset the counter of a locked PIN.
const RESET_RETRY_COUNTER: u8 = 0x01;

impl ScHsm<'_> {
    /// Initialises a card that is positively blank: user PIN (6 to 15 bytes), SO-PIN (16 hexadecimal digits), three
    /// tries, no DKEK (no key ever leaves the card), no label. Leaves it logged out, and gives its state as it is then.
    ///
    /// Errors: `PinLength` for either PIN, `Invalid` where the card is not blank; nothing was changed then. `Module`
    /// where the card refuses, or is not what it should be afterwards.
    pub fn initialize(
        mut self,
        so_pin: &Pin,
        pin: &Pin,
        operation: &'static str,
    ) -> Result<CardStatus, TokenError> {
        let command = command(so_pin, pin, operation)?;
        let before = self.status(operation)?;
        if !before.is_blank() {
            return Err(TokenError::new(
                ErrorClass::Invalid,
                operation,
                format!(
                    "the card does not say that it is blank (user PIN {:?}, SO-PIN {:?}, {} files), and initialising \
                     wipes it; nothing was changed. If it really is to be wiped, do that by hand (sc-hsm-tool)",
                    before.user_pin, before.so_pin, before.files
                ),
            ));
        }
        let answer = self.exchange(operation, &command)?;
        if answer.status != StatusWord::OK {
            return Err(answer.status.error(ErrorClass::Module, operation, "the card was not initialised"));
        }
        // The card is logged in now; selecting the applet again ends that.
        let after = ScHsm::select(self.channel, operation)?.status(operation)?;
        if after.user_pin != PinState::TriesLeft(TRIES) {
            return Err(TokenError::new(
                ErrorClass::Module,
                operation,
                format!(
                    "the card took its initialisation, but its PIN is not as it was set: {:?}",
                    after.user_pin
                ),
            ));
        }
        Ok(after)
    }
}

fn command(so_pin: &Pin, pin: &Pin, operation: &'static str) -> Result<Apdu, TokenError> {
    let length = |message: String| TokenError::new(ErrorClass::PinLength, operation, message);
    let pin = pin.expose().as_bytes();
    let (true, Ok(pin_length)) = (PIN_LENGTHS.contains(&pin.len()), u8::try_from(pin.len())) else {
        return Err(length(format!("the card takes PINs of 6 to 15 bytes, this one has {}", pin.len())));
    };
    let code = initialisation_code(so_pin)
        .ok_or_else(|| length("the SO-PIN of this card is 16 hexadecimal digits".to_owned()))?;
    let mut data = Zeroizing::new(Vec::with_capacity(64));
    data.extend_from_slice(&[0x80, 2, 0x00, RESET_RETRY_COUNTER]);
    data.extend_from_slice(&[0x81, pin_length]);
    data.extend_from_slice(pin);
    data.extend_from_slice(&[0x82, 8]);
    data.extend_from_slice(&*code);
    data.extend_from_slice(&[0x91, 1, TRIES]);
    Ok(Apdu { header: [0x80, 0x50, 0x00, 0x00], data, expect: Expect::Nothing })
}

/// Eight bytes from sixteen digits.
fn initialisation_code(so_pin: &Pin) -> Option<Zeroizing<[u8; 8]>> {
    let digits = so_pin.expose().as_bytes();
    if digits.len() != 16 {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok());
    let mut code = Zeroizing::new([0; 8]);
    for (byte, pair) in code.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Pin {
        Pin::exactly(text.to_owned())
    }

    #[test]
    fn the_command_byte_by_byte() {
        let apdu = command(&pin("0123456789abCDEF"), &pin("648219"), "test").ok().unwrap();
        assert_eq!(apdu.header, [0x80, 0x50, 0, 0]);
        assert_eq!(
            *apdu.data,
            [
                0x80, 0x02, 0x00, 0x01, // options
                0x81, 0x06, b'6', b'4', b'8', b'2', b'1', b'9', // user PIN
                0x82, 0x08, 0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, // SO-PIN
                0x91, 0x01, 0x03, // tries
            ]
        );
    }

    #[test]
    fn pins_that_the_card_does_not_take_are_refused_before() {
        let class = |so: &str, user: &str| command(&pin(so), &pin(user), "test").err().map(|e| e.class);
        let so = "0123456789abcdef";
        for user in ["", "12345", "1234567890123456"] {
            assert_eq!(class(so, user), Some(ErrorClass::PinLength), "{user}");
        }
        for so in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", "3537363231383830é"] {
            assert_eq!(class(so, "648219"), Some(ErrorClass::PinLength), "{so}");
        }
        assert_eq!(class(so, "123456789012345"), None);
    }
}
