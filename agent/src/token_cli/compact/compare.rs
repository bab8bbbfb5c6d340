//! Whether a token holds what an export holds. By versions and digests: no value is read for it.

use std::collections::BTreeSet;

use hsm_store::Index;
use hsm_types::{Incarnation, RecordPath, Stamp};

use crate::export::{Export, Item};

/// How a token stands to an export of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It holds exactly that.
    Same,
    /// It holds a part of it, and nothing else.
    Part,
    /// It holds something that is not in the export.
    Other,
}

type Version = (RecordPath, Stamp, [u8; 32]);
type Death = (RecordPath, Incarnation);

pub(super) fn compare(index: &Index, export: &Export) -> Fit {
    let token: BTreeSet<Version> = index
        .entries()
        .iter()
        .flat_map(|(path, entry)| entry.revisions().into_iter().map(|r| (path.clone(), r)))
        .map(|(path, r)| (path, r.version.stamp(), *r.digest.as_bytes()))
        .collect();
    let dead: BTreeSet<Death> = index.tombstones().map(|t| (t.path.clone(), t.incarnation)).collect();
    let mut file = BTreeSet::new();
    let mut file_dead = BTreeSet::new();
    for item in &export.items {
        match item {
            Item::Record(r) => {
                file.insert((r.path.clone(), r.revision.version.stamp(), *r.revision.digest.as_bytes()));
            }
            Item::Tombstone(t) => {
                file_dead.insert((t.path.clone(), t.incarnation));
            }
            Item::Earlier(_) | Item::Missing(_) => {}
        }
    }
    // A copy that others have made of what was deleted shows while the tombstones are off the token.
    let token: BTreeSet<Version> = token
        .into_iter()
        .filter(|(path, stamp, _)| !file_dead.contains(&(path.clone(), stamp.incarnation)))
        .collect();
    if token == file && dead == file_dead {
        Fit::Same
    } else if token.is_subset(&file) && dead.is_subset(&file_dead) {
        Fit::Part
    } else {
        Fit::Other
    }
}
