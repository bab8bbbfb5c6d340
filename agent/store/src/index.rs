//! The index: what is known of a token's records, without their values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hsm_types::{Incarnation, Key, KeyDigest, Presence, RecordPath, Revision, Tombstone};

use crate::format::{Damage, ObjectId};

/// An object of ours that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedObject {
    /// Its label.
    pub label: String,
    /// The record in it, where that is known. Mostly it is not: names are sealed too.
    pub path: Option<RecordPath>,
    /// What is wrong with it.
    pub damage: Damage,
}

impl fmt::Display for DamagedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {}: {}", self.label, self.damage)
    }
}

/// One version of a record as the index holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The version, digest and origin.
    pub revision: Revision,
    /// The sum of the lengths of keys and values, in bytes.
    pub size: usize,
    /// The keys, with what `hsm_types::SecretMark` needs of their values.
    pub keys: Vec<(Key, KeyDigest)>,
    /// How it is written.
    pub form: Form,
    /// Where it lies.
    pub(crate) place: Place,
}

/// How a version is written on the token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// Sealed, as this store writes by default.
    #[default]
    Sealed,
    /// One readable JSON object of ours.
    Plain,
    /// Objects of the Go operator, or made by hand; ours with the first write.
    Foreign,
}

/// Where a version lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) object: ObjectId,
    pub(crate) chunked: bool,
}

/// What is known of one path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// The living versions that no other is newer than: one, except for a record that has diverged or has two lives.
    pub heads: Vec<Arc<Head>>,
    /// The lives that ended.
    pub tombstones: Vec<Tombstone>,
    /// Earlier values that are kept on purpose, newest first.
    pub history: Vec<Arc<Head>>,
    /// A version of which parts are missing was found: the remains of an interrupted write, or of a token that lost
    /// objects. It is no version; the next write to this path destroys it.
    pub incomplete: bool,
    /// A version of it cannot be read: whatever heads there are may be old.
    pub damaged: bool,
}

impl Entry {
    /// The one head, if there is exactly one.
    pub fn head(&self) -> Option<&Arc<Head>> {
        match self.heads.as_slice() {
            [head] => Some(head),
            _ => None,
        }
    }

    /// All heads' revisions.
    pub fn revisions(&self) -> Vec<Revision> {
        self.heads.iter().map(|head| head.revision.clone()).collect()
    }
}

/// How many objects the token lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ObjectCounts {
    /// Data objects of ours, identity and store key among them.
    pub ours: usize,
    /// Other data objects. Only those whose label can be a record's are ever read.
    pub foreign: usize,
    /// Keys and certificates; the store's own key pair is two of them.
    pub others: usize,
    /// Those that wait to be destroyed, foreign ones of records that are ours by now among them.
    pub pending: usize,
}

impl ObjectCounts {
    /// All that counts against the token's limit.
    pub fn total(&self) -> usize {
        self.ours + self.foreign + self.others
    }
}

/// What is known of a token's records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    pub(crate) entries: BTreeMap<RecordPath, Entry>,
    /// Foreign records that are only there for who asks for them: other readings of objects that a listing shows
    /// elsewhere.
    pub(crate) aside: BTreeMap<RecordPath, Result<Entry, DamagedObject>>,
    pub(crate) damaged: Vec<DamagedObject>,
    pub(crate) hidden: usize,
    pub(crate) compacting: bool,
    pub(crate) counts: ObjectCounts,
}

impl Index {
    /// What is known of a record. Absent is only said when everything of ours could be read.
    pub fn presence(&self, path: &RecordPath) -> Presence<&Entry> {
        if self.compacting {
            return Presence::unknown("a compaction of the token is under way");
        }
        match self.entries.get(path) {
            Some(entry) if entry.damaged => Presence::unknown(self.trouble(path)),
            Some(entry) if !entry.heads.is_empty() => Presence::Present(entry),
            _ if self.hidden > 0 => Presence::unknown(format!(
                "{} object(s) on the token cannot be read, and the record may be in one of them",
                self.hidden
            )),
            _ => match self.aside.get(path) {
                Some(Ok(entry)) => Presence::Present(entry),
                Some(Err(object)) => Presence::unknown(format!("the record cannot be read: {object}")),
                None => Presence::Absent,
            },
        }
    }

    /// Why a record is damaged, for people.
    fn trouble(&self, path: &RecordPath) -> String {
        let object = self.damaged.iter().find(|object| object.path.as_ref() == Some(path));
        object.map_or_else(
            || "a version of the record cannot be read: its object is damaged".to_owned(),
            |object| format!("a version of the record cannot be read: {object}"),
        )
    }

    /// All paths of which something is known: living records, and deleted ones that have a tombstone.
    pub fn entries(&self) -> &BTreeMap<RecordPath, Entry> {
        &self.entries
    }

    /// Paths that a listing does not show, and of which [`Index::presence`] knows something all the same: other readings
    /// of foreign objects. Whoever decides on one of them must not take it for absent.
    pub fn unlisted(&self) -> impl Iterator<Item = &RecordPath> {
        self.aside.keys()
    }

    /// All tombstones.
    pub fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.entries.values().flat_map(|entry| &entry.tombstones)
    }

    /// Whether this life of the record ended here.
    pub fn buried(&self, path: &RecordPath, life: Incarnation) -> bool {
        self.entries.get(path).is_some_and(|entry| entry.tombstones.iter().any(|t| t.incarnation == life))
    }

    /// The objects of ours that cannot be used.
    pub fn damaged(&self) -> &[DamagedObject] {
        &self.damaged
    }

    /// Whether some record may be hidden in an object that cannot be read, so that no path may be called absent.
    pub fn hides_records(&self) -> bool {
        self.hidden > 0 || self.compacting
    }

    /// Whether a compaction is under way: nothing is known of any record.
    pub fn is_compacting(&self) -> bool {
        self.compacting
    }

    /// How many objects the token lists.
    pub fn counts(&self) -> ObjectCounts {
        self.counts
    }
}
