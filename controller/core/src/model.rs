//! What the plan looks at: the wish, and what was observed of both sides. Values never come in here, only digests.

use std::collections::BTreeMap;

use hsm_api::Reason;
use hsm_types::{Key, KeyDigest, Presence, RecordPath, Revision, TokenId, Tombstone, Version};

use crate::Side;

/// The first 16 bytes of an HMAC-SHA-256 over one key and value, under the controller's digest key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueMac(pub [u8; 16]);

/// Both digests of one value: the keyed one that bases in the cluster carry, and the one in a record's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueDigests {
    /// Keyed with the controller's digest key.
    pub mac: ValueMac,
    /// As in `SecretMark`, for the incarnation of the token's copy; `None` when there is no copy to take it from.
    pub mark: Option<KeyDigest>,
}

/// The values of one side, by key.
pub type Values = BTreeMap<Key, ValueDigests>;

/// What was last equal on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The token's version then.
    pub version: Version,
    /// The keyed digest of each value then.
    pub keys: BTreeMap<Key, ValueMac>,
}

/// `spec.syncPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncPolicy {
    /// Edits travel both ways.
    #[default]
    Bidirectional,
    /// An edit of the Secret is put back.
    FromToken,
    /// A change on the token is put back.
    ToToken,
}

/// `spec.conflictPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConflictPolicy {
    /// Nothing is overwritten.
    #[default]
    Manual,
    /// The token's value wins.
    PreferToken,
    /// The Secret's value wins.
    PreferSecret,
}

/// `spec.deletionPolicy`: what becomes of the record when the HSMSecret is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeletionPolicy {
    /// It stays on the token.
    #[default]
    Retain,
    /// It becomes a tombstone.
    Delete,
}

/// `spec.adoptionPolicy`: what becomes of a Secret of that name that we did not make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdoptionPolicy {
    /// It is left alone.
    #[default]
    Never,
    /// It is taken over when its data equals the token's.
    IfEqual,
    /// It is taken over; its data goes to the token if that has none.
    Always,
}

/// What the HSMSecret asks for, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one switch of the manifest, not a state")]
pub struct Wanted {
    /// The record's name.
    pub path: RecordPath,
    /// The Secret's name.
    pub secret_name: String,
    /// The Secret's type.
    pub secret_type: String,
    /// `false`: first materialisation, then only on force-sync.
    pub auto_sync: bool,
    /// In which direction edits travel.
    pub sync_policy: SyncPolicy,
    /// What happens when both sides changed one key.
    pub conflict_policy: ConflictPolicy,
    /// What becomes of the record when the HSMSecret goes.
    pub deletion_policy: DeletionPolicy,
    /// What becomes of a foreign Secret of that name.
    pub adoption_policy: AdoptionPolicy,
    /// `hsm.j5t.io/paused`.
    pub paused: bool,
    /// `hsm.j5t.io/resolve`.
    pub resolve: Option<Side>,
    /// The value of `hsm.j5t.io/force-sync` is one that was not acted on yet.
    pub force: bool,
    /// The HSMSecret has a deletion timestamp.
    pub deleting: bool,
    /// It is deleted with `--cascade=orphan`: the Secret stays.
    pub orphan: bool,
    /// The HSMSecret carries our finalizer.
    pub has_finalizer: bool,
}

/// Whose the Secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ownership {
    /// Ours: our labels, and this HSMSecret is its owner.
    Ours,
    /// It has our labels and belongs to another HSMSecret (its name).
    Other(String),
    /// Somebody else made it.
    Foreign,
}

/// What is known of the Kubernetes Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretView {
    /// Its uid.
    pub uid: String,
    /// The resource version that was seen.
    pub resource_version: String,
    /// Whose it is.
    pub ownership: Ownership,
    /// Its type, where it was read.
    pub secret_type: Option<String>,
    /// `immutable: true`.
    pub immutable: bool,
    /// Its values; `None` while only its metadata were seen.
    pub values: Option<Values>,
    /// The base in its annotation.
    pub base: Option<Base>,
}

/// What one token holds of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The live versions; more than one: they are diverged. Empty: only tombstones.
    pub heads: Vec<Revision>,
    /// The lives that ended here.
    pub tombstones: Vec<Tombstone>,
    /// The values of the only head, where they were read.
    pub values: Option<Values>,
}

/// One token, seen for one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenView {
    /// The agent's name.
    pub node: String,
    /// The token's id.
    pub token: TokenId,
    /// What it holds. `Absent`: it was read whole, and knows nothing of this path, not even a tombstone.
    pub copy: Presence<Copy>,
}

/// Everything that the plan for one HSMSecret depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The wish.
    pub wanted: Wanted,
    /// The Secret named by `secretName`. `Absent` may rest on the label-filtered watch alone: making a Secret fails
    /// when a foreign one is there, and is then observed.
    pub secret: Presence<SecretView>,
    /// The chosen primary's token, or why none is there.
    pub token: Presence<TokenView>,
    /// The reason to give while the token, or its copy, is unknown.
    pub unknown_reason: Reason,
    /// The base kept in the HSMSecret's status.
    pub status_base: Option<Base>,
    /// Whether this HSMSecret was ever in sync (status.lastSyncTime is set).
    pub was_synced: bool,
    /// The name of an earlier Secret of ours (status.secretRef) that is not the wanted one.
    pub old_secret: Option<String>,
    /// Other HSMSecrets keep their Secrets equal to the same record: what it says of itself ("this came from the
    /// Secret") may speak of one of theirs, and is no base for this one.
    pub shared: bool,
    /// The Secret's resource version and the token's version at which both were last seen equal in this process.
    /// While neither has moved nothing needs to be read.
    pub seen_equal: Option<(String, Version)>,
}
