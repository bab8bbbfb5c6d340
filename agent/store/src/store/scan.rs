//! Keeping the index equal to the token: list, read what is new, forget what is gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_token::{ErrorClass, ObjectHandle, Token};
use hsm_types::{Content, Digest, KeyDigest, Presence, RecordPath, Revision};
use zeroize::Zeroizing;

use super::Store;
use super::clear::candidate;
use super::open::of_the_object;
use crate::catalog::{self, Assembly, BodyItem, Item, Known};
use crate::format::{self, ChunkBody, ChunkHead, Damage, Entry, ObjectId, RecordEntry, SetId};
use crate::index::{DamagedObject, Form, Head, Place};
use crate::{ObjectCounts, StoreError};

/// How often a listing is repeated because an object went away between listing and reading it.
pub(super) const RELISTS: usize = 4;

/// The objects of ours in a listing.
#[derive(Default)]
struct Ours {
    sealed: BTreeMap<ObjectId, Vec<ObjectHandle>>,
    strange: BTreeMap<String, Vec<ObjectHandle>>,
    counts: ObjectCounts,
}

impl<T: Token> Store<T> {
    /// Sees what other programs have changed, and tells which paths are not as they were. Lists the token, and reads
    /// only objects that it does not know; writes nothing. Waits for a writer to finish.
    ///
    /// Where the view of an epoch is frozen ([`hsm_token::Limits::live_view`]), listing again shows nothing: there it
    /// only asks whether the session is what it was, and nothing has changed as long as it is.
    pub fn refresh(&mut self) -> Result<Vec<RecordPath>, StoreError> {
        self.usable()?;
        if !self.token.limits().live_view {
            let there = self.token.still_there();
            self.noted(there)?;
            self.usable()?;
            return Ok(Vec::new());
        }
        let _lock = self.reader_lock()?;
        let before = self.index.clone();
        self.scan()?;
        let mut paths: Vec<RecordPath> =
            before.entries.keys().chain(self.index.entries.keys()).cloned().collect();
        paths.sort();
        paths.dedup();
        let moved = before.hides_records() != self.index.hides_records();
        let changed = |path: &RecordPath| {
            let (old, new) = (before.entries.get(path), self.index.entries.get(path));
            match (old, new) {
                (Some(old), Some(new)) => {
                    old.damaged != new.damaged
                        || old.tombstones != new.tombstones
                        || old.revisions() != new.revisions()
                }
                _ => true,
            }
        };
        paths.retain(|path| moved || changed(path));
        Ok(paths)
    }

    /// Before a write: looks at the token again, and tries once more what could not be read.
    ///
    /// Where the view is frozen the index is all that can be known, since our own changes are in it: no listing, but
    /// one more try in an epoch of what could not be read.
    pub(super) fn rescan(&mut self) -> Result<(), StoreError> {
        if !self.token.limits().live_view {
            let unreadable = |(_, damage): &(_, Damage)| matches!(damage, Damage::Unreadable(_));
            let any = self.unusable.values().any(unreadable) || self.clear.has_unreadable();
            if self.tried_again || !any {
                return if self.stale { self.reindex() } else { Ok(()) };
            }
            self.tried_again = true;
        }
        let unusable = self.unusable.len();
        self.unusable.retain(|_, (_, damage)| !matches!(damage, Damage::Unreadable(_)));
        self.clear.forget_unreadable();
        self.stale |= unusable != self.unusable.len();
        self.scan()
    }

    pub(super) fn scan(&mut self) -> Result<(), StoreError> {
        for round in 1..=RELISTS {
            let listing = self.token.list();
            let listing = self.noted(listing)?;
            if self.token.epoch() != self.epoch {
                return Err(StoreError::Void);
            }
            let mut ours = Ours::default();
            ours.counts.others = listing.others;
            let clear = listing.data.iter().filter_map(|object| Some((object.handle, candidate(object)?)));
            let clear = clear.collect();
            for object in listing.data {
                ours.add(object.label, object.handle);
            }
            let last = round == RELISTS;
            let vanished = self.take_in_clear(clear, last)?;
            let plain = self.clear.ours();
            ours.counts.ours += plain;
            ours.counts.foreign = ours.counts.foreign.saturating_sub(plain);
            self.stale |=
                self.index.counts != ObjectCounts { pending: self.index.counts.pending, ..ours.counts };
            self.index.counts = ours.counts;
            if self.take_in(&ours, last)? || vanished {
                continue;
            }
            if !self.stale {
                break;
            }
            match self.reindex() {
                // A chunk went away before it was put together: there is another version by now.
                Err(StoreError::Token(error)) if error.class == ErrorClass::ObjectGone && !last => {}
                outcome => return outcome,
            }
        }
        Ok(())
    }

    /// Reads what is new; says whether something went away meanwhile. What has changed is noted at once, since an
    /// error may end this half way.
    fn take_in(&mut self, ours: &Ours, last: bool) -> Result<bool, StoreError> {
        let (known, unusable) = (self.objects.len(), self.unusable.len());
        self.objects
            .retain(|id, known| ours.sealed.get(id).is_some_and(|handles| *handles == [known.handle]));
        self.unusable.retain(|label, (tried, _)| {
            let there = ours.strange.get(label).or_else(|| {
                let id = ObjectId::from_label(label)?;
                ours.sealed.get(&id)
            });
            there == Some(tried)
        });
        self.stale |= known != self.objects.len() || unusable != self.unusable.len();
        let mut vanished = false;
        for (label, handles) in &ours.strange {
            self.stale |= !self.unusable.contains_key(label);
            self.unusable.insert(label.clone(), (handles.clone(), Damage::Name));
        }
        for (id, handles) in &ours.sealed {
            let label = id.label();
            if self.objects.contains_key(id) || self.unusable.contains_key(&label) {
                continue;
            }
            self.stale = true;
            let damage = match handles.as_slice() {
                [handle] => match self.token.read(*handle) {
                    Ok(value) => self.learn(*id, *handle, &value).err(),
                    Err(error) if of_the_object(&error) && !last => {
                        vanished = true;
                        continue;
                    }
                    Err(error) if of_the_object(&error) => Some(Damage::Unreadable(error.to_string())),
                    Err(error) => return self.noted(Err(error)),
                },
                more => Some(Damage::Doubled(more.len())),
            };
            if let Some(damage) = damage {
                self.unusable.insert(label, (handles.clone(), damage));
            }
        }
        if self.token.epoch() != self.epoch {
            return Err(StoreError::Void);
        }
        Ok(vanished)
    }

    /// Opens one object and keeps what it holds, without values.
    fn learn(&mut self, id: ObjectId, handle: ObjectHandle, value: &[u8]) -> Result<(), Damage> {
        let sealed = format::open(&self.keys, id, value)?;
        let lengths = sealed.entries.iter().map(format::page_share).collect();
        let items = sealed
            .entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Record(record) => {
                    Item::Record(record.path.clone(), Arc::new(summary(&record, id, false)))
                }
                Entry::History(record) => {
                    Item::History(record.path.clone(), Arc::new(summary(&record, id, false)))
                }
                Entry::Tombstone(tombstone) => Item::Tombstone(tombstone),
                Entry::Head(head) => Item::Head { head, history: false },
                Entry::HistoryHead(head) => Item::Head { head, history: true },
                Entry::Body(body) => Item::Body(self.keep_part(body)),
                Entry::Compaction => Item::Compaction,
            })
            .collect();
        let known = Known {
            handle,
            size: value.len(),
            generation: sealed.generation,
            replaces: sealed.replaces,
            items,
            lengths,
        };
        self.objects.insert(id, known);
        self.stale = true;
        Ok(())
    }

    fn keep_part(&mut self, body: ChunkBody) -> BodyItem {
        self.parts.insert((body.set, body.index), body.part);
        BodyItem { path: body.path, stamp: body.stamp, set: body.set, index: body.index, chunks: body.chunks }
    }

    /// Takes in an object that this store has just written and read back.
    pub(super) fn adopt(
        &mut self,
        id: ObjectId,
        handle: ObjectHandle,
        value: &[u8],
    ) -> Result<(), StoreError> {
        if self.learn(id, handle, value).is_err() {
            self.void = true;
            return Err(StoreError::ReadBack);
        }
        self.index.counts.ours += 1;
        Ok(())
    }

    /// Index and garbage anew after a change.
    pub(super) fn reindex(&mut self) -> Result<(), StoreError> {
        self.stale = true;
        self.assemble()?;
        self.regroup()?;
        self.rebuild();
        self.parts.clear();
        if self.judge()? {
            // What is left of one record is no part of another.
            self.clear.stale = true;
            self.regroup()?;
            self.rebuild();
        }
        self.index.counts.pending = self.pending();
        self.stale = false;
        Ok(())
    }

    /// Puts the chunks of each set together, once; checks them, and keeps no value.
    fn assemble(&mut self) -> Result<(), StoreError> {
        let objects = &self.objects;
        let replaced = catalog::replaced(objects);
        let active = |id: &ObjectId| objects.contains_key(id) && !replaced.contains(id);
        let heads_of = |set: SetId| {
            let sets = |known: &Known| {
                known.items.iter().any(|item| matches!(item, Item::Head { head, .. } if head.set == set))
            };
            objects.iter().filter(|(id, known)| active(id) && sets(known)).map(|(id, _)| *id).next()
        };
        self.assemblies.retain(|set, assembly| match assembly {
            Assembly::Whole { head, parts } => {
                // The head may have moved: its chunks were checked, and need not be read again.
                let place = if active(&head.place.object) { Some(head.place.object) } else { heads_of(*set) };
                if let Some(object) = place
                    && object != head.place.object
                {
                    let place = Place { object, ..head.place };
                    *head = Arc::new(Head { place, ..Head::clone(head) });
                }
                place.is_some() && parts.iter().all(|id| objects.contains_key(id))
            }
            Assembly::Broken => false,
        });
        let heads: Vec<(ObjectId, ChunkHead)> = objects
            .iter()
            .filter(|(id, _)| active(id))
            .flat_map(|(id, known)| known.items.iter().map(move |item| (*id, item)))
            .filter_map(|(id, item)| match item {
                Item::Head { head, .. } if !self.assemblies.contains_key(&head.set) => {
                    Some((id, head.clone()))
                }
                _ => None,
            })
            .collect();
        if heads.is_empty() {
            return Ok(());
        }
        let mut sets: BTreeMap<SetId, Vec<(usize, ObjectId)>> = BTreeMap::new();
        for (id, known) in &self.objects {
            for item in &known.items {
                if let Item::Body(body) = item {
                    sets.entry(body.set).or_default().push((body.index, *id));
                }
            }
        }
        for (object, head) in heads {
            if self.assemblies.contains_key(&head.set) {
                continue;
            }
            let Some(mut bodies) = sets.get(&head.set).cloned() else {
                continue;
            };
            bodies.sort_unstable();
            if bodies.len() < head.chunks {
                continue;
            }
            let whole =
                bodies.iter().enumerate().all(|(at, (index, _))| at == *index) && bodies.len() == head.chunks;
            let ids: Vec<ObjectId> = bodies.iter().map(|(_, id)| *id).collect();
            let record = if whole { self.join(&head, &ids)? } else { None };
            let assembly = match record {
                Some(record) => {
                    Assembly::Whole { head: Arc::new(summary(&record, object, true)), parts: ids }
                }
                None => Assembly::Broken,
            };
            self.assemblies.insert(head.set, assembly);
        }
        Ok(())
    }

    /// The record in the given chunks, if they are what the head says.
    fn join(&mut self, head: &ChunkHead, ids: &[ObjectId]) -> Result<Option<RecordEntry>, StoreError> {
        let mut tail = Zeroizing::new(Vec::with_capacity(head.length.min(2 * super::MAX_RECORD)));
        for (index, id) in ids.iter().enumerate() {
            let same = self.objects.get(id).is_some_and(|known| {
                known.items.iter().any(|item| {
                    matches!(item, Item::Body(body) if body.set == head.set && body.index == index && body.chunks == head.chunks
                        && body.path == head.path && body.stamp == head.stamp)
                })
            });
            if !same {
                return Ok(None);
            }
            let part = match self.parts.remove(&(head.set, index)) {
                Some(part) => part,
                None => self.read_part(*id, head.set, index)?,
            };
            if tail.len() + part.len() > tail.capacity() {
                return Ok(None);
            }
            tail.extend_from_slice(&part);
        }
        if tail.len() != head.length {
            return Ok(None);
        }
        let record = format::decode_tail(head.path.clone(), &head.stamp, &tail).ok();
        Ok(record.filter(|r| Digest::of(&r.path, r.version.incarnation, &r.content) == head.digest))
    }

    /// The record of a chunk head in values.
    pub(super) fn read_chunked(&mut self, head: &ChunkHead) -> Result<Option<RecordEntry>, StoreError> {
        let Some(Assembly::Whole { parts, .. }) = self.assemblies.get(&head.set) else {
            return Ok(None);
        };
        let ids = parts.clone();
        self.join(head, &ids)
    }

    fn rebuild(&mut self) {
        let hidden = self.unusable.len();
        let catalog = catalog::build(&self.objects, &self.assemblies, &self.clear.plain, hidden > 0);
        let due = self.options.clock.now() + self.token.limits().settle;
        self.garbage = catalog
            .garbage
            .into_iter()
            .map(|id| (id, self.garbage.get(&id).copied().unwrap_or(due)))
            .collect();
        self.live = catalog.live;
        self.index.damaged = self.blemishes.clone();
        let unusable = self.unusable.iter().map(|(label, (_, damage))| DamagedObject {
            label: label.clone(),
            path: None,
            damage: damage.clone(),
        });
        self.index.damaged.extend(unusable);
        let broken = catalog.broken.into_iter().map(|(id, path)| DamagedObject {
            label: id.label(),
            path: Some(path),
            damage: Damage::Body("its chunks are not what it says"),
        });
        self.index.damaged.extend(broken);
        self.index.entries = catalog.entries;
        self.index.aside.clear();
        self.index.compacting = catalog.compacting;
        self.index.hidden = hidden;
        self.clear.overlay(&mut self.index);
        self.index.counts.pending = self.garbage.len();
    }

    /// Whether everything of ours was read and nothing is known of `path`, or a record is there.
    pub(super) fn known(&self, path: &RecordPath) -> Result<Option<crate::Entry>, StoreError> {
        match self.index.presence(path) {
            Presence::Present(entry) => Ok(Some(entry.clone())),
            Presence::Absent => Ok(None),
            Presence::Unknown(_) => Err(self.damaged(path)),
        }
    }
}

impl Ours {
    fn add(&mut self, label: String, handle: ObjectHandle) {
        if let Some(id) = ObjectId::from_label(&label) {
            self.sealed.entry(id).or_default().push(handle);
        } else if !label.starts_with(format::PREFIX) {
            self.counts.foreign += 1;
            return;
        } else if label != format::IDENTITY_LABEL && !format::KEY_LABELS.contains(&label.as_str()) {
            self.strange.entry(label).or_default().push(handle);
        }
        self.counts.ours += 1;
    }
}

pub(super) fn summary(record: &RecordEntry, object: ObjectId, chunked: bool) -> Head {
    let life = record.version.incarnation;
    let Content { data, .. } = &record.content;
    Head {
        revision: Revision {
            version: record.version.clone(),
            digest: Digest::of(&record.path, life, &record.content),
            origin: record.origin.clone(),
        },
        size: data.size(),
        keys: data.iter().map(|(key, value)| (key.clone(), KeyDigest::of(life, key, value))).collect(),
        form: Form::Sealed,
        place: Place { object, chunked },
    }
}
