//! The store: one owner of one token's records.
//!
//! `open` finds the identity and the store key, `scan` keeps the index equal to the token, `read` gives values,
//! `write`, `batch`, `history` and `bury` change records, `place` makes room and destroys what is superseded, `pack`
//! decides what shares a page and `repack` writes it, `compact` empties a token and fills it again, `provision` makes
//! a store and `dismantle` takes it off.

mod absorb;
mod batch;
mod bury;
mod clear;
mod compact;
mod dismantle;
mod edits;
mod gather;
mod history;
mod migrate;
mod open;
mod pack;
#[cfg(test)]
mod pages;
mod place;
mod plain;
mod provision;
mod read;
mod repack;
mod scan;
mod write;

use std::collections::BTreeMap;
use std::time::Instant;

use hsm_token::{ErrorClass, ObjectHandle, Token, TokenError};
use hsm_types::{Content, Key, KeyDigest, RecordPath, Revision, Stamp, TokenId, Tombstone, Version};

use zeroize::Zeroizing;

use crate::catalog::{Assemblies, Objects};
use crate::format::{Damage, Fingerprint, ObjectId, SetId, StoreKeys};
use crate::lock::ReaderLock;
use crate::{Encryption, Index, Options, StoreError, WriterLock};

pub(crate) use clear::Plain;
pub use migrate::{Migration, MigrationOutcome, MigrationReport};
pub use open::identify;

/// The most that a record's keys, values and metadata may have together, in bytes.
pub const MAX_RECORD: usize = 256 * 1024;

/// Which store a token holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The token.
    pub token_id: TokenId,
    /// The store key, by a name that may be shown. Admission pins it.
    pub fingerprint: Fingerprint,
}

/// A record with its values.
pub struct Record {
    /// Version, digest and origin.
    pub revision: Revision,
    /// Values and metadata.
    pub content: Content,
}

/// What a write expects to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing.
    Absent,
    /// This version.
    Stamp(Stamp),
}

/// Where the content of a put comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOrigin {
    /// An edit on the token's side.
    Token,
    /// A merge of both sides: the digests of the Secret's values, which it has taken in. They become the record's mark,
    /// with the new version's own stamp.
    Merged(Vec<(Key, KeyDigest)>),
    /// The Kubernetes Secret, as the controller read it.
    Secret,
}

/// A new value for a record.
pub struct PutRequest {
    /// The record.
    pub path: RecordPath,
    /// What the caller thinks is there.
    pub expect: Expect,
    /// The whole new content.
    pub content: Content,
    /// Where it comes from.
    pub origin: PutOrigin,
    /// The versions that this content has taken in beside the one that is there: the other heads of a diverged
    /// record, and versions on other tokens. Where the record is absent, the new version continues the life of the
    /// first of them (a healed record is not a new one), unless that life ended here.
    pub parents: Vec<Version>,
    /// Begin an epoch: for edits without a cluster, and after a token was found to have lost a write.
    pub begin_epoch: bool,
    /// How many earlier values of the record are kept after this put, where there is room for them.
    pub keep_history: usize,
}

/// What came of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutOutcome {
    /// The version that the record is at.
    pub revision: Revision,
    /// Whether anything had to be written.
    pub written: bool,
}

/// A version as another token has it.
pub struct Replica {
    /// The record.
    pub path: RecordPath,
    /// Its version, digest and origin, kept as they are.
    pub revision: Revision,
    /// The content that the digest is of.
    pub content: Content,
}

/// What came of a delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOutcome {
    /// The tombstones that were written; none if the record was known to be absent.
    pub tombstones: Vec<Tombstone>,
}

/// The records of one token.
pub struct Store<T: Token> {
    token: T,
    options: Options,
    keys: StoreKeys,
    epoch: u64,
    void: bool,
    objects: Objects,
    assemblies: Assemblies,
    /// Parts of chunked records that were just read or written, until they are put together and checked.
    parts: BTreeMap<(SetId, usize), Zeroizing<Vec<u8>>>,
    /// Whether something has changed since the index was made.
    stale: bool,
    /// Objects of ours by label that cannot be used, with the handles that were tried.
    unusable: BTreeMap<String, (Vec<ObjectHandle>, Damage)>,
    /// What is on the token in clear: plain records of ours, and records of others.
    clear: clear::Clear,
    /// Whether what could not be read was tried once more in this epoch; for tokens with a frozen view.
    tried_again: bool,
    /// Damage that hides no record: of the identity or of one copy of the store key.
    blemishes: Vec<crate::DamagedObject>,
    /// What is to be destroyed, and when.
    garbage: BTreeMap<ObjectId, Instant>,
    /// Which items of each object are needed; objects that are garbage are not in it.
    live: BTreeMap<ObjectId, Vec<usize>>,
    /// When this store was opened. What was destroyed just before may come back until the token has settled.
    opened: Instant,
    /// When each object was made, until that has settled.
    created: BTreeMap<ObjectId, Instant>,
    /// When the last tombstone was written.
    buried: Instant,
    /// When each object was destroyed, until that has settled.
    destroyed: BTreeMap<ObjectId, Instant>,
    bytes_replaced: u64,
    bytes_leaking: u64,
    index: Index,
}

impl<T: Token> Store<T> {
    /// The token's identity.
    pub fn token_id(&self) -> TokenId {
        self.keys.token_id
    }

    /// The store key's name.
    pub fn fingerprint(&self) -> Fingerprint {
        self.keys.fingerprint
    }

    /// What is known of the records, as of the last `open`, `refresh` or write.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// How many bytes of ours were destroyed since this store was opened, values and headers.
    pub fn bytes_replaced(&self) -> u64 {
        self.bytes_replaced
    }

    /// Of the bytes that were destroyed, those of objects larger than [`hsm_token::Limits::lasting_size`]. A Pico HSM
    /// of firmware 6.6 leaks flash by them.
    pub fn bytes_leaking(&self) -> u64 {
        self.bytes_leaking
    }

    /// How many superseded objects wait to be destroyed: of ours, and foreign ones of records that are ours by now.
    pub fn pending(&self) -> usize {
        self.garbage.len() + self.clear.leftovers()
    }

    /// Whether the epoch that this store was opened in has ended: it answers nothing any more, open a new one.
    pub fn is_void(&self) -> bool {
        self.void || self.token.epoch() != self.epoch
    }

    /// How new versions are written from now on. What is there stays as it is until its next write.
    pub fn set_encryption(&mut self, encryption: Encryption) {
        self.options.encryption = encryption;
    }

    /// Gives the token back.
    pub fn into_token(self) -> T {
        self.token
    }

    /// The token, for what a store does not do (PIN flags, random bytes).
    pub fn token(&mut self) -> &mut T {
        &mut self.token
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.is_void() { Err(StoreError::Void) } else { Ok(()) }
    }

    /// Notes when an error has ended the epoch.
    fn noted<R>(&mut self, result: Result<R, TokenError>) -> Result<R, StoreError> {
        result.map_err(|error| {
            self.void |= error.ends_epoch();
            if error.class == ErrorClass::Full {
                let objects = self.index.counts.total();
                StoreError::TokenFull { objects, needed: 1, limit: objects }
            } else {
                error.into()
            }
        })
    }

    fn lock(&self) -> Result<WriterLock, StoreError> {
        self.usable()?;
        WriterLock::acquire(&self.options.lock, self.options.lock_wait, self.options.clock.as_ref())
    }

    fn reader_lock(&self) -> Result<ReaderLock, StoreError> {
        self.usable()?;
        let clock = self.options.clock.as_ref();
        Ok(ReaderLock::acquire(&self.options.lock, self.options.lock_wait, clock))
    }

    fn damaged(&self, path: &RecordPath) -> StoreError {
        if self.index.compacting {
            return StoreError::Compacting;
        }
        let hides = |object: &&crate::DamagedObject| {
            object.path.as_ref().is_none_or(|p| p == path)
                && !self.blemishes.iter().any(|blemish| blemish == *object)
        };
        let aside = self.index.aside.get(path).and_then(|aside| aside.as_ref().err());
        StoreError::Damaged {
            path: Some(path.clone()),
            objects: self.index.damaged.iter().filter(hides).chain(aside).cloned().collect(),
        }
    }
}
