//! Three-way merge, key by key.

use std::collections::{BTreeMap, BTreeSet};

use hsm_types::Key;

use crate::model::{ValueDigests, Values};

/// One of the two sides that are kept equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The record on the token.
    Token,
    /// The Kubernetes Secret.
    Secret,
}

/// A merged content: for each key that it has, the side whose value it takes.
pub type Merge = BTreeMap<Key, Side>;

/// The keys that both sides changed differently.
pub type Conflicts = BTreeSet<Key>;

/// Merges `token` and `secret`. `same_as_base(key, value)` says whether a side's value (or its absence) is what the
/// base has; without a base give a function that always says `false`: then every difference is a conflict.
///
/// A conflicting key takes the `preferred` side's value, or its absence there; without preference it is left out of
/// the merge and named in the conflicts.
pub(crate) fn merge(
    token: &Values,
    secret: &Values,
    same_as_base: impl Fn(&Key, Option<&ValueDigests>) -> bool,
    preferred: Option<Side>,
) -> (Merge, Conflicts) {
    let mut merged = Merge::new();
    let mut conflicts = Conflicts::new();
    let keys: BTreeSet<&Key> = token.keys().chain(secret.keys()).collect();
    for key in keys {
        let (t, s) = (token.get(key), secret.get(key));
        let equal = t.map(|v| v.mac) == s.map(|v| v.mac);
        let side = match (equal, same_as_base(key, t), same_as_base(key, s)) {
            // When both are as the base has them, they are equal unless a short digest of the base met its twin:
            // then nothing says who changed it, which is a conflict.
            (true, _, _) | (false, false, true) => Some(Side::Token),
            (false, true, false) => Some(Side::Secret),
            (false, true, true) | (false, false, false) => {
                conflicts.insert(key.clone());
                preferred
            }
        };
        let value = match side {
            Some(Side::Token) => t,
            Some(Side::Secret) => s,
            None => None,
        };
        if let (Some(side), Some(_)) = (side, value) {
            merged.insert(key.clone(), side);
        }
    }
    (merged, conflicts)
}

/// Whether the merge is exactly this side's content.
pub(crate) fn is_side(merged: &Merge, side: Side, own: &Values, other: &Values) -> bool {
    merged.len() == own.len()
        && own.iter().all(|(key, value)| {
            merged.get(key).is_some_and(|taken| {
                *taken == side || other.get(key).is_some_and(|theirs| theirs.mac == value.mac)
            })
        })
}
