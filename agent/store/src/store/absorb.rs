//! Making a foreign record ours: write it, read it back, let it settle, and only then destroy what it was made of.
//!
//! A foreign object goes only while a record of ours says all that it says. So the steps may be interrupted anywhere,
//! and what is left is found and finished by whoever comes next.

use std::sync::Arc;

use hsm_token::{ObjectHandle, Token};
use hsm_types::{Content, Incarnation, RecordPath, Revision};

use super::Store;
use super::clear::{Leftover, Outcome};
use super::open::of_the_object;
use super::place::Room;
use super::read::Failed;
use super::write::{Write, check_size};
use crate::foreign::content::{derived, holds};
use crate::foreign::names::Part;
use crate::format::ObjectId;
use crate::index::{Entry, Form, Head};
use crate::{Encryption, StoreError};

impl<T: Token> Store<T> {
    /// Before the record at `path` is changed: makes it ours if it is foreign, and destroys the foreign objects that
    /// it was made of. Gives what is known of the record then. Changes no content and no version.
    ///
    /// With [`Room::Passing`] it is about to be deleted. What fits no plain record is sealed until it is replaced.
    pub(super) fn absorbed(
        &mut self,
        path: &RecordPath,
        found: Option<Entry>,
        room: Room,
    ) -> Result<Option<Entry>, StoreError> {
        let heads = found.as_ref().map_or(&[][..], |entry| entry.heads.as_slice());
        if !heads.iter().any(|head| was_foreign(head)) {
            return Ok(found);
        }
        if let [head] = heads
            && head.form == Form::Foreign
        {
            let head = Arc::clone(head);
            match self.import(path, &head, self.options.encryption, room) {
                Err(StoreError::NotPlain { .. }) => self.import(path, &head, Encryption::Envelope, room)?,
                other => other?,
            }
        }
        self.finish_import(path)?;
        // Until the destructions are in the flash, a part of the foreign record may come back, and would be taken for
        // a record once ours is gone or says something else.
        if let Some(last) = self.clear.last_cleared {
            self.sleep_until(last + self.token.limits().settle);
        }
        if self.index.compacting {
            // Whoever refills knows that nothing else is known.
            let entry = self.index.entries.get(path);
            return Ok(entry.filter(|entry| !entry.heads.is_empty()).cloned());
        }
        self.known(path)
    }

    /// Before a life ends at `path` that it has as a foreign record, or as one that was made of such.
    pub(super) fn absorb_life(&mut self, path: &RecordPath, life: Incarnation) -> Result<(), StoreError> {
        let Ok(Some(entry)) = self.known(path) else {
            return Ok(());
        };
        if entry.heads.iter().any(|head| head.revision.version.incarnation == life) {
            self.absorbed(path, Some(entry), Room::Passing)?;
        }
        Ok(())
    }

    /// Writes a foreign record as ours, in the version that it has.
    pub(super) fn import(
        &mut self,
        path: &RecordPath,
        head: &Arc<Head>,
        encryption: Encryption,
        room: Room,
    ) -> Result<(), StoreError> {
        let group = self.clear.groups.get(path);
        if let Some((label, other)) = group.and_then(|group| self.clear.contested(group)) {
            return Err(StoreError::Contested { path: path.clone(), label, other });
        }
        let record = match self.read_version(path, head, false) {
            Ok(record) => record,
            Err(Failed::Error(error)) => return Err(error),
            Err(Failed::Gone(error)) => return Err(error.into()),
            Err(Failed::Stale) => {
                self.void = true;
                return Err(StoreError::ReadBack);
            }
        };
        check_size(&record.content)?;
        let old = Some(Entry { heads: vec![Arc::clone(head)], ..Entry::default() });
        let Revision { version, origin, .. } = record.revision;
        let what = Write { path: path.clone(), version, origin, old, current: None, keep: 0, room };
        self.write_own(&what, &record.content, encryption)?;
        Ok(())
    }

    /// How many foreign or plain objects go when this is written.
    pub(super) fn clear_objects_of(&self, what: &Write) -> usize {
        let heads = what.old.iter().flat_map(|old| &old.heads);
        heads.map(|head| self.objects_in_clear(&what.path, head)).sum()
    }

    pub(super) fn objects_in_clear(&self, path: &RecordPath, head: &Head) -> usize {
        match head.form {
            Form::Sealed => 0,
            Form::Plain => self.clear.plain.get(&head.place.object).map_or(0, |plain| plain.handles.len()),
            Form::Foreign => self.clear.groups.get(path).map_or(0, |group| group.members.len()),
        }
    }

    /// Whether an object in clear belongs to this life.
    pub(super) fn clear_holds(&self, path: &RecordPath, life: Incarnation) -> bool {
        let plain = self.clear.plain.values().filter(|plain| plain.path == *path).map(|plain| &plain.head);
        let foreign = self.clear.groups.get(path).and_then(|group| match &group.outcome {
            Outcome::Record(head) => Some(head),
            Outcome::Deleted | Outcome::Unclear(_) => None,
        });
        plain.chain(foreign).any(|head| head.revision.version.incarnation == life)
    }

    /// When our record has settled: destroys the foreign objects that it was made of.
    pub(super) fn finish_import(&mut self, path: &RecordPath) -> Result<(), StoreError> {
        let Some(group) = self.clear.groups.get(path) else {
            return Ok(());
        };
        let due = match &group.leftover {
            Some(leftover) if leftover.count == 0 => return Ok(()),
            Some(leftover) => leftover.due,
            None => self.options.clock.now() + self.token.limits().settle,
        };
        self.sleep_until(due);
        self.clear_foreign(path)
    }

    pub(super) fn sleep_until(&self, due: std::time::Instant) {
        let now = self.options.clock.now();
        self.options.clock.sleep(due.saturating_duration_since(now));
    }

    /// Finds the foreign objects that a record of ours makes superfluous, and says whether they are others than before.
    /// Reads them and the record, once for each version of the record.
    pub(super) fn judge(&mut self) -> Result<bool, StoreError> {
        let before = self.clear.claims.clone();
        let mut unjudged: Vec<(RecordPath, Vec<Revision>)> = Vec::new();
        for (path, group) in &mut self.clear.groups {
            let ours = self.index.entries.get(path).map(imports).unwrap_or_default();
            if ours.is_empty() {
                group.leftover = None;
                self.clear.claims.retain(|_, claimed| claimed != path);
                continue;
            }
            let beside: Vec<Revision> = ours.iter().map(|head| head.revision.clone()).collect();
            if group.leftover.as_ref().is_none_or(|known| known.beside != beside) {
                unjudged.push((path.clone(), beside));
            }
        }
        for (path, beside) in unjudged {
            let superfluous = match self.superfluous(&path) {
                Ok(superfluous) => superfluous,
                // Asked again with the next change, at the latest before the record is changed.
                Err(StoreError::Token(error)) if of_the_object(&error) => continue,
                Err(error) => return Err(error),
            };
            let due = self.options.clock.now() + self.token.limits().settle;
            if let Some(group) = self.clear.groups.get_mut(&path) {
                group.leftover = Some(Leftover { beside, count: superfluous.len(), due });
            }
            self.clear.claims.retain(|_, claimed| *claimed != path);
            self.clear.claims.extend(superfluous.into_iter().map(|(handle, _)| (handle, path.clone())));
        }
        Ok(before != self.clear.claims)
    }

    /// The foreign objects, with their sizes, that say nothing which a record of ours at `path` does not say. An error
    /// where that cannot be told now: it must not pass for a no.
    fn superfluous(&mut self, path: &RecordPath) -> Result<Vec<(ObjectHandle, usize)>, StoreError> {
        let Some(group) = self.clear.groups.get(path) else {
            return Ok(Vec::new());
        };
        if matches!(group.outcome, Outcome::Deleted) {
            return Ok(Vec::new());
        }
        let mut members = group.members.clone();
        members.retain(|(handle, _)| !group.contested.contains_key(handle));
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let heads = self.index.entries.get(path).map(imports).unwrap_or_default();
        let mut contents: Vec<Content> = Vec::new();
        for head in heads {
            match self.read_version(path, &head, false) {
                Ok(record) => contents.push(record.content),
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::Gone(error)) => return Err(error.into()),
                Err(Failed::Stale) => {
                    self.void = true;
                    return Err(StoreError::ReadBack);
                }
            }
        }
        let mut superfluous = Vec::new();
        for (handle, part) in members {
            if let Some(size) = self.says_nothing_more(path, handle, &part, &contents)? {
                superfluous.push((handle, size));
            }
        }
        Ok(superfluous)
    }

    /// The size of an object that is superfluous beside one of `contents`.
    fn says_nothing_more(
        &mut self,
        path: &RecordPath,
        handle: ObjectHandle,
        part: &Part,
        contents: &[Content],
    ) -> Result<Option<usize>, StoreError> {
        // What could not be read when it was found is no part of what was imported.
        if self.clear.is_unreadable(handle) {
            return Ok(None);
        }
        let read = self.token.read(handle);
        let value = self.noted(read)?;
        let held = contents.iter().any(|content| holds(content, path, part, &value));
        Ok(held.then_some(value.len()))
    }

    /// Destroys what is superfluous beside records of ours and has settled.
    pub(super) fn clear_leftovers(&mut self) -> Result<(), StoreError> {
        let now = self.options.clock.now();
        let due = |leftover: &Leftover| leftover.count > 0 && leftover.due <= now;
        let paths: Vec<RecordPath> = self
            .clear
            .groups
            .iter()
            .filter(|(_, group)| group.leftover.as_ref().is_some_and(due))
            .map(|(path, _)| path.clone())
            .collect();
        for path in paths {
            self.clear_foreign(&path)?;
        }
        Ok(())
    }

    /// Notes that a foreign object was destroyed.
    pub(super) fn gone_foreign(&mut self, handle: ObjectHandle, size: usize) {
        self.clear.forget(handle);
        self.clear.last_cleared = Some(self.options.clock.now());
        self.clear.cleared += 1;
        // It may come back with a loss of power, and takes room until then.
        let name = derived(
            b"hsm.j5t.io/foreign-object",
            &[&handle.0.to_be_bytes(), &(self.clear.cleared as u64).to_be_bytes()],
        );
        self.destroyed.insert(ObjectId(name), self.options.clock.now());
        // It is counted among ours: it leaks as much.
        let ours = self.index.counts.ours;
        self.count_destroyed(size);
        self.index.counts.ours = ours;
        self.index.counts.foreign = self.index.counts.foreign.saturating_sub(1);
    }

    /// Destroys the foreign objects of a record that is ours; each is compared with our record once more before.
    fn clear_foreign(&mut self, path: &RecordPath) -> Result<(), StoreError> {
        let superfluous = self.superfluous(path)?;
        let group = self.clear.groups.get_mut(path);
        let leftover = group.and_then(|group| group.leftover.take_if(|l| l.count != superfluous.len()));
        // They are not what they were: judged anew, so that nobody waits for what does not go.
        let anew = leftover.is_some() || !superfluous.is_empty();
        for (handle, size) in superfluous {
            self.destroy_handle(handle)?;
            self.gone_foreign(handle, size);
        }
        if anew { self.reindex() } else { Ok(()) }
    }
}

/// Whether a version is of a life that began as a foreign record.
fn was_foreign(head: &Head) -> bool {
    let version = &head.revision.version;
    version.epoch.number == 0 || version.lineage.keys().any(|epoch| epoch.number == 0)
}

/// The heads of ours that were made of foreign objects, if all that there is of the record can be read. Beside other
/// records of ours a foreign object is nobody's leftover, whatever it says.
fn imports(entry: &Entry) -> Vec<Arc<Head>> {
    let ours = |head: &&Arc<Head>| head.form != Form::Foreign && was_foreign(head);
    if entry.damaged { Vec::new() } else { entry.heads.iter().filter(ours).cloned().collect() }
}
