//! Room on the token: making objects, and destroying what is superseded once the flash has settled.

use std::time::{Duration, Instant};

use hsm_token::{ErrorClass, ObjectHandle, Token, TokenError, Visibility};
use hsm_types::RecordPath;
use zeroize::Zeroizing;

use super::Store;
use super::repack::Leaving;
use crate::StoreError;
use crate::catalog::Item;
use crate::format::{self, ObjectId};

/// For how long after its start, and the time that the flash needs, an epoch of a shared reader destroys.
const YOUNG: Duration = Duration::from_secs(5);

/// How many objects a write may leave behind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// A new record, or one that grows: it must fit at rest, if need be after packing.
    AtRest,
    /// A tombstone: it only passes through, so a full token can be emptied.
    Passing,
}

/// What a write needs.
#[derive(Clone, Copy)]
pub(super) struct Need<'a> {
    /// Objects that it makes.
    pub(super) objects: usize,
    /// Objects that become superfluous by it.
    pub(super) freed: usize,
    pub(super) room: Room,
    /// The record that it writes.
    pub(super) leaving: Option<Leaving<'a>>,
    /// Whether it may go back to the page that it leaves, so that it needs no room at rest.
    pub(super) goes_back: bool,
}

impl<T: Token> Store<T> {
    /// Destroys what is superseded and has settled; says how long until the next object is due, if one is pending.
    ///
    /// Takes the writer's lock and looks at the token again, but only if something is due.
    pub fn settle(&mut self) -> Result<Option<Duration>, StoreError> {
        self.usable()?;
        let now = self.options.clock.now();
        if self.next_due().is_some_and(|due| due <= now) {
            let _lock = self.lock()?;
            self.rescan()?;
            self.reap()?;
            self.clear_leftovers()?;
        }
        let now = self.options.clock.now();
        Ok(self.next_due().map(|due| due.saturating_duration_since(now)))
    }

    /// Whether a handle surely still means the object that it meant when the epoch began. Where others reach the token
    /// and what they do does not show (a shared reader), a destroyed object's place may hold another program's object
    /// by now, which a read answers from memory; so there only a young epoch destroys (TOKEN.md, section 1).
    pub(super) fn may_destroy(&self) -> bool {
        let limits = self.token.limits();
        self.token.alone()
            || limits.live_view
            || self.options.clock.now() <= self.opened + limits.settle + YOUNG
    }

    /// The same as a condition: without it this epoch is over, and the next one may.
    pub(super) fn destroyable(&mut self) -> Result<(), StoreError> {
        if self.may_destroy() {
            return Ok(());
        }
        self.void = true;
        Err(StoreError::Void)
    }

    /// The one way by which an open store destroys: never in an epoch that may not.
    pub(super) fn destroy_handle(&mut self, handle: ObjectHandle) -> Result<(), StoreError> {
        self.destroyable()?;
        let destroyed = self.token.destroy(handle);
        self.wrote(destroyed)
    }

    /// The same where it may have gone meanwhile, in a live view: somebody was quicker, and what we wanted is so.
    pub(super) fn destroy_if_there(&mut self, handle: ObjectHandle) -> Result<(), StoreError> {
        self.destroyable()?;
        match self.token.destroy(handle) {
            Err(error)
                if self.token.limits().live_view
                    && matches!(error.class, ErrorClass::NoSuchObject | ErrorClass::ObjectGone) =>
            {
                Ok(())
            }
            destroyed => self.wrote(destroyed),
        }
    }

    /// When the next superseded object may be destroyed; none in an epoch that may not.
    fn next_due(&self) -> Option<Instant> {
        if !self.may_destroy() {
            return None;
        }
        self.garbage.values().copied().chain(self.clear.due()).min()
    }

    /// Refuses, before anything is changed, what would not fit; packs, and waits for superseded objects to settle, if
    /// their room is needed.
    pub(super) fn make_room(&mut self, need: Need<'_>) -> Result<(), StoreError> {
        let limits = self.token.limits();
        let Need { objects, freed, .. } = need;
        let full = |store: &Self, limit: usize| StoreError::TokenFull {
            objects: store.index.counts.total(),
            needed: objects,
            limit,
        };
        let grows = objects > freed && !need.goes_back;
        if let (Some(limit), Room::AtRest, true) = (limits.objects_at_rest, need.room, grows) {
            let short = |store: &Self| (store.at_rest() + objects).saturating_sub(limit + freed);
            let missing = short(self);
            if missing > 0 && self.could_free(missing, need.leaving) < missing {
                return Err(full(self, limit));
            }
            // What the new object's own part in packing would free is freed when it is there.
            while short(self) > 0 && self.pack_step(true)? {}
        }
        let Some(limit) = limits.objects_in_passing else {
            return Ok(());
        };
        // One is kept for the page that packing writes.
        let ceiling = if objects <= freed { limit } else { limit.saturating_sub(1) };
        while self.at_rest() + objects > ceiling {
            if !self.pack_step(true)? {
                if need.room == Room::Passing && self.at_rest() + objects <= limit {
                    break;
                }
                return Err(full(self, limit));
            }
        }
        self.wait_for(objects)
    }

    /// Waits until so many objects can be made: as long as superseded ones have to settle before they are destroyed,
    /// and those that were destroyed before they cannot come back with a loss of power.
    pub(super) fn wait_for(&mut self, objects: usize) -> Result<(), StoreError> {
        let Some(limit) = self.token.limits().objects_in_passing else {
            return Ok(());
        };
        loop {
            let now = self.options.clock.now();
            let (unsettled, next) = self.unsettled(now);
            if self.index.counts.total() + unsettled + objects <= limit {
                return Ok(());
            }
            if self.pending() > 0 {
                self.destroyable()?;
            }
            let due = self.next_due();
            let Some(until) = due.into_iter().chain(next).min() else {
                let total = self.index.counts.total();
                return Err(StoreError::TokenFull { objects: total, needed: objects, limit });
            };
            let before = self.pending();
            self.options.clock.sleep(until.saturating_duration_since(now));
            self.reap()?;
            self.clear_leftovers()?;
            if next.is_none() && self.pending() >= before {
                let total = self.index.counts.total();
                return Err(StoreError::TokenFull { objects: total, needed: objects, limit });
            }
        }
    }

    /// Whether making so many objects would have to wait.
    pub(super) fn must_wait_for(&self, objects: usize) -> bool {
        let (unsettled, _) = self.unsettled(self.options.clock.now());
        let limit = self.token.limits().objects_in_passing;
        limit.is_some_and(|limit| self.index.counts.total() + unsettled + objects > limit)
    }

    /// How many objects could come back with a loss of power, and when the first of them no longer can. Of those that
    /// an earlier process destroyed nothing is known: they may have been as many as may pass.
    fn unsettled(&self, now: Instant) -> (usize, Option<Instant>) {
        let limits = self.token.limits();
        let settled = |at: &Instant| *at + limits.settle;
        let earlier = (settled(&self.opened) > now).then_some(self.opened);
        let passing = limits.objects_in_passing.zip(limits.objects_at_rest);
        let unknown =
            if earlier.is_some() { passing.map_or(0, |(most, rest)| most.saturating_sub(rest)) } else { 0 };
        let known = self.destroyed.values().filter(|at| settled(at) > now);
        let next = known.clone().chain(&earlier).map(settled).min();
        (known.count() + unknown, next)
    }

    /// After a put: packs until no more is at rest than may be, if need be the record into the page that it left. The
    /// record is there whatever comes of this.
    pub(super) fn back_to_rest(&mut self, path: &RecordPath) {
        while self.short_by(0) {
            let packed = match self.pack_step(true) {
                Ok(false) => self.pack_back(path),
                other => other,
            };
            match packed {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.void |= matches!(error, StoreError::Void | StoreError::ReadBack);
                    return;
                }
            }
        }
    }

    /// Waits until nothing is pending, and all that was written and destroyed has settled.
    pub(super) fn drain(&mut self) -> Result<(), StoreError> {
        while let Some(due) = self.garbage.values().min().copied() {
            let before = self.garbage.len();
            let now = self.options.clock.now();
            self.options.clock.sleep(due.saturating_duration_since(now));
            self.reap()?;
            if self.garbage.len() >= before {
                break;
            }
        }
        self.settled();
        Ok(())
    }

    /// Waits until what was written and destroyed so far is so for good, by this store or by an earlier one.
    pub(super) fn settled(&mut self) {
        let writes = self.destroyed.values().chain(self.created.values());
        let last = writes.copied().max().map_or(self.opened, |last| last.max(self.opened));
        let now = self.options.clock.now();
        let settled = last + self.token.limits().settle;
        self.options.clock.sleep(settled.saturating_duration_since(now));
        self.destroyed.clear();
        self.created.clear();
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
        let handle = self.wrote(created)?;
        let read = self.token.read(handle);
        let read = self.wrote(read)?;
        if self.token.epoch() != self.epoch {
            return Err(StoreError::Void);
        }
        if *read != value {
            self.void = true;
            return Err(StoreError::ReadBack);
        }
        self.note_created(id);
        self.adopt(id, handle, &value)
    }

    pub(super) fn note_created(&mut self, id: ObjectId) {
        let (now, settle) = (self.options.clock.now(), self.token.limits().settle);
        self.created.retain(|_, at| *at + settle > now);
        self.created.insert(id, now);
    }

    /// What came of a write. Where the view is frozen, an error leaves it unknown for the rest of the epoch whether
    /// the object is there, so the epoch is over: its number must not be given again, nor its room.
    pub(super) fn wrote<R>(&mut self, result: Result<R, TokenError>) -> Result<R, StoreError> {
        let failed = result.is_err();
        let result = self.noted(result);
        self.void |= failed && !self.token.limits().live_view;
        result
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
        self.destroyable()?;
        if self.clear.plain.contains_key(&id) {
            return self.destroy_plain(id);
        }
        let live = self.token.limits().live_view;
        if !self.verify(id)? {
            if !live {
                // Somebody else was here, and nothing that we could do in this epoch shows what they did.
                self.void = true;
                return Err(StoreError::ReadBack);
            }
            // Not what we think it is: leave it, and look at it again.
            self.objects.remove(&id);
            return self.scan();
        }
        let Some(known) = self.objects.get(&id) else {
            return Ok(());
        };
        let (handle, size) = (known.handle, known.size);
        self.destroy_if_there(handle)?;
        self.objects.remove(&id);
        self.garbage.remove(&id);
        self.live.remove(&id);
        self.destroyed.insert(id, self.options.clock.now());
        self.count_destroyed(size);
        Ok(())
    }

    /// Destroys an object of ours that was read and cannot be used.
    pub(super) fn destroy_unusable(
        &mut self,
        label: &str,
        handle: ObjectHandle,
        size: usize,
    ) -> Result<(), StoreError> {
        self.destroy_handle(handle)?;
        self.unusable.remove(label);
        self.count_destroyed(size);
        Ok(())
    }

    pub(super) fn count_destroyed(&mut self, size: usize) {
        self.stale = true;
        self.index.counts.ours = self.index.counts.ours.saturating_sub(1);
        self.index.counts.pending = self.pending();
        let limits = self.token.limits();
        self.bytes_replaced += size as u64;
        if size > limits.lasting_size {
            self.bytes_leaking += size as u64;
        }
        let now = self.options.clock.now();
        self.destroyed.retain(|_, at| *at + limits.settle > now);
    }

    /// Destroys what is due after a change that has already succeeded: an error here does not undo that, and what is
    /// left is found again. An epoch that ended is noted and seen by the next call.
    pub(super) fn tidy(&mut self) {
        if !self.may_destroy() {
            return;
        }
        let outcome = self.reap().and_then(|()| self.clear_leftovers());
        self.void |= matches!(outcome, Err(StoreError::Void | StoreError::ReadBack));
    }
}
