//! Packing: one page written in place of several objects, wholly or not at all.
//!
//! The page holds every living entry of what it is made of, is read back, and only then do the others go, when the
//! token has settled. It names those that hold more than one entry as replaced, so that nothing of theirs is read
//! again; a single record needs no name, since of two copies of one version the younger object's is taken. A page is
//! packed only when all that it replaced itself is gone for good: else what it hid could come back with it gone; and
//! only when what supersedes its dead entries is in the flash for good: else a loss of power could take both.
//!
//! Never packed: records whose path is incomplete, damaged or diverged (a page is younger than the remains of an
//! interrupted write, and would make them look outlived), and nothing at all while some object cannot be read. While a
//! compaction is under way only what is refilled is packed, since it would not fit otherwise. History is dropped
//! first: it is for where there is room.

use hsm_token::Token;
use hsm_types::{Digest, Incarnation, RecordPath};

use super::Store;
use super::pack::{self, Plan, RESERVE, Shape, Victim};
use crate::StoreError;
use crate::catalog::{Assembly, Item, Known};
use crate::format::{self, Entry, ObjectId, SEALED_OVERHEAD};

/// The record that a put under way is about to write.
#[derive(Clone, Copy)]
pub(super) struct Leaving<'a> {
    /// Its copies in pages become holes.
    pub(super) path: &'a RecordPath,
    /// The bytes that it will take in a page, if it gets an object of its own.
    pub(super) own: Option<usize>,
}

impl<T: Token> Store<T> {
    /// Packs in the background: at most one page is written, and only when few objects are left. Says whether more is
    /// worth doing now. Does nothing on a token without a limit, while records are hidden, or where it would have to
    /// wait for the flash.
    pub fn repack(&mut self) -> Result<bool, StoreError> {
        self.usable()?;
        if !self.short_by(RESERVE) || !self.may_destroy() {
            return Ok(false);
        }
        let _lock = self.lock()?;
        self.rescan()?;
        self.reap()?;
        if self.must_wait_for(1) || !self.worth_packing() {
            return Ok(false);
        }
        let done = self.pack_step(false)?;
        Ok(done && self.worth_packing())
    }

    /// Whether fewer than `reserve` objects are free below the limit at rest.
    pub(super) fn short_by(&self, reserve: usize) -> bool {
        let limit = self.token.limits().objects_at_rest;
        limit.is_some_and(|limit| self.at_rest() + reserve > limit)
    }

    /// How many objects are there, of anybody, without those that wait to be destroyed.
    pub(super) fn at_rest(&self) -> usize {
        self.index.counts.total().saturating_sub(self.pending())
    }

    /// Whether objects are short and there is a step whose worth is its price; above the limit any step is.
    fn worth_packing(&self) -> bool {
        if !self.short_by(RESERVE) || self.index.hides_records() {
            return false;
        }
        let over = self.short_by(0);
        self.oldest_history().is_some()
            || self.next_page(true).is_some_and(|(_, plan)| over || plan.score >= 0)
    }

    /// Drops one object of history, or writes one page. With `wait`, waits for what must have settled first. Says
    /// whether there was anything to do.
    pub(super) fn pack_step(&mut self, wait: bool) -> Result<bool, StoreError> {
        if self.index.hidden > 0 {
            return Ok(false);
        }
        if let Some(id) = self.oldest_history() {
            self.destroy(id)?;
            self.reindex()?;
            return Ok(true);
        }
        let mut found = self.next_page(true);
        if found.is_none() && wait && self.next_page(false).is_some() {
            self.drain()?;
            self.reindex()?;
            found = self.next_page(true);
        }
        let Some((victims, plan)) = found else {
            return Ok(false);
        };
        let ids: Vec<ObjectId> = plan.chosen.iter().filter_map(|number| victims.get(*number)?.id).collect();
        self.rewrite(&ids, |_| true)?;
        Ok(true)
    }

    /// The oldest object that holds nothing but earlier values.
    fn oldest_history(&self) -> Option<ObjectId> {
        let only_history = |id: &ObjectId, live: &[usize]| {
            let items = self.objects.get(id).map(|known| &known.items);
            let history = |item: &Item| matches!(item, Item::History(..) | Item::Head { history: true, .. });
            items.is_some_and(|items| live.iter().all(|number| items.get(*number).is_some_and(history)))
        };
        let all = self.live.iter().filter(|(id, live)| !live.is_empty() && only_history(id, live));
        all.min_by_key(|(id, _)| self.objects.get(id).map(|known| known.generation)).map(|(id, _)| *id)
    }

    fn shape(&self) -> Shape {
        let limits = self.token.limits();
        Shape { object: limits.object_size, overhead: SEALED_OVERHEAD, lasting: limits.lasting_size }
    }

    fn next_page(&self, ready: bool) -> Option<(Vec<Victim>, Plan)> {
        let mut victims = self.victims(None);
        victims.retain(|victim| victim.ready || !ready);
        let plan = pack::plan(&victims, self.shape())?;
        Some((victims, plan))
    }

    /// How many objects dropping history and packing could free, up to `wanted`, with what is about to be written.
    pub(super) fn could_free(&self, wanted: usize, leaving: Option<Leaving<'_>>) -> usize {
        if self.index.hidden > 0 {
            return 0;
        }
        let mut history = 0;
        for (id, live) in &self.live {
            let Some(known) = self.objects.get(id) else { continue };
            let mut items = live.iter().filter_map(|number| known.items.get(*number));
            let mut only = !live.is_empty();
            let mut chunks = 0;
            for item in &mut items {
                match item {
                    Item::History(..) => {}
                    Item::Head { head, history: true } => {
                        if let Some(Assembly::Whole { head: whole, parts }) = self.assemblies.get(&head.set) {
                            let current = self.index.entries.get(&head.path);
                            let shared = current.is_some_and(|entry| {
                                entry.heads.iter().any(|head| head.revision == whole.revision)
                            });
                            chunks += if shared { 0 } else { parts.len() };
                        }
                    }
                    _ => only = false,
                }
            }
            history += if only { 1 + chunks } else { 0 };
        }
        let wanted = wanted.saturating_sub(history);
        history + pack::could_free(self.victims(leaving), self.shape(), wanted)
    }

    /// Every object whose living entries may move.
    fn victims(&self, leaving: Option<Leaving<'_>>) -> Vec<Victim> {
        let shape = self.shape();
        let mut victims = Vec::new();
        for (id, live) in &self.live {
            let Some(known) = self.objects.get(id) else { continue };
            let (mut bytes, mut tombstones, mut movable) = (0, false, true);
            for number in live {
                let (item, length) = (known.items.get(*number), known.lengths.get(*number).copied());
                match item {
                    Some(Item::Record(path, _)) if leaving.is_some_and(|leaving| leaving.path == path) => {}
                    Some(Item::Record(path, _)) if self.packable(path) => bytes += length.unwrap_or(0),
                    Some(Item::Tombstone(_)) => {
                        bytes += length.unwrap_or(0);
                        tombstones = true;
                    }
                    Some(Item::History(..)) => {}
                    _ => movable = false,
                }
            }
            if movable && bytes > 0 {
                victims.push(Victim {
                    id: Some(*id),
                    generation: known.generation,
                    live: bytes,
                    leak: if known.size > shape.lasting { known.size } else { 0 },
                    named: known.items.len() > 1,
                    tombstones,
                    ready: known.replaces.iter().all(|old| self.gone(*old))
                        && (live.len() == known.items.len() || self.outlived(known, live)),
                });
            }
        }
        if let Some(own) = leaving.and_then(|leaving| leaving.own) {
            let size = own + SEALED_OVERHEAD;
            victims.push(Victim {
                id: None,
                generation: u64::MAX,
                live: own,
                leak: if size > shape.lasting { size } else { 0 },
                named: false,
                tombstones: false,
                ready: true,
            });
        }
        victims
    }

    /// Whether the page in which a record lies could take in its next version in place of it.
    pub(super) fn goes_back(&self, leaving: Leaving<'_>) -> bool {
        let Some(own) = leaving.own else { return false };
        self.page_of(leaving.path, own).is_some()
    }

    /// The page that a record has left or is about to leave, if it takes so many bytes of it in again.
    fn page_of(&self, path: &RecordPath, own: usize) -> Option<ObjectId> {
        if self.index.hidden > 0 {
            return None;
        }
        let leaving = Leaving { path, own: None };
        let shape = self.shape();
        let victims = self.victims(Some(leaving));
        let mut pages = victims.into_iter().filter(|victim| {
            let known = victim.id.and_then(|id| self.objects.get(&id));
            let holds = |item: &Item| matches!(item, Item::Record(held, _) if held == path);
            known.is_some_and(|known| known.items.iter().any(holds)) && shape.takes_back(victim, own)
        });
        pages.next()?.id
    }

    /// Packs a record into the page that it left. Says whether it could.
    pub(super) fn pack_back(&mut self, path: &RecordPath) -> Result<bool, StoreError> {
        let is_it = |item: &Item| matches!(item, Item::Record(held, _) if held == path);
        let own = self.live.iter().find_map(|(id, live)| {
            let known = self.objects.get(id)?;
            let number = live.iter().find(|number| known.items.get(**number).is_some_and(is_it))?;
            Some((*id, known.lengths.get(*number).copied()?))
        });
        let Some((own, length)) = own else { return Ok(false) };
        let Some(page) = self.page_of(path, length).filter(|page| *page != own) else {
            return Ok(false);
        };
        self.drain()?;
        self.reindex()?;
        let there = |store: &Self, id: &ObjectId| store.live.contains_key(id);
        if !there(self, &page) || !there(self, &own) || !self.packable(path) {
            return Ok(false);
        }
        self.rewrite(&[page, own], |_| true)?;
        Ok(true)
    }

    fn packable(&self, path: &RecordPath) -> bool {
        let entry = self.index.entries.get(path);
        entry.is_some_and(|entry| entry.heads.len() == 1 && !entry.incomplete && !entry.damaged)
    }

    /// Whether an object is gone so that no loss of power brings it back.
    pub(super) fn gone(&self, id: ObjectId) -> bool {
        let settled = self.options.clock.now().checked_sub(self.token.limits().settle);
        let by_now = |at| settled.is_some_and(|settled| at <= settled);
        !self.objects.contains_key(&id)
            && by_now(self.opened)
            && self.destroyed.get(&id).is_none_or(|at| by_now(*at))
    }

    /// Whether what supersedes the dead entries of an object is in the flash for good. Until then they are what a loss
    /// of power leaves of their records, and must not be hidden by a page that names the object.
    fn outlived(&self, known: &Known, live: &[usize]) -> bool {
        let Some(settled) = self.options.clock.now().checked_sub(self.token.limits().settle) else {
            return false;
        };
        let there = |id: &ObjectId| self.created.get(id).is_none_or(|at| *at <= settled);
        let dead = known.items.iter().enumerate().filter(|(number, _)| !live.contains(number));
        let mut paths = dead.filter_map(|(_, item)| match item {
            Item::Record(path, _) | Item::History(path, _) => Some(path),
            Item::Tombstone(tombstone) => Some(&tombstone.path),
            Item::Head { head, .. } => Some(&head.path),
            Item::Body(body) => Some(&body.path),
            Item::Compaction => None,
        });
        self.opened <= settled
            && paths.all(|path| {
                self.index.entries.get(path).is_none_or(|entry| {
                    entry.heads.iter().all(|head| there(&head.place.object))
                        && (entry.tombstones.is_empty() || self.buried <= settled)
                })
            })
    }

    /// Writes one page with the living records and tombstones of `ids` that `keep` keeps, in place of them. What is
    /// history in them is dropped.
    pub(super) fn rewrite(
        &mut self,
        ids: &[ObjectId],
        keep: impl Fn(&Item) -> bool,
    ) -> Result<(), StoreError> {
        self.wait_for(1)?;
        let mut entries = Vec::new();
        let mut names = Vec::new();
        for id in ids {
            let (Some(known), Some(live)) = (self.objects.get(id), self.live.get(id)) else {
                // It changed while room was made for the page; the next step sees how.
                return Ok(());
            };
            if known.items.len() > 1 {
                names.push(*id);
            }
            let mut records = Vec::new();
            for item in live.iter().filter_map(|number| known.items.get(*number)).filter(|item| keep(item)) {
                match item {
                    Item::Record(path, head) => records.push((path.clone(), head.revision.clone())),
                    Item::Tombstone(tombstone) => entries.push(format::encode_tombstone(tombstone)),
                    _ => {}
                }
            }
            if records.is_empty() {
                continue;
            }
            let sealed = self.read_again(*id)?;
            for (path, revision) in records {
                let same = |entry: &&Entry| match entry {
                    Entry::Record(record) => {
                        record.path == path
                            && record.version == revision.version
                            && Digest::of(&path, record.version.incarnation, &record.content)
                                == revision.digest
                    }
                    _ => false,
                };
                let Some(Entry::Record(record)) = sealed.entries.iter().find(same) else {
                    self.void = true;
                    return Err(StoreError::ReadBack);
                };
                let content = &record.content;
                entries.push(format::encode_record(&record.path, &record.version, &record.origin, content));
            }
        }
        let id = self.random_object()?;
        let written = self.create(id, &names, &entries);
        if written.is_ok() || !self.is_void() {
            self.reindex()?;
        }
        written
    }

    /// Rewrites the pages in which a dead version of this life lies beside what lives, without it.
    pub(super) fn expel(&mut self, path: &RecordPath, life: Incarnation) -> Result<(), StoreError> {
        let in_pages = |store: &Self| -> Vec<ObjectId> {
            let holding = store.objects.iter().filter(|(_, known)| super::bury::holds(known, path, life));
            holding
                .map(|(id, _)| *id)
                .filter(|id| store.live.get(id).is_some_and(|live| !live.is_empty()))
                .collect()
        };
        for id in in_pages(self) {
            self.rewrite_page(id, |_| true)?;
        }
        self.drain()?;
        self.reindex()
    }

    /// Rewrites one page without what `keep` does not keep, if that may be done.
    pub(super) fn rewrite_page(
        &mut self,
        id: ObjectId,
        keep: impl Fn(&Item) -> bool,
    ) -> Result<(), StoreError> {
        self.drain()?;
        self.reindex()?;
        if self.live.get(&id).is_none_or(Vec::is_empty) {
            return Ok(());
        }
        let movable = self.victims(None).into_iter().any(|victim| victim.id == Some(id) && victim.ready);
        if !movable {
            return Err(StoreError::Invalid(
                "the tombstone's record lies in a page with one that has diverged or is incomplete; mend that first",
            ));
        }
        self.rewrite(&[id], keep)
    }
}
