//! Digests of contents.
//!
//! Both digests are salted with the record's incarnation but not keyed: whoever has one can test guesses of a short
//! password. They travel only between token, agent and controller (mTLS), never into a status, an event or a log.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{Content, Incarnation, Key, RecordPath, Value};

/// SHA-256 over a length-prefixed form of a record's content (see [`Digest::of`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// The first eight bytes of a SHA-256 over one key and its value (see [`KeyDigest::of`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 8]);

impl Digest {
    /// The digest of `content` in the given life of the record at `path`.
    ///
    /// SHA-256 over the concatenation of: the ASCII text `hsm.j5t.io/content/v1`, the incarnation (8 bytes), the path;
    /// the number of values, then each key and value in key order; the description; the number of labels, then each
    /// name and value in order; the number of attributes, then each name and value in order. Every text and value is
    /// preceded by its length, every length and number is a big-endian u32.
    pub fn of(path: &RecordPath, incarnation: Incarnation, content: &Content) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"hsm.j5t.io/content/v1");
        hash.update(incarnation.as_bytes());
        field(&mut hash, path.as_str().as_bytes());
        number(&mut hash, content.data.len());
        for (key, value) in &content.data {
            field(&mut hash, key.as_str().as_bytes());
            field(&mut hash, value.expose());
        }
        field(&mut hash, content.metadata.description.as_bytes());
        for map in [&content.metadata.labels, &content.metadata.attributes] {
            number(&mut hash, map.len());
            for (name, value) in map {
                field(&mut hash, name.as_bytes());
                field(&mut hash, value.as_bytes());
            }
        }
        Self(hash.finalize().into())
    }

    /// Takes the bytes as they were received.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl KeyDigest {
    /// The digest of one value in the given life of its record.
    ///
    /// The first 8 bytes of SHA-256 over: the ASCII text `hsm.j5t.io/key/v1`, the incarnation (8 bytes), the length
    /// of the key (big-endian u32), the key, the value.
    pub fn of(incarnation: Incarnation, key: &Key, value: &Value) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"hsm.j5t.io/key/v1");
        hash.update(incarnation.as_bytes());
        field(&mut hash, key.as_str().as_bytes());
        hash.update(value.expose());
        let full: [u8; 32] = hash.finalize().into();
        let mut short = [0; 8];
        short.copy_from_slice(&full[..8]);
        Self(short)
    }

    /// Takes the bytes as they were stored.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The eight bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

/// A number of elements or bytes. A content that does not fit u32 does not fit a token by six orders of magnitude.
fn number(hash: &mut Sha256, n: usize) {
    hash.update(u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    number(hash, bytes.len());
    hash.update(bytes);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Metadata, Payload};

    fn content(pairs: &[(&str, &str)]) -> Content {
        let data: Payload =
            pairs.iter().map(|(k, v)| (Key::new(*k).unwrap(), Value::new(v.as_bytes().to_vec()))).collect();
        Content { data, metadata: Metadata::default() }
    }

    #[test]
    fn length_prefixes_keep_neighbours_apart() {
        let path = RecordPath::new("p").unwrap();
        let life = Incarnation::from_bytes([7; 8]);
        let of = |c: &Content| *Digest::of(&path, life, c).as_bytes();
        assert_ne!(of(&content(&[("a", "bc")])), of(&content(&[("ab", "c")])));
        assert_ne!(of(&content(&[("a", "")])), of(&content(&[])));
        let mut described = content(&[("a", "b")]);
        described.metadata.description = "x".into();
        assert_ne!(of(&described), of(&content(&[("a", "b")])));
    }

    #[test]
    fn digests_do_not_show_in_debug_output() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(format!("{digest:?}"), "Digest(…)");
    }
}
