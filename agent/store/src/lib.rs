//! Records on a token: format, crash-atomic replace, tombstones, index. Works over any [`hsm_token::Token`].
//!
//! [`Store`] is the one owner of a token's records. It owns what lies on the token (see [`mod@format`] for every byte of
//! it) and the index of it in memory; it never logs in, never writes when asked to read, and never touches an object
//! that is not ours, except that it destroys what a record of others was made of when all of it is in a record of ours.
//!
//! # What it promises
//!
//! - A record is wholly the old one or wholly the new one, whenever the token or the process goes away: the new one is
//!   written completely and read back before the old one goes, and that waits until flash has settled.
//! - Present, absent and unknown are three things. While one object of ours cannot be read, no path is called absent.
//! - Every call may be made again: what is already so is answered, not written.
//! - What was deleted stays deleted: a tombstone kills every version of the life that it names.
//! - No value, key name or path is on the token in clear, as long as records are sealed ([`Encryption::Envelope`], the
//!   default). Plain records ([`Encryption::None`]), records of others, and what is left of both in the flash when they
//!   were replaced, imported or deleted, can be read by whoever reads the flash.
//! - Records of the Go operator and records made by hand are read as they are ([`Form::Foreign`]). They become ours with
//!   the first write to them, or all together with [`Store::migrate`].
//!
//! # How it uses the token
//!
//! While objects last each record that fits has an object of its own, larger ones are cut into chunks, and earlier
//! values are kept beside them where there is room. When objects run short, history goes first, and cold records are
//! packed into pages ([`Store::repack`]; its module has the arithmetic and what was measured). A new record is refused
//! before anything is destroyed, when no packing makes room for it; replacing what has not grown, and deleting, always
//! go on. Where the view of an epoch is frozen nothing is listed after the start: a small replace is one create, one
//! read back, one read before the old object is destroyed, and one destroy.
//!
//! # What it does not
//!
//! It cannot see a token that was rolled back as a whole, and a lone token is not safe against power loss inside a
//! flash erase. It never packs or compacts by itself beyond what a put needs: its owner calls [`Store::repack`] when
//! there is nothing else to do, and the steps of a compaction ([`Store::begin_compaction`]) only with all records
//! safe elsewhere. A page is not split: as long as no two pages fit into one, what was deleted from them is room only
//! for what fits its holes. It keeps no history of deleted records, none of plain records, and none of small records that does not fit
//! beside them on a token whose objects are counted.

mod catalog;
mod error;
mod foreign;
pub mod format;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod index;
mod json;
mod lock;
mod outside;
mod plain;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{Remedy, StoreError};
pub use index::{DamagedObject, Entry, Form, Head, Index, ObjectCounts};
pub use lock::WriterLock;
pub use outside::{Clock, Encryption, Entropy, Options, SystemClock, SystemEntropy};
pub use store::{
    DeleteOutcome, Expect, MAX_RECORD, Migration, MigrationOutcome, MigrationReport, PutOrigin, PutOutcome,
    PutRequest, Record, Replica, Store, StoreIdentity, identify,
};
