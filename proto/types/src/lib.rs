//! The words that agent and controller share.
//!
//! Everything here is plain data and pure functions: no async, no clock, no environment, no I/O. Strings from
//! outside become one of these types once, at the door ([`RecordPath`], [`Key`], [`TokenId`]), and are trusted after.

mod digest;
mod id;
mod key;
mod path;
mod payload;
mod presence;
mod record;
mod version;

pub use digest::{Digest, KeyDigest};
pub use id::{Incarnation, ParseIdError, TokenId, UsbSerial, WriterId};
pub use key::{InvalidKey, Key};
pub use path::{InvalidPath, RecordPath};
pub use payload::{Payload, Value};
pub use presence::{Presence, Unknown};
pub use record::{Content, Metadata, Origin, Revision, SecretMark, Tombstone};
pub use version::{EpochId, Lineage, ParseStampError, Relation, Stamp, Version};
