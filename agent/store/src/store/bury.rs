//! Deleting: tombstones, packed several to an object.

use hsm_token::Token;
use hsm_types::{Incarnation, RecordPath, Tombstone};
use zeroize::Zeroizing;

use super::place::{Need, Room};
use super::write::diverged;
use super::{DeleteOutcome, Expect, Store};
use crate::StoreError;
use crate::catalog::{Item, Known};
use crate::format::{ObjectId, SEALED_OVERHEAD, encode_tombstone};

/// A page of tombstones is rewritten in place of its predecessor up to this size, since such replaces do not leak
/// flash; three of them are merged into one of the full size.
const SMALL_PAGE: usize = 500;
const MERGE: usize = 3;

impl<T: Token> Store<T> {
    /// Deletes a record: a tombstone for the life of the head that is expected, or for all living heads with
    /// [`Expect::Any`]; what they leave is destroyed when the token has settled. What is known to be absent is
    /// deleted already. [`Expect::Absent`] is a contradiction unless that is so.
    pub fn delete(&mut self, path: &RecordPath, expect: Expect) -> Result<DeleteOutcome, StoreError> {
        let _lock = self.lock()?;
        self.rescan()?;
        let Some(entry) = self.known(path)? else {
            self.tidy();
            return Ok(DeleteOutcome { tombstones: Vec::new() });
        };
        let mut dying = Vec::new();
        for head in &entry.heads {
            let stamp = head.revision.version.stamp();
            let named = match expect {
                Expect::Any => true,
                Expect::Absent => false,
                Expect::Stamp(expected) => expected == stamp,
            };
            if named {
                dying.push(stamp);
            }
        }
        if dying.is_empty() {
            return Err(StoreError::VersionMismatch {
                path: path.clone(),
                current: entry.heads.last().map(|head| Box::new(head.revision.clone())),
            });
        }
        // A tombstone kills every version of its life: heads that the caller did not name must not go with it.
        let unnamed = entry.heads.iter().any(|head| {
            let stamp = head.revision.version.stamp();
            !dying.contains(&stamp) && dying.iter().any(|dead| dead.incarnation == stamp.incarnation)
        });
        if unnamed {
            return Err(diverged(path, entry.revisions()));
        }
        let mut tombstones: Vec<Tombstone> = Vec::new();
        for stamp in dying {
            match tombstones.iter_mut().find(|tomb| tomb.incarnation == stamp.incarnation) {
                // Of two heads of one life the tombstone names the newer epoch; it kills both.
                Some(tomb) => tomb.stamp = tomb.stamp.max(stamp),
                None => {
                    tombstones.push(Tombstone { path: path.clone(), incarnation: stamp.incarnation, stamp });
                }
            }
        }
        self.absorbed(path, Some(entry), Room::Passing)?;
        self.write_tombstones(&tombstones)?;
        Ok(DeleteOutcome { tombstones })
    }

    /// Writes tombstones of lives that ended elsewhere, whether this token ever held them or not. Says whether
    /// anything had to be written.
    pub fn bury(&mut self, tombstones: &[Tombstone]) -> Result<bool, StoreError> {
        if tombstones.iter().any(|tomb| tomb.stamp.incarnation != tomb.incarnation) {
            return Err(StoreError::Invalid("a tombstone whose version is of another life"));
        }
        let _lock = self.lock()?;
        self.rescan()?;
        let mut new: Vec<Tombstone> = Vec::new();
        for tomb in tombstones {
            let same = |other: &Tombstone| other.path == tomb.path && other.incarnation == tomb.incarnation;
            if !self.index.tombstones().any(same) && !new.iter().any(same) {
                new.push(tomb.clone());
            }
        }
        if new.is_empty() {
            self.tidy();
            return Ok(false);
        }
        for tomb in &new {
            self.absorb_life(&tomb.path, tomb.incarnation)?;
        }
        self.write_tombstones(&new)?;
        Ok(true)
    }

    /// Forgets that a life ended; for the controller, when every token that held it has acknowledged its end.
    /// Refused while a copy of that life is still on this token. Says whether there was such a tombstone.
    pub fn forget_tombstone(
        &mut self,
        path: &RecordPath,
        incarnation: Incarnation,
    ) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        self.rescan()?;
        // What cannot be read now, of ours or of others, may be a copy.
        if self.index.hides_records() || self.index.presence(path).is_unknown() {
            return Err(self.damaged(path));
        }
        let is_it = |item: &Item| matches!(item, Item::Tombstone(tomb) if tomb.path == *path && tomb.incarnation == incarnation);
        if !self.objects.values().any(|known| known.items.iter().any(is_it)) {
            return Ok(false);
        }
        // The copies must be gone, and so gone that the flash cannot bring them back.
        self.drain()?;
        self.reindex()?;
        if self.objects.values().any(|known| holds(known, path, incarnation)) {
            self.expel(path, incarnation)?;
        }
        if self.clear_holds(path, incarnation)
            || self.objects.values().any(|known| holds(known, path, incarnation))
        {
            return Err(StoreError::Invalid("a copy of the deleted record is still on the token"));
        }
        self.make_room(tombstones(1))?;
        let page = self.objects.iter().find(|(_, known)| known.items.iter().any(is_it));
        let Some((id, known)) = page.map(|(id, known)| (*id, known)) else {
            return Ok(false);
        };
        let only_tombstones = known.items.iter().all(|item| matches!(item, Item::Tombstone(_)));
        let rest: Vec<_> = known
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Tombstone(tomb) if !is_it(item) => Some(encode_tombstone(tomb)),
                _ => None,
            })
            .collect();
        if !only_tombstones {
            self.rewrite_page(id, |item| !is_it(item))?;
        } else if rest.is_empty() {
            self.destroy(id)?;
        } else {
            let new = self.random_object()?;
            self.create(new, &[id], &rest)?;
        }
        self.reindex()?;
        self.tidy();
        Ok(true)
    }

    fn write_tombstones(&mut self, new: &[Tombstone]) -> Result<(), StoreError> {
        let limit = self.token.limits().object_size;
        let mut left = new;
        while !left.is_empty() {
            let plan = self.plan_page(left, limit);
            if plan.taken == 0 {
                return Err(StoreError::Invalid("the token's objects are too small for a tombstone"));
            }
            self.make_room(tombstones(plan.replaces.len()))?;
            if !plan.replaces.iter().all(|id| self.live.contains_key(id)) {
                // Packing for the room has moved what is in one of them.
                continue;
            }
            // Pages that were replaced before and still wait need not be named: a tombstone that comes back kills
            // nothing that is not dead.
            let id = self.random_object()?;
            self.create(id, &plan.replaces, &plan.entries)?;
            self.buried = self.options.clock.now();
            self.reindex()?;
            left = left.get(plan.taken..).unwrap_or_default();
        }
        self.tidy();
        Ok(())
    }

    /// What the next page of tombstones holds, and which pages it replaces.
    fn plan_page(&self, new: &[Tombstone], limit: usize) -> Page {
        let mut small: Vec<(u64, ObjectId, &Known)> = self
            .objects
            .iter()
            .filter(|(id, known)| {
                known.size <= SMALL_PAGE
                    && !self.garbage.contains_key(id)
                    && !known.items.is_empty()
                    && known.items.iter().all(|item| matches!(item, Item::Tombstone(_)))
            })
            .map(|(id, known)| (known.generation, *id, known))
            .collect();
        small.sort_unstable_by_key(|(generation, id, _)| (*generation, *id));
        let newest = small.last().map(std::slice::from_ref).unwrap_or_default();
        let into_newest = Page::of(newest, new, SMALL_PAGE.min(limit));
        if into_newest.taken == new.len() {
            return into_newest;
        }
        if small.len() >= MERGE {
            let merged = Page::of(&small, new, limit);
            if merged.taken > 0 {
                return merged;
            }
        }
        let small_page = Page::of(&[], new, SMALL_PAGE.min(limit));
        if small_page.taken == new.len() { small_page } else { Page::of(&[], new, limit) }
    }
}

struct Page {
    replaces: Vec<ObjectId>,
    entries: Vec<Zeroizing<Vec<u8>>>,
    /// How many of the new tombstones it takes.
    taken: usize,
}

impl Page {
    /// All tombstones of `old` and as many of `new` as fit in `limit` bytes; none if not even the old ones do.
    fn of(old: &[(u64, ObjectId, &Known)], new: &[Tombstone], limit: usize) -> Self {
        let mut page =
            Self { replaces: old.iter().map(|(_, id, _)| *id).collect(), entries: Vec::new(), taken: 0 };
        let mut size = SEALED_OVERHEAD + 8 * old.len();
        let kept = old.iter().flat_map(|(_, _, known)| &known.items);
        for item in kept {
            if let Item::Tombstone(tomb) = item {
                let entry = encode_tombstone(tomb);
                size += entry.len();
                page.entries.push(entry);
            }
        }
        for tomb in new {
            let entry = encode_tombstone(tomb);
            if size + entry.len() > limit {
                break;
            }
            size += entry.len();
            page.entries.push(entry);
            page.taken += 1;
        }
        page
    }
}

fn tombstones(freed: usize) -> Need<'static> {
    Need { objects: 1, freed, room: Room::Passing, leaving: None, goes_back: false }
}

/// Whether an object holds a version of this life.
pub(super) fn holds(known: &Known, path: &RecordPath, life: Incarnation) -> bool {
    known.items.iter().any(|item| match item {
        Item::Record(p, head) | Item::History(p, head) => {
            p == path && head.revision.version.incarnation == life
        }
        Item::Head { head, .. } => head.path == *path && head.stamp.incarnation == life,
        Item::Body(body) => body.path == *path && body.stamp.incarnation == life,
        Item::Tombstone(_) | Item::Compaction => false,
    })
}
