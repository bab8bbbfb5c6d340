//! From the objects that were read to the index, and to what is garbage. Pure: it decides, the store acts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hsm_token::ObjectHandle;
use hsm_types::{Incarnation, RecordPath, Relation, Stamp, Tombstone};

use crate::format::{ChunkHead, ObjectId, SetId};
use crate::index::{Entry, Head};
use crate::store::Plain;

/// An object of ours that was read and understood; its values are not kept.
pub(crate) struct Known {
    pub(crate) handle: ObjectHandle,
    pub(crate) size: usize,
    pub(crate) generation: u64,
    pub(crate) replaces: Vec<ObjectId>,
    pub(crate) items: Vec<Item>,
    /// How many bytes each item takes in a page; 0 for what is never moved to one.
    pub(crate) lengths: Vec<usize>,
}

/// An entry without its values.
pub(crate) enum Item {
    Record(RecordPath, Arc<Head>),
    History(RecordPath, Arc<Head>),
    Tombstone(Tombstone),
    Head { head: ChunkHead, history: bool },
    Body(BodyItem),
    Compaction,
}

pub(crate) struct BodyItem {
    pub(crate) path: RecordPath,
    pub(crate) stamp: Stamp,
    pub(crate) set: SetId,
    pub(crate) index: usize,
    pub(crate) chunks: usize,
}

/// What came of putting the chunks of a set together.
pub(crate) enum Assembly {
    /// All parts are there, and are what the head says.
    Whole { head: Arc<Head>, parts: Vec<ObjectId> },
    /// All parts are there, and are not what the head says.
    Broken,
}

pub(crate) type Objects = BTreeMap<ObjectId, Known>;
pub(crate) type Assemblies = BTreeMap<SetId, Assembly>;

/// What the objects come to.
#[derive(Default)]
pub(crate) struct Catalog {
    pub(crate) entries: BTreeMap<RecordPath, Entry>,
    pub(crate) garbage: BTreeSet<ObjectId>,
    /// Which items of an object that is not garbage are needed, by their place in it.
    pub(crate) live: BTreeMap<ObjectId, Vec<usize>>,
    pub(crate) compacting: bool,
    /// Paths whose chunks contradict their head.
    pub(crate) broken: Vec<(ObjectId, RecordPath)>,
}

type Life = (RecordPath, Incarnation);

/// Objects that another one, of a higher generation, replaces: never read again.
pub(crate) fn replaced(objects: &Objects) -> BTreeSet<ObjectId> {
    objects
        .values()
        .flat_map(|known| known.replaces.iter().map(move |id| (known.generation, *id)))
        .filter(|(generation, id)| objects.get(id).is_some_and(|old| old.generation < *generation))
        .map(|(_, id)| id)
        .collect()
}

/// `hidden`: whether some object of ours could not be read.
pub(crate) fn build(
    objects: &Objects,
    assemblies: &Assemblies,
    plain: &BTreeMap<ObjectId, Plain>,
    hidden: bool,
) -> Catalog {
    let replaced = replaced(objects);
    let active = || objects.iter().filter(|(id, _)| !replaced.contains(id));
    let mut catalog = Catalog::default();

    // The dead: for each life the tombstone in the youngest object; its copies elsewhere are superfluous.
    let mut tombs: BTreeMap<Life, (u64, ObjectId, &Tombstone)> = BTreeMap::new();
    for (id, known) in active() {
        for item in &known.items {
            match item {
                Item::Tombstone(tomb) => {
                    let life = (tomb.path.clone(), tomb.incarnation);
                    let this = (known.generation, *id, tomb);
                    let kept = tombs.entry(life).or_insert(this);
                    if (this.0, this.1) > (kept.0, kept.1) {
                        *kept = this;
                    }
                }
                Item::Compaction => catalog.compacting = true,
                _ => {}
            }
        }
    }
    for ((path, _), (_, _, tomb)) in &tombs {
        let entry = catalog.entries.entry(path.clone()).or_default();
        entry.tombstones.push((*tomb).clone());
    }
    let dead = |path: &RecordPath, life: Incarnation| tombs.contains_key(&(path.clone(), life));

    // The living: candidates by path, and of them the heads.
    let mut candidates: BTreeMap<&RecordPath, Vec<(u64, &Arc<Head>)>> = BTreeMap::new();
    let mut earlier: BTreeMap<&RecordPath, Vec<(u64, &Arc<Head>)>> = BTreeMap::new();
    let mut partial: Vec<(ObjectId, u64, &ChunkHead)> = Vec::new();
    for (id, known) in active() {
        for item in &known.items {
            let (path, found, history) = match item {
                Item::Record(path, head) => (path, head, false),
                Item::History(path, head) => (path, head, true),
                Item::Head { head, history } => match assemblies.get(&head.set) {
                    Some(Assembly::Whole { head: whole, .. }) => (&head.path, whole, *history),
                    Some(Assembly::Broken) if !dead(&head.path, head.stamp.incarnation) => {
                        catalog.broken.push((*id, head.path.clone()));
                        continue;
                    }
                    _ => {
                        partial.push((*id, known.generation, head));
                        continue;
                    }
                },
                _ => continue,
            };
            if dead(path, found.revision.version.incarnation) {
                continue;
            }
            let kind = if history { &mut earlier } else { &mut candidates };
            kind.entry(path).or_default().push((known.generation, found));
        }
    }
    for plain in plain.values() {
        if !dead(&plain.path, plain.head.revision.version.incarnation) {
            candidates.entry(&plain.path).or_default().push((plain.generation, &plain.head));
        }
    }
    let mut generations: BTreeMap<&RecordPath, u64> = BTreeMap::new();
    for (path, found) in candidates {
        let entry = catalog.entries.entry(path.clone()).or_default();
        generations.insert(path, found.iter().map(|(generation, _)| *generation).max().unwrap_or(0));
        entry.heads = heads(&found);
    }
    for (path, found) in earlier {
        let entry = catalog.entries.entry(path.clone()).or_default();
        entry.history = history(&found, &entry.heads);
    }

    // Versions of which parts are missing: with all objects readable the parts are gone, so it is no version (an
    // interrupted write, or a token that lost objects). It goes when something of its path was written after it; so
    // a page must not take in the record of such a path.
    let mut kept_sets: BTreeSet<SetId> = BTreeSet::new();
    let mut dead_heads: BTreeSet<(ObjectId, SetId)> = BTreeSet::new();
    for (id, generation, head) in partial {
        let newer = generations.get(&head.path).is_some_and(|g| *g > generation);
        if dead(&head.path, head.stamp.incarnation) || newer {
            dead_heads.insert((id, head.set));
            continue;
        }
        kept_sets.insert(head.set);
        let entry = catalog.entries.entry(head.path.clone()).or_default();
        entry.incomplete = true;
        if hidden {
            entry.damaged = true;
        }
    }
    for (_, path) in &catalog.broken {
        catalog.entries.entry(path.clone()).or_default().damaged = true;
    }

    // What nothing needs any more.
    let entries = &catalog.entries;
    let living = |path: &RecordPath, found: &Arc<Head>, history: bool| {
        entries.get(path).is_some_and(|entry| {
            let kind = if history { &entry.history } else { &entry.heads };
            kind.iter().any(|head| Arc::ptr_eq(head, found))
        })
    };
    let head_needed = |id: ObjectId, head: &ChunkHead, history: bool| match assemblies.get(&head.set) {
        Some(Assembly::Whole { head: whole, .. }) => living(&head.path, whole, history),
        Some(Assembly::Broken) => catalog.broken.iter().any(|(object, _)| *object == id),
        None => kept_sets.contains(&head.set) && !dead_heads.contains(&(id, head.set)),
    };
    let mut needed_sets = kept_sets.clone();
    for (id, known) in active() {
        for item in &known.items {
            if let Item::Head { head, history } = item
                && head_needed(*id, head, *history)
            {
                needed_sets.insert(head.set);
            }
        }
    }
    let headed: BTreeSet<SetId> = active()
        .flat_map(|(_, known)| &known.items)
        .filter_map(|item| match item {
            Item::Head { head, .. } => Some(head.set),
            _ => None,
        })
        .collect();
    let needed = |id: ObjectId, item: &Item| match item {
        Item::Record(path, head) => living(path, head, false),
        Item::History(path, head) => living(path, head, true),
        Item::Tombstone(tomb) => {
            tombs.get(&(tomb.path.clone(), tomb.incarnation)).is_some_and(|(_, kept, _)| *kept == id)
        }
        Item::Head { head, history } => head_needed(id, head, *history),
        Item::Body(body) => {
            needed_sets.contains(&body.set)
                || (!headed.contains(&body.set) && orphan_stays(body, hidden, entries))
        }
        Item::Compaction => true,
    };
    let mut live: BTreeMap<ObjectId, Vec<usize>> = BTreeMap::new();
    let mut garbage = BTreeSet::new();
    for (id, known) in objects {
        let numbered = known.items.iter().enumerate();
        let kept: Vec<usize> =
            numbered.filter(|(_, item)| needed(*id, item)).map(|(number, _)| number).collect();
        let held = || known.replaces.iter().any(|old| objects.contains_key(old));
        if replaced.contains(id) || (kept.is_empty() && !(known.items.is_empty() && held())) {
            garbage.insert(*id);
        } else {
            live.insert(*id, kept);
        }
    }
    // An edit that does not say itself what it is an edit of needs that to be there.
    let base = |id: &ObjectId| plain.values().any(|edit| edit.base == Some(*id));
    let superseded = plain.iter().filter(|(id, plain)| !living(&plain.path, &plain.head, false) && !base(id));
    garbage.extend(superseded.map(|(id, _)| *id));
    catalog.live = live;
    catalog.garbage = garbage;
    catalog
}

/// A chunk without a head: of an interrupted write or deletion, unless its head is in an object that cannot be read.
fn orphan_stays(body: &BodyItem, hidden: bool, entries: &BTreeMap<RecordPath, Entry>) -> bool {
    let outlived = entries.get(&body.path).is_some_and(|entry| {
        let dead = entry.tombstones.iter().any(|tomb| tomb.incarnation == body.stamp.incarnation);
        let includes = |head: &Arc<Head>| head.revision.version.includes(&body.stamp);
        dead || entry.heads.iter().any(includes)
    });
    hidden && !outlived
}

/// The earlier values, newest first: of copies the one in the youngest object, and none that is a current version too.
fn history(found: &[(u64, &Arc<Head>)], heads: &[Arc<Head>]) -> Vec<Arc<Head>> {
    let mut found = found.to_vec();
    found.sort_by_key(|(generation, head)| std::cmp::Reverse((*generation, head.place.object)));
    let mut kept: Vec<Arc<Head>> = Vec::new();
    for (_, head) in found {
        let same = |other: &Arc<Head>| head.revision.relation(&other.revision) == Relation::Equal;
        if !heads.iter().chain(&kept).any(same) {
            kept.push(Arc::clone(head));
        }
    }
    kept.sort_by_key(|head| std::cmp::Reverse((head.revision.version.epoch, head.revision.version.counter)));
    kept
}

/// The versions that no other is newer than. Of equal copies the one in the youngest object is kept.
fn heads(found: &[(u64, &Arc<Head>)]) -> Vec<Arc<Head>> {
    let mut kept: Vec<(u64, &Arc<Head>)> = Vec::new();
    for (generation, head) in found {
        let beaten =
            found.iter().any(|(other_generation, other)| match head.revision.relation(&other.revision) {
                Relation::Behind => true,
                Relation::Equal => (*other_generation, other.place.object) > (*generation, head.place.object),
                Relation::Ahead | Relation::Diverged | Relation::OtherLife => false,
            });
        let doubled = kept.iter().any(|(_, other)| Arc::ptr_eq(other, head));
        if !beaten && !doubled {
            kept.push((*generation, head));
        }
    }
    kept.sort_by_key(|(_, head)| head.revision.version.stamp());
    kept.into_iter().map(|(_, head)| Arc::clone(head)).collect()
}
