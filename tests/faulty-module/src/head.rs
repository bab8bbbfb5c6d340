//! What a card keeps beside its files: PINs, the login flag, which insertion this is, and the counters.

use serde::Serialize;

use crate::codec::{Damaged, Reader, Writer};
use crate::settings::Settings;

/// How many bytes the head has in its file: it is written in place, in one piece.
pub(crate) const HEAD_LEN: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"head   1");
/// How many wrong tries lock the SO-PIN (SC-HSM: 15).
const SO_TRIES: u8 = 15;

/// What the card has done since it was made. A real card has no such counters; a test wants them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// PIN verifications, right and wrong.
    pub logins: u64,
    /// Flash sectors erased.
    pub erases: u64,
    /// APDUs answered.
    pub apdus: u64,
    /// Times that a process connected to the card (C_Initialize, or a card that was put back), which is a SELECT.
    pub selects: u64,
    /// Objects created, destroyed, and key pairs made.
    pub writes: u64,
    /// Bytes of the values that were created.
    pub bytes_written: u64,
    /// Bytes of the values that were destroyed.
    pub bytes_replaced: u64,
    /// Values read from the card; those that a process had cached are not counted.
    pub value_reads: u64,
    /// Bytes of flash that are lost until the card is empty.
    pub bytes_leaked: u64,
}

/// What the card says to a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinAnswer {
    Right,
    Wrong,
    Locked,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// A new number each time that the card is put into a reader, or its power comes back.
    pub(crate) insertion: u64,
    /// The one login flag, which all processes share.
    pub(crate) logged_in: bool,
    /// `None`: a blank card.
    pin: Option<String>,
    so_pin: Option<String>,
    pub(crate) tries: u8,
    so_tries: u8,
    pub(crate) counters: Counters,
}

impl Head {
    pub(crate) fn new(insertion: u64) -> Self {
        Self { insertion, ..Self::default() }
    }

    /// SC-HSM's INITIALIZE sets both PINs. `pin` is `None` for a card as it comes from the factory.
    pub(crate) fn initialize(&mut self, pin: Option<&str>, so_pin: Option<&str>, settings: &Settings) {
        self.pin = pin.map(str::to_owned);
        self.so_pin = so_pin.map(str::to_owned);
        self.tries = if pin.is_some() { settings.pin_tries } else { 0 };
        self.so_tries = SO_TRIES;
        self.logged_in = false;
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.pin.is_none()
    }

    /// VERIFY: one login and one flash erase, whatever the answer; nothing where the PIN is locked.
    pub(crate) fn verify(&mut self, pin: &str, settings: &Settings) -> PinAnswer {
        if self.tries == 0 {
            self.logged_in = false;
            return PinAnswer::Locked;
        }
        self.counters.logins += 1;
        self.counters.erases += 1;
        self.logged_in = self.pin.as_deref() == Some(pin);
        if self.logged_in {
            self.tries = settings.pin_tries;
            return PinAnswer::Right;
        }
        self.tries -= 1;
        if self.tries == 0 { PinAnswer::Locked } else { PinAnswer::Wrong }
    }

    /// CHANGE REFERENCE DATA.
    pub(crate) fn change_pin(&mut self, old: &str, new: &str, settings: &Settings) -> PinAnswer {
        let answer = self.verify(old, settings);
        if answer == PinAnswer::Right {
            self.pin = Some(new.to_owned());
            self.counters.erases += 1;
        }
        answer
    }

    /// RESET RETRY COUNTER: the SO sets the user PIN anew.
    pub(crate) fn reset_pin(&mut self, so_pin: &str, new: &str, settings: &Settings) -> PinAnswer {
        if self.so_tries == 0 {
            return PinAnswer::Locked;
        }
        self.counters.erases += 1;
        if self.so_pin.as_deref() != Some(so_pin) {
            self.so_tries -= 1;
            return if self.so_tries == 0 { PinAnswer::Locked } else { PinAnswer::Wrong };
        }
        self.so_tries = SO_TRIES;
        self.pin = Some(new.to_owned());
        self.tries = settings.pin_tries;
        PinAnswer::Right
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.number(MAGIC);
        w.number(self.insertion);
        w.byte(self.logged_in.into());
        for pin in [&self.pin, &self.so_pin] {
            w.byte(pin.is_some().into());
            w.bytes(pin.as_deref().unwrap_or_default().as_bytes());
        }
        w.byte(self.tries);
        w.byte(self.so_tries);
        let c = &self.counters;
        for number in [
            c.logins,
            c.erases,
            c.apdus,
            c.selects,
            c.writes,
            c.bytes_written,
            c.bytes_replaced,
            c.value_reads,
            c.bytes_leaked,
        ] {
            w.number(number);
        }
        let mut bytes = w.into_bytes();
        bytes.resize(HEAD_LEN, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        if r.number()? != MAGIC {
            return Err(Damaged);
        }
        let (insertion, logged_in) = (r.number()?, r.byte()? != 0);
        let mut pin = || -> Result<Option<String>, Damaged> {
            let there = r.byte()? != 0;
            let text = String::from_utf8(r.bytes()?).map_err(|_| Damaged)?;
            Ok(there.then_some(text))
        };
        let (pin, so_pin) = (pin()?, pin()?);
        let (tries, so_tries) = (r.byte()?, r.byte()?);
        let counters = Counters {
            logins: r.number()?,
            erases: r.number()?,
            apdus: r.number()?,
            selects: r.number()?,
            writes: r.number()?,
            bytes_written: r.number()?,
            bytes_replaced: r.number()?,
            value_reads: r.number()?,
            bytes_leaked: r.number()?,
        };
        Ok(Self { insertion, logged_in, pin, so_pin, tries, so_tries, counters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_tries_then_locked_and_the_so_pin_opens_it() {
        let settings = Settings::default();
        let mut head = Head::default();
        head.initialize(Some("648219"), Some("3537363231383830"), &settings);
        assert_eq!(head.verify("111111", &settings), PinAnswer::Wrong);
        assert_eq!(head.verify("111111", &settings), PinAnswer::Wrong);
        assert_eq!(head.verify("111111", &settings), PinAnswer::Locked);
        assert_eq!(head.verify("648219", &settings), PinAnswer::Locked);
        assert_eq!((head.counters.logins, head.logged_in), (3, false));
        assert_eq!(head.reset_pin("wrong", "222222", &settings), PinAnswer::Wrong);
        assert_eq!(head.reset_pin("3537363231383830", "222222", &settings), PinAnswer::Right);
        assert_eq!(head.verify("222222", &settings), PinAnswer::Right);
        assert_eq!(head.change_pin("222222", "333333", &settings), PinAnswer::Right);
        assert_eq!(Head::decode(&head.encode()), Ok(head));
    }

    #[test]
    fn a_blank_card_takes_no_pin() {
        let mut head = Head::default();
        head.initialize(None, None, &Settings::default());
        assert!(head.is_blank());
        assert_eq!(head.verify("", &Settings::default()), PinAnswer::Locked);
    }
}
