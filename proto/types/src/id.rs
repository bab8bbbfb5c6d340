//! Identifiers of tokens, writers and incarnations.

use std::fmt;
use std::str::FromStr;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: expected {expected}")]
pub struct ParseIdError {
    /// The kind of identifier that was expected.
    pub what: &'static str,
    /// The form it has.
    pub expected: &'static str,
}

/// The identity of a token: a random UUID (RFC 9562, version 4) that we wrote on it.
///
/// The PKCS#11 serial cannot serve: it is the same on every Pico HSM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId([u8; 16]);

impl TokenId {
    /// Makes an id of 16 random bytes, setting the version and variant bits of RFC 9562.
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// Takes the bytes as they were stored.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, big-endian as in the text form.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The name of an epoch's writer: this token's mark and a random nonce (see [`WriterId`]).
    pub fn writer(&self, nonce: [u8; 4]) -> WriterId {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.0[..4]);
        bytes[4..].copy_from_slice(&nonce);
        WriterId(bytes)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for TokenId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let error = ParseIdError {
            what: "token id",
            expected: "a UUID such as 6f9b2d1e-8c3a-4e57-9b1d-0a2f4c6e8d10",
        };
        let hyphens: Vec<usize> = text.match_indices('-').map(|(i, _)| i).collect();
        if hyphens != [8, 13, 18, 23] {
            return Err(error);
        }
        parse_hex::<16>(&text.replace('-', "")).map(Self).ok_or(error)
    }
}

/// Who writes an epoch: the first four bytes of the [`TokenId`] on which it is written, and four random bytes drawn when
/// the epoch begins.
///
/// The token's mark tells whether an epoch may be continued there. The nonce keeps two epochs of one number apart that
/// one token began twice: when it was rolled back to an old image and then edited without a cluster, the versions it
/// lost must not be taken for the new ones. Eight bytes, because every record on a small token carries them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriterId([u8; 8]);

impl WriterId {
    /// Takes the bytes as they were stored.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The eight bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Whether both epochs were begun on one token.
    pub fn same_token(&self, other: &Self) -> bool {
        self.0[..4] == other.0[..4]
    }
}

/// A record's random 64-bit name for one life: made when the record is created, gone when it is deleted.
///
/// A tombstone kills an incarnation, so a new record of the same path is safe from an old tombstone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation([u8; 8]);

impl Incarnation {
    /// Takes eight random bytes, or the bytes as they were stored.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The eight bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

/// The serial number in a USB device descriptor; ties a token to its device, never identifies it alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsbSerial(String);

impl UsbSerial {
    /// Takes a serial as sysfs prints it; `None` when nothing is left after trimming.
    pub fn new(text: &str) -> Option<Self> {
        let trimmed = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        (!trimmed.is_empty()).then(|| Self(trimmed.to_owned()))
    }

    /// The serial as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UsbSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

macro_rules! hex_id {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex::<8>(text)
                    .map(Self)
                    .ok_or(ParseIdError { what: $what, expected: "16 lower-case hexadecimal digits" })
            }
        }
    };
}
hex_id!(WriterId, "writer id");
hex_id!(Incarnation, "incarnation");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_id_text_form_round_trips_and_has_rfc_9562_bits() {
        let id = TokenId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "ffffffffffff4fffbfffffffffffffff", "FFFFFFFF-ffff-4fff-bfff-ffffffffffff", "é"] {
            assert!(bad.parse::<TokenId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn short_ids_round_trip() {
        let id = Incarnation::from_bytes([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);
        assert_eq!(id.to_string(), "00010203fcfdfeff");
        assert_eq!("00010203fcfdfeff".parse(), Ok(id));
        assert!("+1010203fcfdfeff".parse::<Incarnation>().is_err());
    }

    #[test]
    fn usb_serial_is_trimmed_and_never_empty() {
        assert_eq!(UsbSerial::new(" E66\n\0").map(|s| s.as_str().to_owned()), Some("E66".to_owned()));
        assert_eq!(UsbSerial::new(" \n"), None);
    }
}
