//! Whether a PIN may be sent to the token: decided from the flags and from what is known, before any try.

use crate::pin_memory::Known;
use crate::{ErrorClass, Pin, PinFlags, TokenError};

/// What the token says of PIN lengths, in bytes. A module that says nothing gives 0 for `longest`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PinLengths {
    pub(crate) shortest: usize,
    pub(crate) longest: usize,
}

/// `Ok` where a try may be used (PKCS#11 3.1, section 3.2 for the flags). `Pending` with COUNT_LOW means that the try
/// whose answer was lost was a wrong one; without it, it was not used, or right.
pub(crate) fn permit(operation: &'static str, flags: PinFlags, known: Known) -> Result<(), TokenError> {
    let refuse = |class, message: &str| Err(TokenError::new(class, operation, message));
    if flags.locked {
        return refuse(
            ErrorClass::PinLocked,
            "the token's PIN is locked; unblock it with the SO-PIN, or restore from a mirror",
        );
    }
    if flags.final_try {
        return refuse(
            ErrorClass::PinLocked,
            "one PIN try is left, and it is kept for a person: log in by hand with the right PIN",
        );
    }
    match known {
        Known::Failed => refuse(
            ErrorClass::PinIncorrect,
            "this PIN is known to be wrong and was not tried again; give another one",
        ),
        Known::Pending if flags.count_low => refuse(
            ErrorClass::PinIncorrect,
            "this PIN was sent before, its answer was lost, and the token counts a wrong try; it was not tried again",
        ),
        Known::ChangeUnderWay => refuse(
            ErrorClass::PinIncorrect,
            "a change of the PIN was cut short, and this value is neither its old nor its new one; it was not tried: \
             give one of these",
        ),
        Known::Pending | Known::Nothing => Ok(()),
    }
}

/// Whether the token takes PINs of this one's length. Too short or too long, it would answer CKR_PIN_LEN_RANGE at best.
pub(crate) fn fits(operation: &'static str, pin: &Pin, lengths: PinLengths) -> Result<(), TokenError> {
    if lengths.longest == 0 || (lengths.shortest..=lengths.longest).contains(&pin.expose().len()) {
        return Ok(());
    }
    Err(TokenError::new(
        ErrorClass::PinLength,
        operation,
        format!("the token takes PINs of {} to {} bytes; no try was used", lengths.shortest, lengths.longest),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: PinLengths = PinLengths { shortest: 6, longest: 15 };

    fn class(flags: PinFlags, known: Known) -> Option<ErrorClass> {
        permit("test", flags, known).err().map(|e| e.class)
    }

    #[test]
    fn the_whole_table() {
        let fine = PinFlags { initialized: true, ..PinFlags::default() };
        let low = PinFlags { count_low: true, ..fine };
        let last = PinFlags { final_try: true, ..low };
        let locked = PinFlags { locked: true, ..low };
        for (flags, known, expected) in [
            (fine, Known::Nothing, None),
            (fine, Known::Pending, None),
            (fine, Known::Failed, Some(ErrorClass::PinIncorrect)),
            (low, Known::Nothing, None),
            (low, Known::Pending, Some(ErrorClass::PinIncorrect)),
            (low, Known::Failed, Some(ErrorClass::PinIncorrect)),
            (fine, Known::ChangeUnderWay, Some(ErrorClass::PinIncorrect)),
            (low, Known::ChangeUnderWay, Some(ErrorClass::PinIncorrect)),
            (last, Known::ChangeUnderWay, Some(ErrorClass::PinLocked)),
            (locked, Known::ChangeUnderWay, Some(ErrorClass::PinLocked)),
            (last, Known::Nothing, Some(ErrorClass::PinLocked)),
            (last, Known::Pending, Some(ErrorClass::PinLocked)),
            (last, Known::Failed, Some(ErrorClass::PinLocked)),
            (locked, Known::Nothing, Some(ErrorClass::PinLocked)),
            (locked, Known::Pending, Some(ErrorClass::PinLocked)),
            (locked, Known::Failed, Some(ErrorClass::PinLocked)),
        ] {
            assert_eq!(class(flags, known), expected, "{flags:?} {known:?}");
        }
    }

    #[test]
    fn lengths_are_checked_without_a_try() {
        for (length, expected) in
            [(5, Some(ErrorClass::PinLength)), (6, None), (15, None), (16, Some(ErrorClass::PinLength))]
        {
            let pin = Pin::exactly("1".repeat(length));
            assert_eq!(fits("test", &pin, LENGTHS).err().map(|e| e.class), expected);
        }
        let silent = PinLengths { shortest: 0, longest: 0 };
        assert!(fits("test", &Pin::exactly("1".repeat(100)), silent).is_ok());
    }
}
