//! What can go wrong with a store, sorted by who mends it and whether to try again.

use std::time::Duration;

use hsm_token::{ErrorClass, TokenError};
use hsm_types::{RecordPath, Revision, Tombstone};

use crate::index::DamagedObject;

/// Who mends an error, and whether the same call may help again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing was changed: the same call again later may do.
    Retry,
    /// The outcome may be unknown: open the token anew (new epoch, new `Store`), then decide again. The same call
    /// again is safe, since every call is idempotent.
    Reopen,
    /// The caller decided on something that is no longer so: read again, then decide.
    ReadAgain,
    /// Delete something, or use another token.
    Space,
    /// The request cannot be done as it is: mend it.
    Request,
    /// A person has to act.
    Person,
}

/// An error of a store. Never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The token said no.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// This store has seen its epoch end; it answers nothing any more.
    #[error("the session with the token has ended: open it anew")]
    Void,
    /// The record is not at the version that the caller expects. `current` is `None` when it is known to be absent.
    #[error("{path} is not at the expected version; read it again")]
    VersionMismatch {
        /// The record.
        path: RecordPath,
        /// What it is at.
        current: Option<Box<Revision>>,
    },
    /// More than one head, and the call does not say which ones it replaces.
    #[error("{path} has {} versions, none of them newer than the others; merge them or delete one", heads.len())]
    Diverged {
        /// The record.
        path: RecordPath,
        /// All its heads.
        heads: Vec<Revision>,
    },
    /// The life that a copy belongs to was deleted on this token.
    #[error("{} was deleted on this token in this life; it does not come back", .0.path)]
    Deleted(Box<Tombstone>),
    /// There is no room for the objects that this needs. Nothing was changed.
    #[error(
        "the token is full: {objects} objects are there, {needed} more are needed, {limit} are the limit; delete something or use another token"
    )]
    TokenFull {
        /// Objects on the token, ours or not.
        objects: usize,
        /// Objects that the call would make.
        needed: usize,
        /// The limit that it would pass.
        limit: usize,
    },
    /// The record is larger than a record may be.
    #[error("the record has {size} bytes; at most {max} are possible")]
    ValueTooLarge {
        /// Keys, values and metadata, in bytes.
        size: usize,
        /// The most that is taken.
        max: usize,
    },
    /// The record cannot be written in clear, as the token's `encryption: None` asks for.
    #[error("{path} cannot be a plain record: {reason}; shorten it, or use encryption: Envelope")]
    NotPlain {
        /// The record.
        path: RecordPath,
        /// What keeps it.
        reason: String,
    },
    /// A foreign object belongs to this record or to another one, and there is no telling.
    #[error(
        "{path} cannot be changed: the object {label} belongs to it or to {other}, and would be lost to one of them; rename or remove it, or the metadata that do not belong to it, with a plain PKCS#11 tool"
    )]
    Contested {
        /// The record.
        path: RecordPath,
        /// The object that can be read in two ways.
        label: String,
        /// The other record.
        other: RecordPath,
    },
    /// The request contradicts itself.
    #[error("{0}")]
    Invalid(&'static str),
    /// No identity of ours is on the token: it is blank, or somebody else's.
    #[error("the token has no identity of ours: it is blank or not ours; initialise it if it is yours")]
    NoIdentity,
    /// The token holds something of ours already.
    #[error("the token is not blank: it already holds a store ({0}); nothing was changed")]
    NotBlank(String),
    /// Neither copy of the store key can be opened. Nothing is ever rewritten.
    #[error(
        "the store key cannot be opened ({0}): the records of this token cannot be read. Do not write to it; use a mirror"
    )]
    StoreKeyMissing(String),
    /// What was asked for is unknown because objects of ours cannot be read.
    #[error("{}", damaged_text(path.as_ref(), objects))]
    Damaged {
        /// The record that was asked for.
        path: Option<RecordPath>,
        /// The objects that cannot be read.
        objects: Vec<DamagedObject>,
    },
    /// A compaction is under way on this token.
    #[error(
        "a compaction of this token has begun and is not done: finish it, until then nothing is known of its records"
    )]
    Compacting,
    /// The marker of a compaction cannot be written.
    #[error(
        "the marker of a compaction cannot be written ({0}): the token's flash may be used up. Nothing was changed; export its records, verify the export, then dismantle the token and make its store anew"
    )]
    NoMarker(Box<StoreError>),
    /// What was read back is not what was written.
    #[error("the token gave back something else than was written: open it anew; if that repeats, replace it")]
    ReadBack,
    /// Another program is writing.
    #[error("another program is writing to this token; gave up after {} ms", .0.as_millis())]
    LockHeld(Duration),
    /// The lock file cannot be used.
    #[error("the lock file {path} cannot be used: {reason}")]
    Lock {
        /// The file.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// The cryptographic library failed, which it does not do.
    #[error("a cryptographic operation failed")]
    Crypto,
}

fn damaged_text(path: Option<&RecordPath>, objects: &[DamagedObject]) -> String {
    let what = path.map_or_else(|| "the token's records are".to_owned(), |path| format!("{path} is"));
    let why = objects.first().map_or_else(String::new, |first| format!(": {first}"));
    let count = objects.len();
    format!("{what} unknown, {count} object(s) cannot be read{why}")
}

impl StoreError {
    /// Who mends it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Token(error) => match error.class {
                ErrorClass::Busy | ErrorClass::ObjectGone => Remedy::Retry,
                ErrorClass::Full => Remedy::Space,
                ErrorClass::Invalid => Remedy::Request,
                ErrorClass::ObjectDamaged
                | ErrorClass::PinRequired
                | ErrorClass::PinIncorrect
                | ErrorClass::PinLength
                | ErrorClass::PinLocked => Remedy::Person,
                ErrorClass::TokenAbsent
                | ErrorClass::Unreachable
                | ErrorClass::SessionLost
                | ErrorClass::NoSuchObject
                | ErrorClass::Module => Remedy::Reopen,
            },
            Self::Void | Self::ReadBack => Remedy::Reopen,
            Self::VersionMismatch { .. } | Self::Diverged { .. } | Self::Deleted(_) => Remedy::ReadAgain,
            Self::TokenFull { .. } | Self::NoMarker(_) => Remedy::Space,
            Self::ValueTooLarge { .. } | Self::NotPlain { .. } | Self::Invalid(_) => Remedy::Request,
            Self::LockHeld(_) => Remedy::Retry,
            Self::NoIdentity
            | Self::NotBlank(_)
            | Self::StoreKeyMissing(_)
            | Self::Damaged { .. }
            | Self::Contested { .. }
            | Self::Compacting
            | Self::Lock { .. }
            | Self::Crypto => Remedy::Person,
        }
    }
}
