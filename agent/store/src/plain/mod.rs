//! Plain records: one readable JSON object, for `encryption: None`. Pure; the store acts.
//!
//! Whoever reads the token's flash reads them, and so does what is left of them after they were replaced: the promise
//! that no value is in the flash in clear holds for sealed records only. In return a plain tool can read and edit them:
//! `pkcs11-tool --read-object --type data --label secrets/ns/db`.
//!
//! # Format
//!
//! One private data object; its label is the path (so at most 200 bytes of it), its value one JSON object in UTF-8 of
//! at most `Limits::object_size` bytes. It is written without white space and with its members in this order:
//!
//! | member | |
//! |---|---|
//! | `_hsm` | what the record is, below |
//! | every key, ascending | its value as a string; as base64 (RFC 4648, section 4, padded) if `_hsm.base64` names the key |
//!
//! | member of `_hsm` | |
//! |---|---|
//! | `format` | 1 |
//! | `path` | the path again: an object that was swapped or copied to another name is noticed |
//! | `version` | `EPOCH.COUNTER-WRITER-INCARNATION` |
//! | `generation` | 1 + the highest on the token, as in a sealed object |
//! | `digest` | the content digest (`hsm_types::Digest::of`), 64 hex digits |
//! | `lineage` | where earlier epochs ended, a list of `EPOCH.COUNTER-WRITER`, ascending; left out if there are none |
//! | `secret` | `true` if the content came from the Secret; else left out |
//! | `mark` | what the content was when it last came from the Secret: `{"version": "EPOCH.COUNTER-WRITER", "keys": {KEY: 16 hex digits}}`. With `secret` it is about this very version, for the sake of later edits |
//! | `base64` | the keys whose values are not UTF-8; left out if there are none |
//! | `description`, `labels`, `attributes` | the metadata; each left out if empty |
//!
//! A reader takes the members in any order and with any white space, since people edit with what they have. A member of
//! `_hsm` that it does not know, or a format other than 1, makes the record unknown: nothing is skipped.
//!
//! # Edits by hand
//!
//! Where the digest does not fit the content, somebody has edited the object. That is a new version, never damage. It
//! follows from the content, so that every reader comes to the same: the incarnation is that of `_hsm.version`, the
//! epoch's number is one more, its writer the first 8 bytes of SHA-256 over `hsm.j5t.io/edited/v1`, the bytes of
//! `_hsm.version` (incarnation, number, writer, counter) and the new content digest; the counter is 1, and the lineage
//! names `_hsm.version` beside what `_hsm.lineage` has. So it is ahead of what was edited, and two different edits have
//! diverged. An object under the same label without `_hsm`, holding a JSON object of texts, is an edit of the newest
//! plain record that is there beside it; if there is none, it is a foreign record (see `crate::foreign`).

mod decode;
mod encode;
#[cfg(test)]
mod vectors;

pub(crate) use decode::{Decoded, decode, edited};
pub(crate) use encode::encode;

/// The member that is not a key.
const RESERVED: &str = "_hsm";
/// The longest label that the port takes.
const LONGEST_LABEL: usize = 200;
