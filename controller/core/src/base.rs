//! Which of the known bases holds: what both sides last had in common.

use hsm_types::{Key, KeyDigest, Origin, Relation, Revision, Stamp, Version};

use crate::model::{Base, Copy, Input, ValueDigests, Values};

/// What the token's copy is to the newest thing that was known to be equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It descends from it, or is it.
    Descends,
    /// It is an ancestor of it: the token lost writes.
    RolledBack,
    /// It is of another life, or edited apart from it.
    Apart,
}

/// The digests of the base's values.
#[derive(Debug, Clone)]
pub(crate) enum BaseKeys<'a> {
    /// Keyed digests, from the Secret's annotation or the status.
    Macs(&'a Base),
    /// The digests in the record's mark.
    Marks(&'a [(Key, KeyDigest)]),
    /// The token's own content: it came from the Secret, so this version is what was last equal.
    TokenContent,
}

/// The base of a three-way merge.
#[derive(Debug, Clone)]
pub(crate) struct Ground<'a> {
    pub(crate) keys: BaseKeys<'a>,
    /// Whether the token has moved since.
    pub(crate) token_changed: bool,
}

/// What is known about the common past of both sides.
#[derive(Debug, Clone)]
pub(crate) struct Past<'a> {
    /// The newest base that can be used; `None`: nothing says who changed what.
    pub(crate) ground: Option<Ground<'a>>,
    /// How the token stands to the newest version that is known to have been equal.
    pub(crate) standing: Standing,
    /// Versions that the next one must descend from, because the token's copy does not.
    pub(crate) parents: Vec<Version>,
}

/// Looks at the Secret's annotation, the status, and what the record says of itself.
pub(crate) fn past<'a>(input: &'a Input, copy: &Copy, head: &'a Revision) -> Past<'a> {
    let annotation = input.secret.present().and_then(|s| s.base.as_ref());
    let bases: Vec<&Base> = annotation.into_iter().chain(input.status_base.as_ref()).collect();
    let relation = |base: &&Base| head.version.relation(&base.version);

    let mut usable: Vec<(Stamp, BaseKeys<'a>)> = Vec::new();
    for base in &bases {
        if matches!(relation(base), Relation::Equal | Relation::Ahead) {
            usable.push((base.version.stamp(), BaseKeys::Macs(base)));
        }
    }
    match &head.origin {
        // Of a record that several Secrets share it cannot be told whose content it was.
        _ if input.shared => {}
        Origin::Secret => usable.push((head.version.stamp(), BaseKeys::TokenContent)),
        // A mark alone may be older than a base that was lost with annotation and status: it only adds to one of them.
        Origin::Token { mark: Some(mark) } if !usable.is_empty() && head.version.includes(&mark.stamp) => {
            usable.push((mark.stamp, BaseKeys::Marks(&mark.keys)));
        }
        Origin::Token { .. } => {}
    }
    // Among ancestors of one version a higher epoch is newer, then a higher counter. Of equals the first is taken:
    // keyed digests before the token's content, which would have to be read.
    let newest = usable.into_iter().rev().max_by_key(|(stamp, _)| (stamp.epoch.number, stamp.counter));
    let ahead: Vec<Version> = bases
        .iter()
        .filter(|b| matches!(relation(b), Relation::Behind | Relation::Diverged))
        .map(|b| b.version.clone())
        .collect();
    let standing = if bases.iter().any(|b| relation(b) == Relation::Behind) {
        Standing::RolledBack
    } else if !ahead.is_empty() || bases.iter().any(|b| relation(b) == Relation::OtherLife) {
        Standing::Apart
    } else {
        Standing::Descends
    };
    // What was last equal was another life of the record, and nothing says that it is over: no base holds.
    let strange = |b: &&&Base| relation(b) == Relation::OtherLife && !buried(input, copy, b);
    let newest = if bases.iter().any(|b| strange(&b)) { None } else { newest };
    let ground = match newest {
        // A mark is the Secret's content, which a merge took in: the record itself may already differ from it.
        Some((stamp, keys)) => {
            let token_changed = stamp != head.version.stamp() || matches!(keys, BaseKeys::Marks(_));
            Some(Ground { keys, token_changed })
        }
        None => annotated(input).filter(|b| buried(input, copy, b)).map(|b| {
            let keys = BaseKeys::Macs(b);
            Ground { keys, token_changed: true }
        }),
    };
    Past { ground, standing, parents: ahead }
}

/// The newest base of the life in the Secret's annotation: the status may be ahead of it (an edit that went from the
/// Secret to the token writes no annotation), but without it the status may be a whole life behind.
fn annotated(input: &Input) -> Option<&Base> {
    let annotation = input.secret.present()?.base.as_ref()?;
    Some(newer(annotation, input.status_base.as_ref()))
}

/// The newest base that is known, of the annotation's life where there is an annotation.
pub(crate) fn newest(input: &Input) -> Option<&Base> {
    annotated(input).or(input.status_base.as_ref())
}

fn newer<'a>(annotation: &'a Base, status: Option<&'a Base>) -> &'a Base {
    let place = |b: &Base| (b.version.epoch.number, b.version.counter);
    status
        .filter(|s| s.version.incarnation == annotation.version.incarnation && place(s) > place(annotation))
        .unwrap_or(annotation)
}

/// Whether a Secret's values are what both sides last had in common, by the newer of the base in its annotation and
/// the one in the status. Without any base nothing says so.
pub fn unedited(values: &Values, annotation: Option<&Base>, status: Option<&Base>) -> bool {
    let base = annotation.map(|a| newer(a, status)).or(status);
    base.is_some_and(|base| BaseKeys::Macs(base).same_content(values, None))
}

/// Whether the record was deleted and made again on the token by people who knew what the Secret has: then this base,
/// of the earlier life, holds what both sides had.
///
/// Without the tombstone the earlier life was lost, and what the new one lacks was not deleted by anybody. When the
/// one who deleted it saw another version than the base's, an edit of the Secret may have been on the token in between
/// and be deleted since: then only an unedited Secret proves that nothing of it comes back.
fn buried(input: &Input, copy: &Copy, base: &Base) -> bool {
    let Some(grave) = copy.tombstones.iter().find(|t| t.incarnation == base.version.incarnation) else {
        return false;
    };
    let secret = input.secret.present().and_then(|s| s.values.as_ref());
    let unedited = || secret.is_some_and(|values| BaseKeys::Macs(base).same_content(values, None));
    let stamp = base.version.stamp();
    grave.stamp == stamp || (grave.stamp.knew(&stamp) && unedited())
}

impl BaseKeys<'_> {
    /// Whether a side's value of this key, or its absence, is what the base has. `token` is the token's content; it
    /// must have been read when this is [`BaseKeys::TokenContent`].
    pub(crate) fn same(&self, key: &Key, value: Option<&ValueDigests>, token: Option<&Values>) -> bool {
        match self {
            Self::Macs(base) => base.keys.get(key) == value.map(|v| &v.mac),
            Self::Marks(marks) => {
                let marked = marks.iter().find(|(k, _)| k == key).map(|(_, digest)| *digest);
                match (marked, value) {
                    (None, None) => true,
                    (Some(then), Some(now)) => now.mark == Some(then),
                    _ => false,
                }
            }
            Self::TokenContent => token.and_then(|t| t.get(key)).map(|v| v.mac) == value.map(|v| v.mac),
        }
    }

    /// Whether a side's whole content is what the base has.
    pub(crate) fn same_content(&self, side: &Values, token: Option<&Values>) -> bool {
        let keys_of_base: Vec<&Key> = match self {
            Self::Macs(base) => base.keys.keys().collect(),
            Self::Marks(marks) => marks.iter().map(|(k, _)| k).collect(),
            Self::TokenContent => token.into_iter().flat_map(|t| t.keys()).collect(),
        };
        side.keys().chain(keys_of_base).all(|key| self.same(key, side.get(key), token))
    }
}
