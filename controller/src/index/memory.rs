//! What was read for one HSMSecret, as digests: so that nothing is read twice while nothing has moved.

use std::collections::BTreeMap;
use std::time::Instant;

use hsm_core::{ValueDigests, Values};
use hsm_types::{Digest, Incarnation, Key, KeyDigest, Metadata, Revision, Stamp, TokenId, Version};

use crate::digest::Macs;

/// See the module. Dropped with the HSMSecret.
#[derive(Clone, Default)]
pub struct Memory {
    /// The Secret as it was last read or written.
    pub secret: Option<SecretMemory>,
    /// The record as it was last read or written.
    pub record: Option<RecordMemory>,
    /// The Secret's resource version and the token's version at which both were last seen equal.
    pub seen_equal: Option<(String, Version)>,
    /// A Secret that is not ours stands in the way: our watch does not see it, so it has to be looked for.
    pub foreign: bool,
    /// The last Event: its reason and when.
    pub last_event: Option<(&'static str, Instant)>,
}

/// A Secret's digests.
#[derive(Clone)]
pub struct SecretMemory {
    /// Of which object.
    pub uid: String,
    /// At which resource version.
    pub resource_version: String,
    /// Its type.
    pub secret_type: Option<String>,
    /// `immutable: true`.
    pub immutable: bool,
    /// The keyed digests.
    pub macs: Macs,
    /// The digests that a record's mark would have, for this incarnation.
    pub marks: Option<(Incarnation, BTreeMap<Key, KeyDigest>)>,
}

impl SecretMemory {
    /// The values for the core; `None` when the digests for this incarnation are not there.
    pub fn values(&self, incarnation: Option<Incarnation>) -> Option<Values> {
        let marks = match (incarnation, &self.marks) {
            (None, _) => None,
            (Some(wanted), Some((of, marks))) if wanted == *of => Some(marks),
            _ => return None,
        };
        let one = |key: &Key| marks.and_then(|m| m.get(key)).copied();
        Some(self.macs.iter().map(|(k, mac)| (k.clone(), ValueDigests { mac: *mac, mark: one(k) })).collect())
    }
}

/// A record's digests.
#[derive(Clone)]
pub struct RecordMemory {
    /// On which token.
    pub token: TokenId,
    /// At which version.
    pub stamp: Stamp,
    /// With which content.
    pub digest: Digest,
    /// The digests of the values.
    pub values: Values,
    /// What is written about the record, to go with the next change.
    pub metadata: Metadata,
}

impl RecordMemory {
    /// Whether this is the record that the revision names.
    pub fn is(&self, token: TokenId, revision: &Revision) -> bool {
        self.token == token && self.stamp == revision.version.stamp() && self.digest == revision.digest
    }
}
