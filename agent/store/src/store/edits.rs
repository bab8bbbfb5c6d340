//! The contents of plain records, and of what people make of them with plain tools.

use hsm_token::{ObjectHandle, Token};
use hsm_types::{Content, Digest, Origin, Payload, SecretMark, Version};

use super::Store;
use super::clear::{Kind, Object, head, id_of};
use crate::StoreError;
use crate::foreign::content::json_of_texts;
use crate::format::ObjectId;
use crate::index::{Form, Head};
use crate::plain::{self, Decoded};

impl<T: Token> Store<T> {
    /// Edits by hand that dropped `_hsm`: a JSON object of texts under the label of a plain record.
    pub(super) fn find_edits(&mut self) -> Result<(), StoreError> {
        let orphans: Vec<ObjectId> = self
            .clear
            .plain
            .iter()
            .filter(|(_, plain)| plain.base.is_some_and(|base| !self.clear.plain.contains_key(&base)))
            .map(|(id, _)| *id)
            .collect();
        for id in orphans {
            for handle in self.clear.plain.remove(&id).map(|plain| plain.handles).unwrap_or_default() {
                if let Some(object) = self.clear.objects.get_mut(&handle) {
                    object.kind = Kind::Foreign;
                    self.clear.fresh.insert(handle);
                }
            }
        }
        let beside = |object: &Object| {
            self.clear.plain.values().any(|plain| plain.base.is_none() && plain.path.as_str() == object.label)
        };
        let edits: Vec<(ObjectHandle, String)> = self
            .clear
            .objects
            .iter()
            .filter(|(_, object)| matches!(object.kind, Kind::Foreign) && beside(object))
            .map(|(handle, object)| (*handle, object.label.clone()))
            .collect();
        for (handle, label) in edits {
            let Ok(value) = self.value_of(handle)? else {
                continue;
            };
            if let Some((id, base, head, generation)) = self.edit_of(&label, &value)? {
                let path = self.clear.plain.get(&base).map(|plain| plain.path.clone());
                let (Some(path), Some(object)) = (path, self.clear.objects.get_mut(&handle)) else {
                    continue;
                };
                object.kind = Kind::Plain;
                self.clear.keep(id, handle, path, head, (generation, value.len()), Some(base));
            }
        }
        Ok(())
    }

    /// Which plain record `value` is an edit of, and the version that it is.
    fn edit_of(
        &mut self,
        label: &str,
        value: &[u8],
    ) -> Result<Option<(ObjectId, ObjectId, Head, u64)>, StoreError> {
        if json_of_texts(value).is_none() {
            return Ok(None);
        }
        let mut bases: Vec<(Version, ObjectId)> = self
            .clear
            .plain
            .iter()
            .filter(|(_, plain)| plain.base.is_none() && plain.path.as_str() == label)
            .map(|(id, plain)| (plain.head.revision.version.clone(), *id))
            .collect();
        bases.sort_by_key(|(version, _)| version.stamp());
        let mut newest = None;
        for (version, base) in &bases {
            let Some(content) = self.edited_content(*base, value)? else {
                continue;
            };
            let Some(plain) = self.clear.plain.get(base) else {
                continue;
            };
            let (path, generation) = (plain.path.clone(), plain.generation);
            let digest = Digest::of(&path, version.incarnation, &content);
            if digest == plain.head.revision.digest {
                // It says what a version of ours says: what an import has left, and no edit.
                return Ok(None);
            }
            let own = plain::edited(version, &digest);
            // Of an edit that was taken in already the base is the one that it was made of, not its successor.
            let taken_in = bases.iter().any(|(other, _)| other.includes(&own.stamp()));
            let id = id_of(value);
            let origin = Origin::Token { mark: mark_of(&plain.head) };
            let head = head(&path, own, origin, &content, Form::Plain, id);
            newest = Some((id, *base, head, generation));
            if taken_in {
                break;
            }
        }
        Ok(newest)
    }

    /// The values of an edit without `_hsm`, and the metadata of the record that it is an edit of.
    fn edited_content(&mut self, base: ObjectId, value: &[u8]) -> Result<Option<Content>, StoreError> {
        let Some(pairs) = json_of_texts(value) else {
            return Ok(None);
        };
        let metadata = self.plain_content(base)?.map(|content| content.metadata);
        let data: Payload = pairs.into_iter().collect();
        Ok(metadata.map(|metadata| Content { data, metadata }))
    }

    /// The content of a plain record, if its object is still what it was.
    pub(super) fn plain_content(&mut self, id: ObjectId) -> Result<Option<Content>, StoreError> {
        let Some(plain) = self.clear.plain.get(&id) else {
            return Ok(None);
        };
        let (base, label) = (plain.base, plain.path.as_str().to_owned());
        let handles = plain.handles.clone();
        for handle in handles {
            let value = self.read_in_clear(handle)?;
            if id_of(&value) != id {
                self.not_what_it_was(handle)?;
                continue;
            }
            return match base {
                Some(base) => self.edited_content(base, &value),
                None => Ok(match plain::decode(&label, &value) {
                    Decoded::Record(record) => Some(record.content),
                    Decoded::NotPlain | Decoded::Broken(_) => None,
                }),
            };
        }
        Ok(None)
    }
}

/// What an edit of this version remembers of the Secret.
fn mark_of(head: &Head) -> Option<SecretMark> {
    match &head.revision.origin {
        Origin::Secret => Some(SecretMark { stamp: head.revision.version.stamp(), keys: head.keys.clone() }),
        Origin::Token { mark } => mark.clone(),
    }
}
