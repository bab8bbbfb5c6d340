//! What a record holds beside its version.

use std::collections::BTreeMap;

use crate::{Digest, Incarnation, Key, KeyDigest, Payload, RecordPath, Stamp, Version};

/// What a person or an importer wrote about a record. It takes part in the digest and travels with the values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Free text.
    pub description: String,
    /// Labels, as a person set them.
    pub labels: BTreeMap<String, String>,
    /// Other fields that older formats carried (`format`, `dataType`, `createdAt`, `source`), kept as they were.
    pub attributes: BTreeMap<String, String>,
}

impl Metadata {
    /// Whether there is nothing to store.
    pub fn is_empty(&self) -> bool {
        self.description.is_empty() && self.labels.is_empty() && self.attributes.is_empty()
    }
}

/// The values of a record and what is written about them.
#[derive(Default)]
pub struct Content {
    /// The values by key.
    pub data: Payload,
    /// Description, labels and attributes.
    pub metadata: Metadata,
}

/// Where a version's content came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An edit on the token's side: command line, REST, merge, generator. `mark` is what the content was when it
    /// last came from the Secret, if it ever did.
    Token {
        /// The last version that equalled the Secret because it came from there.
        mark: Option<SecretMark>,
    },
    /// The content is the Kubernetes Secret's, as the controller read it: this version is what was last equal.
    Secret,
}

/// What the content was when it last came from the Secret.
///
/// It is the base of a three-way merge when a person edits the token before the controller has seen its own write
/// through (it keeps the Secret's annotation from being the only base, and needs no write of its own).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMark {
    /// The version that came from the Secret.
    pub stamp: Stamp,
    /// The digest of each value then.
    pub keys: Vec<(Key, KeyDigest)>,
}

/// One version of a record on one token, without its values: what an index holds and a feed carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    /// The version with its lineage.
    pub version: Version,
    /// The digest of the content.
    pub digest: Digest,
    /// Where the content came from.
    pub origin: Origin,
}

/// The memory of a deleted incarnation. It kills every version of it and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tombstone {
    /// The record's name.
    pub path: RecordPath,
    /// The life that ended.
    pub incarnation: Incarnation,
    /// The newest version that the one who deleted it knew of.
    pub stamp: Stamp,
}
