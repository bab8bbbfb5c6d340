//! Records on a token: format, crash-atomic replace, tombstones, index. Works over any [`hsm_token::Token`].
//!
//! [`Store`] is the one owner of a token's records. It owns what lies on the token (see [`mod@format`] for every byte of
//! it) and the index of it in memory; it never logs in, never writes when asked to read, and never touches an object
//! that is not ours.
//!
//! # What it promises
//!
//! - A record is wholly the old one or wholly the new one, whenever the token or the process goes away: the new one is
//!   written completely and read back before the old one goes, and that waits until flash has settled.
//! - Present, absent and unknown are three things. While one object of ours cannot be read, no path is called absent.
//! - Every call may be made again: what is already so is answered, not written.
//! - What was deleted stays deleted: a tombstone kills every version of the life that it names.
//! - No value, key name or path is on the token in clear.
//!
//! # What it does not
//!
//! It cannot see a token that was rolled back as a whole, and a lone token is not safe against power loss inside a
//! flash erase. It does not pack several records into one page yet, keeps no history yet, and does not compact: it
//! reads what does. At the token's limit a new record is refused before anything is destroyed; replacing and deleting
//! go on.

mod catalog;
mod error;
pub mod format;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod index;
mod lock;
mod outside;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{Remedy, StoreError};
pub use index::{DamagedObject, Entry, Head, Index, ObjectCounts};
pub use lock::WriterLock;
pub use outside::{Clock, Entropy, Options, SystemClock, SystemEntropy};
pub use store::{
    DeleteOutcome, Expect, MAX_RECORD, PutOrigin, PutOutcome, PutRequest, Record, Replica, Store,
    StoreIdentity, identify,
};
