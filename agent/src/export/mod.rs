//! Encrypted exports of a token's records: the file, byte by byte, and how it is written, checked and read.
//!
//! This module owns the format and the encryption. It never talks to a token, never decides what an import does with
//! a record, and never puts anything in clear on a disk.
//!
//! # The file
//!
//! An age file (age-encryption.org/v1, binary): any age program opens it with the same passphrase or identity. For a
//! passphrase the work factor is 2^18 (a second and 256 MiB). Inside is the stream below. It changes only by a new
//! format version, and the vector in this module's tests fails when a byte of it moves.
//!
//! Numbers are big-endian. `bytes` are a u32 length and that many bytes; `text` is `bytes` in UTF-8; a `list` is a u32
//! number of elements and the elements.
//!
//! | part | |
//! |---|---|
//! | magic | 8 bytes, `F5` and `HSMEXP` and the format version, 1 |
//! | header | TokenId (16 bytes), text: the program that wrote it, text: the prefix of the paths that were asked for (empty: all) |
//! | entries | until the one of kind 255: a byte for the kind, and `bytes` |
//! | end of file | nothing follows the entry of kind 255 |
//!
//! | kind | entry |
//! |---|---|
//! | 1 | **record**: a living version. All heads of a record that has diverged are there, one after another |
//! | 2 | **earlier value** of the record before it, newest first |
//! | 3 | **tombstone**: path, point |
//! | 4 | **missing**: text: a path, or the label of an object; text: why it could not be read. Nothing else is known of it |
//! | 255 | **end**: u32 numbers of the entries of kinds 1, 2, 3 and 4, and SHA-256 (32 bytes) over everything from the magic to before this entry |
//!
//! A record and an earlier value: path, point, lineage, origin, metadata, values, digest.
//!
//! | part | |
//! |---|---|
//! | path | text |
//! | point | incarnation (8 bytes), epoch number (u32), writer (8 bytes), counter (u64) |
//! | lineage | list of: epoch number (u32), writer (8 bytes), the counter where that epoch ended (u64) |
//! | origin | a byte: 0 the token, 1 the token with a mark, 2 the Secret; a mark is: epoch number (u32), writer (8), counter (u64), list of: key (text), key digest (8 bytes) |
//! | metadata | text: description; list of labels: two texts; list of attributes: two texts |
//! | values | list of: key (text), value (bytes), in the order of the keys |
//! | digest | the content's digest (32 bytes, `hsm_types::Digest::of`), checked when the file is read |
//!
//! age authenticates every 64 KiB and the end of the file; the digest in the end entry is a second check that does not
//! rest on the encryption, and what a file that was written without its identity is compared by.
//!
//! # Memory
//!
//! Values are wiped from our own buffers, and age wipes its keys and what it decrypts. It does not wipe the 64 KiB
//! buffer from which it encrypts: an export leaves at most that much of a token's contents in the memory of a process
//! that ends at once.

mod crypt;
mod file;
mod item;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use hsm_store::Replica;
use hsm_types::{TokenId, Tombstone};

pub use crypt::{Lock, Unlock, passphrase};
pub use file::{Draft, Verified, read};
pub use stream::{Reader, Writer};

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The token that it was made of.
    pub token_id: TokenId,
    /// The program that made it, and its version.
    pub made_by: String,
    /// Only paths that begin so were asked for; empty: all.
    pub prefix: String,
}

/// One entry.
pub enum Item {
    /// A living version.
    Record(Replica),
    /// An earlier value of the record before it.
    Earlier(Replica),
    /// A life that ended.
    Tombstone(Tombstone),
    /// Something that could not be read when the export was made.
    Missing(Missing),
}

/// Something that an export lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// A path, or the label of an object.
    pub what: String,
    /// Why it could not be read.
    pub why: String,
}

/// How many entries there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Living versions.
    pub records: u32,
    /// Earlier values.
    pub earlier: u32,
    /// Tombstones.
    pub tombstones: u32,
    /// What could not be read.
    pub missing: u32,
}

/// A whole export, read and checked.
pub struct Export {
    /// What it says of itself.
    pub header: Header,
    /// Its entries in their order.
    pub items: Vec<Item>,
    /// How many there are.
    pub counts: Counts,
    /// The digest in its end entry.
    pub digest: [u8; 32],
}

impl Export {
    /// Whether it holds everything that its token held.
    pub fn is_whole(&self) -> bool {
        self.header.prefix.is_empty() && self.counts.missing == 0
    }
}

/// Why an export cannot be written or read. Never holds a value.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The file system, or the end of the file where none should be.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It is not encrypted as age does it.
    #[error("it is not an encrypted export: {0}")]
    NotAge(String),
    /// The passphrase or the identities do not open it.
    #[error("it cannot be decrypted: {0}")]
    Locked(String),
    /// It is encrypted, and something else is inside.
    #[error("it is an age file, but what is in it is not an export of records")]
    NotOurs,
    /// It is of a newer format version.
    #[error("it is of export format {0}; use a newer version of this program")]
    Newer(u8),
    /// It ends too early, or was altered.
    #[error("it is cut short or was altered ({0}); nothing of it was used")]
    Damaged(String),
    /// A passphrase, recipient or identity that cannot be used.
    #[error("{0}")]
    Key(String),
}

impl ExportError {
    fn malformed(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}
