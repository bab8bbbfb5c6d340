//! What lies on a token, byte by byte.
//!
//! This format holds secrets for years: it changes only by a new format version, and the vectors in this module's
//! tests fail when a byte of it moves. Numbers of fixed width are big-endian. `varint` is unsigned LEB128 in its
//! shortest form (1 to 10 bytes; a longer form is damage, so that every value has one encoding). `text` and `bytes`
//! are a varint length and that many bytes; texts are UTF-8.
//!
//! # Names
//!
//! | label | object | visibility |
//! |---|---|---|
//! | `hsm.j5t.io/token` | the identity, below | public: it is read before a PIN is given |
//! | `hsm.j5t.io/store-key` | EC key pair, P-256, may only derive; made on the token and never leaves it | – |
//! | `hsm.j5t.io/key/0`, `…/key/1` | the wrapped store key, twice the same bytes | private: without the PIN it can be neither read nor destroyed |
//! | `hsm.j5t.io/o/` + 16 hex digits | a sealed object; the digits are its object id | private |
//!
//! Whatever else begins with `hsm.j5t.io/` is of a newer format, and counts as an object that cannot be read. All
//! other objects are plain records of ours (`plain/mod.rs` has their format), records in the formats of others
//! (`foreign/mod.rs`), or somebody else's: counted, never read, never touched. Labels hold nothing secret.
//!
//! # Head of every value
//!
//! | at | size | |
//! |---|---|---|
//! | 0 | 2 | magic `F5 48` (`F5` occurs in no UTF-8 text) |
//! | 2 | 1 | format version, 1 |
//! | 3 | 1 | kind: 1 identity, 2 wrapped store key, 3 sealed object |
//!
//! # Identity (kind 1), 28 bytes
//!
//! | at | size | |
//! |---|---|---|
//! | 4 | 16 | TokenId |
//! | 20 | 8 | check: the first 8 bytes of SHA-256 over bytes 0–19. Against damage; it proves nothing |
//!
//! # Wrapped store key (kind 2), 218 bytes
//!
//! | at | size | |
//! |---|---|---|
//! | 4 | 16 | TokenId |
//! | 20 | 8 | store id, random |
//! | 28 | 65 | public point of the key pair it is wrapped for (SEC 1, uncompressed) |
//! | 93 | 65 | ephemeral public point |
//! | 158 | 12 | nonce, random |
//! | 170 | 32 | the store key, sealed |
//! | 202 | 16 | tag |
//!
//! Wrapping key = HKDF-SHA256(salt: store id, input: x-coordinate of ECDH(ephemeral, key pair), info:
//! `hsm.j5t.io/wrap/v1` ‖ bytes 4–157), 32 bytes. Sealed with AES-256-GCM, associated data: bytes 0–169.
//! It is written twice, before the identity and before any record, and never rewritten.
//!
//! From the store key come, by HKDF-SHA256 (salt: store id, input: store key, info: the text ‖ TokenId): the
//! **sealing key** (`hsm.j5t.io/seal/v1`, 32 bytes), and the **fingerprint** (`hsm.j5t.io/fingerprint/v1`, 16 bytes),
//! which may be shown and is what admission pins.
//!
//! # Sealed object (kind 3), 48 bytes and its body
//!
//! | at | size | |
//! |---|---|---|
//! | 4 | 8 | object id, random; the same as in the label |
//! | 12 | 8 | generation: 1 + the highest that was on the token when it was written |
//! | 20 | 12 | nonce, random, never derived and never used twice |
//! | 32 | n | body, sealed |
//! | 32 + n | 16 | tag |
//!
//! AES-256-GCM with the sealing key; associated data: `hsm.j5t.io/object/v1` ‖ TokenId ‖ store id ‖ bytes 0–31.
//!
//! Body: `varint` number of objects that this one **replaces**, their ids (8 bytes each), then entries to the end.
//! A replaced object whose generation is lower than that of the object that names it is never read again. A page with
//! records names all predecessors that are still there, so that none comes back when its successor goes; a page of
//! tombstones need not, since a tombstone that comes back kills nothing that is not dead.
//!
//! An entry is one byte for its kind, its length as a varint, and that many bytes:
//!
//! | kind | entry |
//! |---|---|
//! | 1 | **record**: place, tail |
//! | 2 | **tombstone**: place (the newest version that the one who deleted it knew of). Kills its incarnation |
//! | 3 | **chunk head**: place, set id (8), varint number of chunks, varint length of the tail, content digest (32) |
//! | 4 | **chunk body**: place, set id (8), varint index from 0, varint number of chunks, then its part of the tail |
//! | 5 | **history**: place, tail: an earlier value, never the current one |
//! | 6 | **history head**: as 3 |
//! | 7 | **marker**: one byte, 1 = compaction under way: until it is gone nothing is known of any record |
//!
//! An own object is a sealed object with one entry, a page is one with several; there is no other difference. An
//! object that holds an entry of an unknown kind, or anything that is not exactly as written here, counts as one that
//! cannot be read, whole: nothing is skipped.
//!
//! **Place**: `text` path, incarnation (8), `varint` epoch number, writer (8), `varint` counter. A writer is the first
//! four bytes of the TokenId on which the epoch was begun, and four random bytes drawn then.
//!
//! **Tail**:
//! 1. flags, one byte: 1 = the content came from the Secret, 2 = a mark follows, 4 = metadata follow; others are 0,
//!    and 1 and 2 exclude each other;
//! 2. lineage: `varint` number of entries, each: `varint` epoch number, writer (8), `varint` where it ended; in
//!    ascending order of (number, writer), never the version's own epoch;
//! 3. mark, if flagged: `varint` epoch number, writer (8), `varint` counter (the incarnation is the record's);
//!    `varint` number of keys, each: `varint` n, where n > 0 is the n-th key of this record, and 0 is followed by
//!    the key as `text`; then its key digest (8);
//! 4. metadata, if flagged: `text` description; `varint` number of labels, each two `text`s, ascending by the first;
//!    `varint` number of attributes, the same;
//! 5. values: `varint` number, each: key as `text`, value as `bytes`; ascending by key.
//!
//! A record whose own object would be longer than the token takes is **chunked**: its tail is cut into parts, each in
//! a chunk body in an object of its own, tied to the head by a random set id; the head is written last. A head whose
//! parts are not all there is no version at all. The content digest is `hsm_types::Digest::of`.
//!
//! # What it costs
//!
//! Beside path, keys and values, a record with one key, one lineage entry and a mark costs 60 to 65 bytes, and its
//! share of the page: 8 bytes in a page of six (a test holds it under 90).

mod entry;
mod identity;
mod key;
mod object;
mod wire;

#[cfg(test)]
mod vectors;

pub(crate) use entry::{
    ChunkBody, ChunkHead, Entry, RecordEntry, body_overhead, decode_tail, encode_body, encode_compaction,
    encode_head, encode_history, encode_history_head, encode_record, encode_tail, encode_tombstone,
    page_share,
};
pub(crate) use identity::{decode_identity, encode_identity};
pub use key::Fingerprint;
#[cfg(test)]
pub(crate) use key::StoreId;
pub(crate) use key::{StoreKeys, WRAPPED_LEN, Wrapped, random_ephemeral, wrap};
#[cfg(any(test, feature = "testing"))]
pub(crate) use object::parse as parse_body;
pub(crate) use object::{ObjectId, SEALED_OVERHEAD, Sealed, SetId, open, seal};
pub(crate) use wire::Malformed;

/// A number of elements as it stands before them.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn encode_count(count: usize) -> zeroize::Zeroizing<Vec<u8>> {
    let mut writer = wire::Writer::new();
    writer.length(count);
    writer.done()
}

/// Label of the identity object.
pub const IDENTITY_LABEL: &str = "hsm.j5t.io/token";
/// Label of the key pair that wraps the store key.
pub const KEY_PAIR_LABEL: &str = "hsm.j5t.io/store-key";
/// Labels of the two copies of the wrapped store key.
pub const KEY_LABELS: [&str; 2] = ["hsm.j5t.io/key/0", "hsm.j5t.io/key/1"];
/// What the label of every sealed object begins with.
pub const OBJECT_PREFIX: &str = "hsm.j5t.io/o/";
/// What the label of everything of ours begins with.
pub const PREFIX: &str = "hsm.j5t.io/";

/// The format version that is written.
pub(crate) const VERSION: u8 = 1;
const MAGIC: [u8; 2] = [0xf5, b'H'];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Identity = 1,
    StoreKey = 2,
    Sealed = 3,
}

impl Kind {
    pub(crate) const fn head(self) -> [u8; 4] {
        [MAGIC[0], MAGIC[1], VERSION, self as u8]
    }

    /// Whether `value` begins as an object of this kind should.
    pub(crate) fn check(self, value: &[u8]) -> Result<(), Damage> {
        match value {
            [m, n, version, ..] if [*m, *n] == MAGIC && *version > VERSION => Err(Damage::Newer(*version)),
            _ if value.starts_with(&self.head()) => Ok(()),
            _ => Err(Damage::Header),
        }
    }
}

/// Why an object of ours cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The token lists it and does not give its value.
    #[error("the token lists it but cannot read it: {0}")]
    Unreadable(String),
    /// It should be there and is not.
    #[error("it is missing")]
    Missing,
    /// Its name is not one that this version knows.
    #[error("its name is not one that this version knows; use a newer version")]
    Name,
    /// More than one object has its name.
    #[error("{0} objects have its name")]
    Doubled(usize),
    /// It does not begin as an object of its kind.
    #[error("it does not begin as such an object does")]
    Header,
    /// It is of a newer format version.
    #[error("it is of format version {0}; use a newer version")]
    Newer(u8),
    /// It is another object than its label says: a stale handle, or objects that were swapped.
    #[error("it is not the object that its name says")]
    WrongObject,
    /// It does not belong to this store, or was altered.
    #[error("its seal is broken: it was altered, or is of another token")]
    Seal,
    /// The seal is good and the content is not as the format says: written by a newer version.
    #[error("its content is not understood ({0}); use a newer version")]
    Body(&'static str),
    /// A record in clear (plain, or of another program) that cannot be read as one.
    #[error("it cannot be read as a record: {0}")]
    Unclear(String),
}

impl From<Malformed> for Damage {
    fn from(malformed: Malformed) -> Self {
        Self::Body(malformed.0)
    }
}
