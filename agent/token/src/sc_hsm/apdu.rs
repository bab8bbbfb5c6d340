//! Commands to a smart card and its answers, as bytes (ISO/IEC 7816-4).

use zeroize::Zeroizing;

use super::CardChannel;
use crate::{ErrorClass, TokenError};

/// How many answers in a row may say that there is more: 64 KiB in portions of 256 bytes.
const PORTIONS: usize = 256;

/// Whether an answer with data is expected, and how long it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// No data.
    Nothing,
    /// Up to 256 bytes.
    Short,
    /// Up to 65,536 bytes; the card has to know extended lengths.
    Extended,
}

/// One command. Its data may be a PIN: the bytes are wiped.
pub(crate) struct Apdu {
    pub(crate) header: [u8; 4],
    pub(crate) data: Zeroizing<Vec<u8>>,
    pub(crate) expect: Expect,
}

impl Apdu {
    pub(crate) fn new(header: [u8; 4], data: &[u8], expect: Expect) -> Self {
        Self { header, data: Zeroizing::new(data.to_vec()), expect }
    }

    /// The command's bytes; `None` where the data is longer than the 255 bytes of the short form. Data with an
    /// extended answer, which would need the extended form, is not asked for.
    fn bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(4 + 1 + self.data.len() + 3));
        bytes.extend_from_slice(&self.header);
        if !self.data.is_empty() {
            bytes.push(u8::try_from(self.data.len()).ok()?);
            bytes.extend_from_slice(&self.data);
        }
        match self.expect {
            Expect::Nothing => {}
            Expect::Short => bytes.push(0),
            Expect::Extended if self.data.is_empty() => bytes.extend_from_slice(&[0, 0, 0]),
            Expect::Extended => return None,
        }
        Some(bytes)
    }
}

/// What a card answered: data and status word.
pub(crate) struct Answer {
    pub(crate) data: Zeroizing<Vec<u8>>,
    pub(crate) status: StatusWord,
}

/// SW1 and SW2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StatusWord(pub u16);

impl std::fmt::Debug for StatusWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04X}", self.0)
    }
}

impl StatusWord {
    pub(crate) const OK: Self = Self(0x9000);
    pub(crate) const WRONG_LENGTH: Self = Self(0x6700);
    pub(crate) const SECURITY: Self = Self(0x6982);
    pub(crate) const BLOCKED: Self = Self(0x6983);
    /// Reference data not usable: a transport PIN is set; a SmartCard-HSM before 2.0 that was never initialised.
    pub(crate) const NOT_USABLE: Self = Self(0x6984);
    pub(crate) const FILE_NOT_FOUND: Self = Self(0x6A82);
    /// Reference data not found: that PIN was never set.
    pub(crate) const NOT_SET: Self = Self(0x6A88);

    /// The tries that are left, where the answer is about that.
    pub(crate) fn tries_left(self) -> Option<u8> {
        (self.0 & 0xFFF0 == 0x63C0).then_some((self.0 & 0xF) as u8)
    }

    /// What it means (ISO/IEC 7816-4, tables 5 to 7).
    fn meaning(self) -> &'static str {
        match self.0 {
            0x9000 => "done",
            0x6285 => "the applet is terminated",
            0x63C0..=0x63CF => "wrong PIN",
            0x6400..=0x65FF => "the card failed while it worked on this",
            0x6700 => "wrong length",
            0x6982 => "not allowed without a login",
            0x6983 => "the PIN is locked",
            0x6984 => "a transport PIN is set, or none was ever set",
            0x6985 => "not allowed in the card's present state",
            0x6A80 => "the data is not what the card takes",
            0x6A82 => "no such file or applet",
            0x6A84 => "no room is left",
            0x6A86 => "wrong parameters",
            0x6A88 => "not set",
            0x6D00 | 0x6E00 => "the card does not know this command",
            0x6F00..=0x6FFF => "the card failed",
            _ => "an unknown answer",
        }
    }

    /// The error of a command that was answered so.
    pub(crate) fn error(self, class: ErrorClass, operation: &'static str, what: &str) -> TokenError {
        TokenError {
            code: Some(format!("SW {self:?}")),
            ..TokenError::new(class, operation, format!("{what}: {}", self.meaning()))
        }
    }
}

/// Sends a command and collects the whole answer: 61xx says that there is more (GET RESPONSE), 6Cxx which length is
/// the right one (T=0 readers).
pub(crate) fn exchange(
    channel: &mut dyn CardChannel,
    operation: &'static str,
    apdu: &Apdu,
) -> Result<Answer, TokenError> {
    let fault = |message: &str| TokenError::new(ErrorClass::Module, operation, message);
    let mut bytes =
        apdu.bytes().ok_or_else(|| fault("a command to the card is longer than its short form"))?;
    let mut data = Zeroizing::new(Vec::new());
    for _ in 0..PORTIONS {
        let answer = Zeroizing::new(channel.transmit(&bytes)?);
        let Some((portion, &[first, second])) = answer.split_last_chunk::<2>() else {
            return Err(fault("the card gave an answer without a status word"));
        };
        data.extend_from_slice(portion);
        match first {
            0x61 => bytes = Zeroizing::new(vec![0x00, 0xC0, 0x00, 0x00, second]),
            0x6C if bytes.len() == 5 => {
                bytes.pop();
                bytes.push(second);
            }
            _ => {
                let status = StatusWord(u16::from_be_bytes([first, second]));
                return Ok(Answer { data, status });
            }
        }
    }
    Err(fault("the card's answer has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(Vec<(Vec<u8>, Vec<u8>)>);

    impl CardChannel for Script {
        fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, TokenError> {
            let (expected, answer) = self.0.remove(0);
            assert_eq!(command, expected);
            Ok(answer)
        }
    }

    #[test]
    fn the_four_forms_of_a_command() {
        let bytes =
            |data: &[u8], expect| Apdu::new([0, 1, 2, 3], data, expect).bytes().map(|bytes| bytes.to_vec());
        assert_eq!(bytes(&[], Expect::Nothing), Some(vec![0, 1, 2, 3]));
        assert_eq!(bytes(&[], Expect::Short), Some(vec![0, 1, 2, 3, 0]));
        assert_eq!(bytes(&[], Expect::Extended), Some(vec![0, 1, 2, 3, 0, 0, 0]));
        assert_eq!(bytes(&[9, 8], Expect::Nothing), Some(vec![0, 1, 2, 3, 2, 9, 8]));
        assert_eq!(bytes(&[9, 8], Expect::Short), Some(vec![0, 1, 2, 3, 2, 9, 8, 0]));
        assert_eq!(bytes(&[0; 256], Expect::Nothing), None);
        assert_eq!(bytes(&[1], Expect::Extended), None);
    }

    #[test]
    fn an_answer_in_portions_is_put_together() {
        let mut script = Script(vec![
            (vec![0, 1, 2, 3, 0], vec![0x6C, 0x03]),
            (vec![0, 1, 2, 3, 3], vec![7, 0x61, 0x02]),
            (vec![0, 0xC0, 0, 0, 2], vec![8, 9, 0x90, 0x00]),
        ]);
        let answer =
            exchange(&mut script, "test", &Apdu::new([0, 1, 2, 3], &[], Expect::Short)).ok().unwrap();
        assert_eq!((answer.data.as_slice(), answer.status), (&[7, 8, 9][..], StatusWord::OK));
    }

    #[test]
    fn nonsense_is_an_error_and_comes_to_an_end() {
        struct Nonsense(Vec<u8>);
        impl CardChannel for Nonsense {
            fn transmit(&mut self, _: &[u8]) -> Result<Vec<u8>, TokenError> {
                Ok(self.0.clone())
            }
        }
        for answer in [vec![], vec![0x90], vec![1, 0x61, 0x01]] {
            let apdu = Apdu::new([0, 1, 2, 3], &[], Expect::Short);
            let error = exchange(&mut Nonsense(answer), "test", &apdu).err().unwrap();
            assert_eq!(error.class, ErrorClass::Module);
        }
    }

    #[test]
    fn tries_are_read_from_the_status_alone() {
        assert_eq!(StatusWord(0x63C3).tries_left(), Some(3));
        assert_eq!(StatusWord(0x63C0).tries_left(), Some(0));
        assert_eq!(StatusWord(0x6300).tries_left(), None);
        assert_eq!(StatusWord(0x6983).tries_left(), None);
        let error = StatusWord::BLOCKED.error(ErrorClass::PinLocked, "verify", "the login");
        assert_eq!(error.to_string(), "verify: the login: the PIN is locked (SW 6983)");
    }
}
