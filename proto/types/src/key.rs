//! The name of one value inside a record.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// Why a text is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key {0:?} is not allowed; use 1 to 253 of the characters A-Z, a-z, 0-9, '-', '_' and '.', and not a leading '..'"
)]
pub struct InvalidKey(
    /// The key as it was given, cut to 64 characters.
    pub String,
);

/// A key of a Secret's `data`: 1 to 253 characters of `[-._a-zA-Z0-9]`, not `.`, and not starting with `..`
/// (Kubernetes, `IsConfigMapKey`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Parses and validates.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidKey> {
        let text = text.into();
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let bad = text.is_empty()
            || text.len() > 253
            || !text.bytes().all(allowed)
            || text == "."
            || text.starts_with("..");
        if bad { Err(InvalidKey(text.chars().take(64).collect())) } else { Ok(Self(text)) }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        Self::new(text)
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_kubernetes() {
        for good in ["a", "tls.crt", ".dockerconfigjson", "A_b-1", "data", ".a..b"] {
            assert!(Key::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "..a", "a/b", "schlüssel", "a b", &"k".repeat(254)] {
            assert!(Key::new(bad).is_err(), "{bad}");
        }
    }
}
