//! Writing and destroying plain records.

use hsm_token::{ErrorClass, Token, Visibility};
use hsm_types::{Content, Digest, Revision};

use super::clear::id_of;
use super::place::{Need, Room};
use super::repack::Leaving;
use super::write::Write;
use super::{PutOutcome, Store};
use crate::format::ObjectId;
use crate::{Entry, StoreError, plain};

impl<T: Token> Store<T> {
    /// Writes a version in clear: one object, made, read back, and only then is the old one superseded.
    pub(super) fn write_plain(&mut self, what: &Write, content: &Content) -> Result<PutOutcome, StoreError> {
        let Write { path, version, origin, old, .. } = what;
        let limit = self.token.limits().object_size;
        let generation = self.next_generation()?;
        let value = plain::encode(path, version, origin, content, generation, limit)?;
        // Of an import, what is left of the foreign record says the same; anything else under this label would pass
        // for an edit of what is written now.
        let importing =
            old.as_ref().and_then(Entry::head).is_some_and(|head| head.revision.version == *version);
        if !importing && self.clear.foreign_at(path.as_str()) {
            return Err(StoreError::NotPlain {
                path: path.clone(),
                reason: "an object that this store did not make has its label, and would pass for an edit of it; remove that object with a plain PKCS#11 tool".to_owned(),
            });
        }
        let freed = self.objects_of(path, &[]) + self.clear_objects_of(what);
        let leaving = Some(Leaving { path, own: None });
        self.make_room(Need { objects: 1, freed, room: Room::AtRest, leaving, goes_back: false })?;
        self.after_the_end(what);
        let created = self.token.create(path.as_str(), Visibility::Private, &value);
        let handle = self.wrote(created)?;
        let read = self.token.read(handle);
        let read = self.wrote(read)?;
        if self.token.epoch() != self.epoch {
            return Err(StoreError::Void);
        }
        if *read != *value {
            self.void = true;
            return Err(StoreError::ReadBack);
        }
        self.note_created(id_of(&read));
        let adopted = self.adopt_plain(handle, path, read);
        self.finish(adopted)?;
        self.back_to_rest(path);
        let digest = Digest::of(path, version.incarnation, content);
        let (version, origin) = (version.clone(), origin.clone());
        Ok(PutOutcome { revision: Revision { version, digest, origin }, written: true })
    }

    /// Destroys a plain record and its copies. Each is read once more before: a stale handle would destroy another
    /// object.
    pub(super) fn destroy_plain(&mut self, id: ObjectId) -> Result<(), StoreError> {
        let Some(plain) = self.clear.plain.get(&id) else {
            return Ok(());
        };
        let (handles, size, base) = (plain.handles.clone(), plain.size, plain.base);
        for handle in handles {
            let same = match self.token.read(handle) {
                Ok(value) => id_of(&value) == id,
                Err(error) if matches!(error.class, ErrorClass::NoSuchObject | ErrorClass::ObjectGone) => {
                    false
                }
                Err(error) => return self.noted(Err(error)),
            };
            if !same {
                // Not what we think it is: leave it, and look at it again.
                self.not_what_it_was(handle)?;
                return self.scan();
            }
            self.destroy_if_there(handle)?;
            self.clear.forget(handle);
            self.destroyed.insert(id, self.options.clock.now());
            self.count_destroyed(size);
        }
        self.garbage.remove(&id);
        self.index.counts.pending = self.pending();
        // What this was an edit of is not needed any more, when this is really gone.
        if base.is_some() { self.reindex() } else { Ok(()) }
    }
}
