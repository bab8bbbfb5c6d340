//! Room on the token: making objects, and destroying what is superseded once the flash has settled.

use std::time::Duration;

use hsm_token::{ErrorClass, Token, Visibility};
use zeroize::Zeroizing;

use super::Store;
use crate::StoreError;
use crate::catalog::Item;
use crate::format::{self, ObjectId};

/// How many objects a write may leave behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// A new record, or one that grows: it must fit at rest.
    AtRest,
    /// A replacement or a tombstone: it only passes through, so a full token can be emptied.
    Passing,
}

impl<T: Token> Store<T> {
    /// Destroys what is superseded and has settled; says how long until the next object is due, if one is pending.
    ///
    /// Takes the writer's lock and looks at the token again, but only if something is due.
    pub fn settle(&mut self) -> Result<Option<Duration>, StoreError> {
        self.usable()?;
        let now = self.options.clock.now();
        let next = |store: &Self| store.garbage.values().copied().chain(store.clear.due()).min();
        if next(self).is_some_and(|due| due <= now) {
            let _lock = self.lock()?;
            self.rescan()?;
            self.reap()?;
            self.clear_leftovers()?;
        }
        let now = self.options.clock.now();
        Ok(next(self).map(|due| due.saturating_duration_since(now)))
    }

    /// Refuses, before anything is changed, what would not fit; waits for superseded objects to settle if their room
    /// is needed. `freed` is how many objects become superfluous by the write itself.
    pub(super) fn make_room(&mut self, needed: usize, freed: usize, room: Room) -> Result<(), StoreError> {
        let limits = self.token.limits();
        let total = self.index.counts.total();
        let full = |limit: usize| StoreError::TokenFull { objects: total, needed, limit };
        let settled = total.saturating_sub(self.garbage.len());
        if let (Some(limit), Room::AtRest) = (limits.objects_at_rest, room)
            && settled + needed > limit + freed
        {
            return Err(full(limit));
        }
        let Some(limit) = limits.objects_in_passing else {
            return Ok(());
        };
        if settled + needed > limit {
            return Err(full(limit));
        }
        while self.index.counts.total() + needed > limit {
            let before = self.garbage.len();
            let now = self.options.clock.now();
            if let Some(due) = self.garbage.values().min() {
                self.options.clock.sleep(due.saturating_duration_since(now));
            }
            self.reap()?;
            if self.garbage.len() >= before {
                return Err(full(limit));
            }
        }
        Ok(())
    }

    /// Makes one object, reads it back and takes it in.
    pub(super) fn create(
        &mut self,
        id: ObjectId,
        replaces: &[ObjectId],
        entries: &[Zeroizing<Vec<u8>>],
    ) -> Result<(), StoreError> {
        let generation = self.next_generation()?;
        let nonce = self.options.random()?;
        let value = format::seal(&self.keys, id, generation, nonce, replaces, entries)?;
        let created = self.token.create(&id.label(), Visibility::Private, &value);
        let handle = self.noted(created)?;
        let read = self.token.read(handle);
        let read = self.noted(read)?;
        if self.token.epoch() != self.epoch {
            return Err(StoreError::Void);
        }
        if *read != value {
            self.void = true;
            return Err(StoreError::ReadBack);
        }
        self.adopt(id, handle, &value)
    }

    pub(super) fn next_generation(&self) -> Result<u64, StoreError> {
        let highest = self.objects.values().map(|known| known.generation).max().unwrap_or(0);
        let highest = highest.max(self.clear.generation());
        highest.checked_add(1).ok_or(StoreError::Invalid("the token's generations are used up"))
    }

    pub(super) fn random_object(&mut self) -> Result<ObjectId, StoreError> {
        self.options.random().map(ObjectId)
    }

    /// Destroys the garbage that is due, oldest first and heads before their chunks. Each is read once more before:
    /// a stale handle would destroy another object.
    pub(super) fn reap(&mut self) -> Result<(), StoreError> {
        let now = self.options.clock.now();
        let mut due: Vec<(bool, u64, ObjectId)> = self
            .garbage
            .iter()
            .filter(|(_, due)| **due <= now)
            .filter_map(|(id, _)| {
                let plain = self.clear.plain.get(id).map(|plain| (false, plain.generation, *id));
                let sealed = self.objects.get(id).map(|known| {
                    let body = known.items.iter().any(|item| matches!(item, Item::Body(_)));
                    (body, known.generation, *id)
                });
                sealed.or(plain)
            })
            .collect();
        due.sort_unstable();
        for (_, _, id) in due {
            self.destroy(id)?;
        }
        Ok(())
    }

    pub(super) fn destroy(&mut self, id: ObjectId) -> Result<(), StoreError> {
        if self.clear.plain.contains_key(&id) {
            return self.destroy_plain(id);
        }
        if !self.verify(id)? {
            // Not what we think it is: leave it, and look at it again.
            self.objects.remove(&id);
            return self.scan();
        }
        let Some(known) = self.objects.get(&id) else {
            return Ok(());
        };
        let (handle, size) = (known.handle, known.size);
        match self.token.destroy(handle) {
            Ok(()) => {}
            // Somebody was quicker: what we wanted is so.
            Err(error) if matches!(error.class, ErrorClass::NoSuchObject | ErrorClass::ObjectGone) => {}
            Err(error) => return self.noted(Err(error)),
        }
        self.objects.remove(&id);
        self.stale = true;
        self.garbage.remove(&id);
        self.index.counts.ours = self.index.counts.ours.saturating_sub(1);
        self.index.counts.pending = self.garbage.len();
        self.bytes_replaced += size as u64;
        self.last_destroyed = Some(self.options.clock.now());
        Ok(())
    }

    /// Destroys what is due after a change that has already succeeded: an error here does not undo that, and what is
    /// left is found again. An epoch that ended is noted and seen by the next call.
    pub(super) fn tidy(&mut self) {
        let outcome = self.reap().and_then(|()| self.clear_leftovers());
        self.void |= matches!(outcome, Err(StoreError::Void | StoreError::ReadBack));
    }
}
