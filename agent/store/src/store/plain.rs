//! Writing and destroying plain records.

use hsm_token::{ErrorClass, Token, Visibility};
use hsm_types::{Content, Digest, Origin, RecordPath, Revision, Version};

use super::clear::id_of;
use super::place::Room;
use super::{PutOutcome, Store};
use crate::format::ObjectId;
use crate::{Entry, StoreError, plain};

impl<T: Token> Store<T> {
    /// Writes a version in clear: one object, made, read back, and only then is the old one superseded.
    pub(super) fn write_plain(
        &mut self,
        path: &RecordPath,
        version: Version,
        origin: Origin,
        content: &Content,
        old: Option<&Entry>,
    ) -> Result<PutOutcome, StoreError> {
        let limit = self.token.limits().object_size;
        let generation = self.next_generation()?;
        let value = plain::encode(path, &version, &origin, content, generation, limit)?;
        // Of an import, what is left of the foreign record says the same; anything else under this label would pass
        // for an edit of what is written now.
        let importing = old.and_then(Entry::head).is_some_and(|head| head.revision.version == version);
        if !importing && self.clear.foreign_at(path.as_str()) {
            return Err(StoreError::NotPlain {
                path: path.clone(),
                reason: "an object that this store did not make has its label, and would pass for an edit of it; remove that object with a plain PKCS#11 tool".to_owned(),
            });
        }
        let freed = old.map_or(0, |entry| self.objects_of(path, entry));
        self.make_room(1, freed, if old.is_some() { Room::Passing } else { Room::AtRest })?;
        let created = self.token.create(path.as_str(), Visibility::Private, &value);
        let handle = self.noted(created)?;
        let read = self.token.read(handle);
        let read = self.noted(read)?;
        if self.token.epoch() != self.epoch {
            return Err(StoreError::Void);
        }
        if *read != *value {
            self.void = true;
            return Err(StoreError::ReadBack);
        }
        self.adopt_plain(handle, path, read)?;
        self.reindex()?;
        self.tidy();
        let digest = Digest::of(path, version.incarnation, content);
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
                self.clear.forget(handle);
                return self.scan();
            }
            match self.token.destroy(handle) {
                Ok(()) => {}
                // Somebody was quicker: what we wanted is so.
                Err(error) if matches!(error.class, ErrorClass::NoSuchObject | ErrorClass::ObjectGone) => {}
                Err(error) => return self.noted(Err(error)),
            }
            self.gone_in_clear(handle, size);
            self.index.counts.ours = self.index.counts.ours.saturating_sub(1);
        }
        self.garbage.remove(&id);
        self.index.counts.pending = self.pending();
        // What this was an edit of is not needed any more, when this is really gone.
        if base.is_some() { self.reindex() } else { Ok(()) }
    }

    /// Notes that an object in clear was destroyed.
    pub(super) fn gone_in_clear(&mut self, handle: hsm_token::ObjectHandle, size: usize) {
        self.clear.forget(handle);
        self.stale = true;
        self.bytes_replaced += size as u64;
        self.last_destroyed = Some(self.options.clock.now());
    }
}
