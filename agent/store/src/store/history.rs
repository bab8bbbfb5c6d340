//! Earlier values: where they lie, and how they are read and brought back.
//!
//! A put keeps the value that it replaces, and those that were kept before, up to the number that it says, where there
//! is room. Beside a small record they ride in the record's own object as long as the whole can be replaced for ever
//! ([`hsm_token::Limits::lasting_size`]): such a replace is still one create and one destroy, and what does not fit is
//! not kept. For a larger record, and on tokens without a limit, they lie in an object of their own, while objects are
//! plentiful ([`PLENTY`]); an earlier value in chunks keeps its chunks, and gets a history head that names them. When objects run short, packing drops history before anything is
//! refused (`repack`).
//!
//! The object that brings an earlier value to its new place is written before the record's new version: until that is
//! there it is only a second copy of what is current, and counts for nothing. The new version names the objects whose
//! history it takes over or drops. An earlier value is never the current one, and dies with its life.

use std::sync::Arc;

use hsm_token::Token;
use hsm_types::{Digest, Presence, RecordPath, Revision, Stamp};
use zeroize::Zeroizing;

use super::write::Write;
use super::{Expect, PutOrigin, PutOutcome, PutRequest, Record, Store};
use crate::StoreError;
use crate::catalog::{Assembly, Item, Known};
use crate::format::{self, ChunkHead, Entry, ObjectId, RecordEntry, SEALED_OVERHEAD, Sealed, SetId};
use crate::index::{Form, Head};

/// History gets objects of its own while so many are free below the limit at rest.
const PLENTY: usize = 20;

/// What a put does about earlier values.
#[derive(Default)]
pub(super) struct History {
    /// Encoded entries for the record's own object, newest first.
    pub(super) beside: Vec<Zeroizing<Vec<u8>>>,
    /// Encoded entries for an object of their own, before the record.
    pub(super) apart: Vec<Zeroizing<Vec<u8>>>,
    /// What the new version names as replaced.
    pub(super) replaces: Vec<ObjectId>,
    /// Chunks that stay.
    pub(super) sets: Vec<SetId>,
}

impl<T: Token> Store<T> {
    /// The earlier values of a record that are kept, newest first, without the values.
    pub fn history(&self, path: &RecordPath) -> Presence<Vec<Revision>> {
        match self.index.presence(path) {
            Presence::Present(entry) => {
                Presence::Present(entry.history.iter().map(|head| head.revision.clone()).collect())
            }
            Presence::Absent => Presence::Absent,
            Presence::Unknown(why) => Presence::Unknown(why),
        }
    }

    /// An earlier value. Absent if it is not kept (any more), or is the current one.
    pub fn history_value(&mut self, path: &RecordPath, stamp: Stamp) -> Result<Presence<Record>, StoreError> {
        let found = self.read_versions(path, true, |entry| {
            let same = |head: &&Arc<Head>| head.revision.version.stamp() == stamp;
            entry.history.iter().find(same).cloned().into_iter().collect()
        })?;
        Ok(match found {
            Presence::Present(mut records) => records.pop().map_or(Presence::Absent, Presence::Present),
            Presence::Absent => Presence::Absent,
            Presence::Unknown(why) => Presence::Unknown(why),
        })
    }

    /// Makes an earlier value the current one again: a put of its content as a new version, which keeps the value that
    /// it replaces and as much history as there was. Whoever edits without a cluster puts what
    /// [`Store::history_value`] gives, and begins an epoch.
    pub fn restore(
        &mut self,
        path: &RecordPath,
        stamp: Stamp,
        expect: Expect,
    ) -> Result<PutOutcome, StoreError> {
        let keep = match self.history(path) {
            Presence::Present(history) => history.len().max(1),
            Presence::Absent | Presence::Unknown(_) => 1,
        };
        match self.history_value(path, stamp)? {
            Presence::Present(Record { content, .. }) => self.put(&PutRequest {
                path: path.clone(),
                expect,
                content,
                origin: PutOrigin::Token,
                parents: Vec::new(),
                begin_epoch: false,
                keep_history: keep,
            }),
            Presence::Absent => {
                Err(StoreError::Invalid("no such earlier value is kept; list the record's history"))
            }
            Presence::Unknown(_) => Err(self.damaged(path)),
        }
    }

    /// What becomes of the earlier values when this is written. `own` is the size of the record's entry, `objects` how
    /// many objects it takes.
    pub(super) fn plan_history(
        &mut self,
        what: &Write,
        own: usize,
        objects: usize,
    ) -> Result<History, StoreError> {
        let mut plan = History::default();
        let Some(old) = &what.old else { return Ok(plan) };
        let life = what.version.incarnation;
        let continued = old.heads.iter().filter(|head| Some(head.revision.version.stamp()) == what.current);
        let earlier = old.history.iter();
        // Plain records take no part in this.
        let ours = continued
            .chain(earlier)
            .filter(|head| head.revision.version.incarnation == life && head.form == Form::Sealed);
        let wanted: Vec<_> = ours.take(what.keep).cloned().collect();
        if wanted.is_empty() && old.history.is_empty() {
            return Ok(plan);
        }

        let staying = self.sort_history(&what.path, &wanted, &mut plan.replaces);
        let limits = self.token.limits();
        let size = own + SEALED_OVERHEAD + size_of::<ObjectId>() * plan.replaces.len();
        // A small record costs one object whatever is kept, where objects are counted.
        let apart =
            (size > limits.lasting_size || limits.objects_at_rest.is_none()) && self.plenty(objects + 1);
        let mut left = limits.lasting_size.saturating_sub(size);
        let mut left_apart = limits.object_size.saturating_sub(SEALED_OVERHEAD);
        let mut source: Option<(ObjectId, Sealed)> = None;
        for head in wanted {
            let stays = staying.contains(&head.place.object);
            if head.place.chunked {
                let Some((chunks, parts)) = self.chunk_head(&head) else { continue };
                let named =
                    |id: &ObjectId| self.objects.get(id).is_some_and(|known| names_set(known, chunks.set));
                let entry = format::encode_history_head(&chunks);
                if staying.iter().any(named) {
                    plan.sets.push(chunks.set);
                } else if self.plenty(objects + 1 + parts) && entry.len() <= left_apart {
                    left_apart -= entry.len();
                    plan.apart.push(entry);
                    plan.sets.push(chunks.set);
                }
                continue;
            }
            if stays {
                continue;
            }
            let sealed = match source.take() {
                Some((id, sealed)) if id == head.place.object => sealed,
                _ => self.read_again(head.place.object)?,
            };
            let entry = sealed.entries.iter().find_map(|entry| match entry {
                Entry::Record(record) | Entry::History(record)
                    if record.path == what.path
                        && record.version == head.revision.version
                        && Digest::of(&what.path, life, &record.content) == head.revision.digest =>
                {
                    let RecordEntry { path, version, origin, content } = record;
                    Some(format::encode_history(path, version, origin, content))
                }
                _ => None,
            });
            source = Some((head.place.object, sealed));
            let Some(entry) = entry else {
                self.void = true;
                return Err(StoreError::ReadBack);
            };
            if entry.len() <= left {
                left -= entry.len();
                plan.beside.push(entry);
            } else if apart && entry.len() <= left_apart {
                left_apart -= entry.len();
                plan.apart.push(entry);
            } else {
                // What is older is not kept without it.
                break;
            }
        }
        Ok(plan)
    }

    /// Of the objects that hold earlier values of this record and nothing else: those that stay because all in them
    /// is wanted, and those that the new version replaces.
    fn sort_history(
        &self,
        path: &RecordPath,
        wanted: &[Arc<Head>],
        replaces: &mut Vec<ObjectId>,
    ) -> Vec<ObjectId> {
        let history = |item: &Item| matches!(item, Item::History(..) | Item::Head { history: true, .. });
        let wanted = |item: &Item| {
            let version = self.version_of(item);
            history(item) && version.is_some_and(|version| wanted.iter().any(|head| head.revision == version))
        };
        let mut staying = Vec::new();
        for (id, live) in &self.live {
            let Some(known) = self.objects.get(id).filter(|known| only_of(known, path)) else {
                continue;
            };
            if known.items.iter().any(history) {
                let mut items = live.iter().filter_map(|number| known.items.get(*number));
                if items.all(wanted) { staying.push(*id) } else { replaces.push(*id) }
            }
        }
        staying
    }

    /// Whether so many more objects leave plenty.
    fn plenty(&self, objects: usize) -> bool {
        !self.short_by(PLENTY + objects)
    }

    fn version_of(&self, item: &Item) -> Option<Revision> {
        match item {
            Item::Record(_, head) | Item::History(_, head) => Some(head.revision.clone()),
            Item::Head { head, .. } => match self.assemblies.get(&head.set)? {
                Assembly::Whole { head, .. } => Some(head.revision.clone()),
                Assembly::Broken => None,
            },
            Item::Tombstone(_) | Item::Body(_) | Item::Compaction => None,
        }
    }

    /// The chunk head of a version in chunks, and how many they are.
    fn chunk_head(&self, head: &Head) -> Option<(ChunkHead, usize)> {
        let known = self.objects.get(&head.place.object)?;
        known.items.iter().find_map(|item| match item {
            Item::Head { head: chunks, .. }
                if chunks.digest == head.revision.digest && chunks.stamp == head.revision.version.stamp() =>
            {
                match self.assemblies.get(&chunks.set)? {
                    Assembly::Whole { parts, .. } => Some((chunks.clone(), parts.len())),
                    Assembly::Broken => None,
                }
            }
            _ => None,
        })
    }
}

/// Whether an object holds nothing but versions of this record.
fn only_of(known: &Known, path: &RecordPath) -> bool {
    known.items.iter().all(|item| match item {
        Item::Record(own, _) | Item::History(own, _) => own == path,
        Item::Head { head, .. } => head.path == *path,
        Item::Tombstone(_) | Item::Body(_) | Item::Compaction => false,
    })
}

fn names_set(known: &Known, set: SetId) -> bool {
    known.items.iter().any(|item| matches!(item, Item::Head { head, .. } if head.set == set))
}
