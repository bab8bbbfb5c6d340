//! What is known of the objects in clear: plain records of ours, and records of others. `gather` keeps it equal to the
//! token, `edits` knows what people make of plain records, `absorb` and `migrate` make foreign records ours.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use hsm_token::{ObjectHandle, ObjectInfo};
use hsm_types::{Content, Digest, KeyDigest, Origin, RecordPath, Revision, Version};
use zeroize::Zeroizing;

use crate::foreign::content::derived;
use crate::foreign::names::{self, Part};
use crate::format::{self, Damage, ObjectId};
use crate::index::{Entry, Form, Head, Place};
use crate::plain::{self, Decoded};
use crate::{DamagedObject, Index};

/// CKA_APPLICATION of the Go operator. Some libraries append what lies behind it in memory.
const GO: &str = "hsm-secrets-operator";

/// What is known of the objects in clear; no values.
#[derive(Default)]
pub(super) struct Clear {
    /// Data objects that are not sealed and may be a record's.
    pub(super) objects: BTreeMap<ObjectHandle, Object>,
    /// Plain records of ours, by an id that follows from the value.
    pub(super) plain: BTreeMap<ObjectId, Plain>,
    /// The records of others.
    pub(super) groups: BTreeMap<RecordPath, Group>,
    /// Values that were just read, until the records are put together.
    pub(super) values: BTreeMap<ObjectHandle, Zeroizing<Vec<u8>>>,
    /// Objects that are new since the records were put together.
    pub(super) fresh: BTreeSet<ObjectHandle>,
    pub(super) stale: bool,
    /// Foreign objects that are superfluous beside a record of ours, and which: they belong to no other record, however
    /// their labels can be read.
    pub(super) claims: BTreeMap<ObjectHandle, RecordPath>,
    /// How many foreign objects this store has destroyed.
    pub(super) cleared: usize,
    /// When foreign objects were last destroyed.
    pub(super) last_cleared: Option<Instant>,
}

pub(super) struct Object {
    pub(super) label: String,
    pub(super) go: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Foreign,
    Plain,
    /// It says that it is a plain record of ours, and is not understood.
    Broken(&'static str),
    Unreadable(String),
}

/// A plain record.
pub(crate) struct Plain {
    /// Where it is; more than once if somebody made a copy.
    pub(crate) handles: Vec<ObjectHandle>,
    pub(crate) path: RecordPath,
    pub(crate) head: Arc<Head>,
    pub(crate) generation: u64,
    pub(crate) size: usize,
    /// The plain record that this one is an edit of, if it does not say so itself.
    pub(crate) base: Option<ObjectId>,
}

/// A record of others.
pub(super) struct Group {
    pub(super) members: Vec<(ObjectHandle, Part)>,
    pub(super) listed: bool,
    /// Whether more than a bare name says that this is a record.
    pub(super) sure: bool,
    /// Objects that an anchored reading of another record needs too.
    pub(super) contested: BTreeMap<ObjectHandle, RecordPath>,
    pub(super) outcome: Outcome,
    /// How many of its objects are superfluous beside which versions of ours, and when they may go.
    pub(super) leftover: Option<Leftover>,
}

pub(super) struct Leftover {
    pub(super) beside: Vec<Revision>,
    pub(super) count: usize,
    pub(super) due: Instant,
}

pub(super) enum Outcome {
    Record(Arc<Head>),
    Deleted,
    Unclear(DamagedObject),
}

/// The label of an object in clear that may be a record's, and whether the Go operator's name is on it.
pub(super) fn candidate(object: &ObjectInfo) -> Option<(String, bool)> {
    let label = &object.label;
    if label.starts_with(format::PREFIX) || names::readings(label).is_empty() {
        return None;
    }
    let go = object.application.starts_with(GO);
    (go || object.application.is_empty() || names::speaks_for_itself(label)).then(|| (label.clone(), go))
}

/// A plain record's name in this process: an object with another value is another object.
pub(super) fn id_of(value: &[u8]) -> ObjectId {
    ObjectId(derived(b"hsm.j5t.io/plain-object", &[value]))
}

impl Clear {
    /// Nothing is known yet, and others may have destroyed objects until `opened`.
    pub(super) fn since(opened: Instant) -> Self {
        Self { last_cleared: Some(opened), ..Self::default() }
    }

    /// How many of the objects in clear are ours.
    pub(super) fn ours(&self) -> usize {
        self.objects
            .values()
            .filter(|object| !matches!(object.kind, Kind::Foreign | Kind::Unreadable(_)))
            .count()
    }

    pub(super) fn leftovers(&self) -> usize {
        self.groups.values().filter_map(|group| Some(group.leftover.as_ref()?.count)).sum()
    }

    /// When the next foreign object that is superfluous may go.
    pub(super) fn due(&self) -> Option<Instant> {
        let leftovers = self.groups.values().filter_map(|group| group.leftover.as_ref());
        leftovers.filter(|leftover| leftover.count > 0).map(|leftover| leftover.due).min()
    }

    pub(super) fn generation(&self) -> u64 {
        self.plain.values().map(|plain| plain.generation).max().unwrap_or(0)
    }

    /// Forgets an object: it is gone, or has to be read again.
    pub(super) fn forget(&mut self, handle: ObjectHandle) {
        self.stale |= self.objects.remove(&handle).is_some();
        self.claims.remove(&handle);
        self.plain.retain(|_, plain| {
            plain.handles.retain(|own| *own != handle);
            !plain.handles.is_empty()
        });
    }

    /// What could not be read is tried again with the next listing.
    pub(super) fn forget_unreadable(&mut self) {
        let unreadable = self.objects.iter().filter(|(_, object)| matches!(object.kind, Kind::Unreadable(_)));
        let handles: Vec<ObjectHandle> = unreadable.map(|(handle, _)| *handle).collect();
        for handle in handles {
            self.forget(handle);
        }
    }

    /// An object of this record that another one needs too, and the path of that.
    pub(super) fn contested(&self, group: &Group) -> Option<(String, RecordPath)> {
        let (handle, other) = group.contested.first_key_value()?;
        Some((self.objects.get(handle)?.label.clone(), other.clone()))
    }

    pub(super) fn has_unreadable(&self) -> bool {
        self.objects.values().any(|object| matches!(object.kind, Kind::Unreadable(_)))
    }

    pub(super) fn is_unreadable(&self, handle: ObjectHandle) -> bool {
        self.objects.get(&handle).is_some_and(|object| matches!(object.kind, Kind::Unreadable(_)))
    }

    /// An object with exactly this label that cannot be read: it may be a plain record.
    pub(super) fn unreadable_at(&self, label: &str) -> bool {
        let unreadable = |object: &Object| matches!(object.kind, Kind::Unreadable(_));
        self.objects.values().any(|object| object.label == label && unreadable(object))
    }

    /// A foreign object with exactly this label.
    pub(super) fn foreign_at(&self, label: &str) -> bool {
        self.objects.values().any(|object| object.label == label && !matches!(object.kind, Kind::Plain))
    }

    pub(super) fn take(
        &mut self,
        handle: ObjectHandle,
        (label, go): (String, bool),
        value: Zeroizing<Vec<u8>>,
    ) {
        let kind = match plain::decode(&label, &value) {
            Decoded::NotPlain => Kind::Foreign,
            Decoded::Broken(reason) => Kind::Broken(reason),
            Decoded::Record(record) => {
                let id = id_of(&value);
                let head =
                    head(&record.path, record.version, record.origin, &record.content, Form::Plain, id);
                self.keep(id, handle, record.path, head, (record.generation, value.len()), None);
                Kind::Plain
            }
        };
        if matches!(kind, Kind::Foreign) {
            self.values.insert(handle, value);
        }
        self.put(handle, Object { label, go, kind });
    }

    pub(super) fn put(&mut self, handle: ObjectHandle, object: Object) {
        self.objects.insert(handle, object);
        self.fresh.insert(handle);
        self.stale = true;
    }

    pub(super) fn keep(
        &mut self,
        id: ObjectId,
        handle: ObjectHandle,
        path: RecordPath,
        head: Head,
        (generation, size): (u64, usize),
        base: Option<ObjectId>,
    ) {
        let new = || Plain { handles: Vec::new(), path, head: Arc::new(head), generation, size, base };
        self.plain.entry(id).or_insert_with(new).handles.push(handle);
    }

    /// Puts the records of others where ours are absent.
    pub(super) fn overlay(&self, index: &mut Index) {
        for object in self.objects.values() {
            if let (Kind::Broken(reason), Ok(path)) = (&object.kind, RecordPath::new(object.label.as_str())) {
                index.entries.entry(path.clone()).or_default().damaged = true;
                let damage = Damage::Unclear((*reason).to_owned());
                index.damaged.push(DamagedObject { label: object.label.clone(), path: Some(path), damage });
            }
        }
        // Where an object of ours cannot be read, a record of ours is not known to be absent.
        if index.hidden > 0 {
            return;
        }
        for (path, group) in &self.groups {
            let ours = index.entries.get(path);
            if ours.is_some_and(|entry| entry.damaged || !entry.heads.is_empty()) {
                continue;
            }
            match &group.outcome {
                Outcome::Deleted => {}
                Outcome::Unclear(object) if group.listed => {
                    index.entries.entry(path.clone()).or_default().damaged = true;
                    index.damaged.push(object.clone());
                }
                Outcome::Unclear(object) => {
                    index.aside.insert(path.clone(), Err(object.clone()));
                }
                Outcome::Record(head) if index.buried(path, head.revision.version.incarnation) => {}
                Outcome::Record(head) if group.listed => {
                    index.entries.entry(path.clone()).or_default().heads = vec![Arc::clone(head)];
                }
                Outcome::Record(head) => {
                    let known = ours.cloned().unwrap_or_default();
                    let entry = Entry { heads: vec![Arc::clone(head)], ..known };
                    index.aside.insert(path.clone(), Ok(entry));
                }
            }
        }
    }
}

pub(super) fn head(
    path: &RecordPath,
    version: Version,
    origin: Origin,
    content: &Content,
    form: Form,
    object: ObjectId,
) -> Head {
    let life = version.incarnation;
    let keys = content.data.iter().map(|(key, value)| (key.clone(), KeyDigest::of(life, key, value)));
    Head {
        size: content.data.size(),
        keys: keys.collect(),
        revision: Revision { digest: Digest::of(path, life, content), version, origin },
        form,
        place: Place { object, chunked: false },
    }
}
