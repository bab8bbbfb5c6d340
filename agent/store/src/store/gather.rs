//! Keeping what is known of the objects in clear equal to the token: reads what is new, and puts the records of others
//! together. Keeps no value, and writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use hsm_token::{ErrorClass, ObjectHandle, Token};
use hsm_types::{Content, Digest, Origin, RecordPath, Revision};
use zeroize::Zeroizing;

use super::Store;
use super::clear::{Group, Kind, Object, Outcome, head};
use super::open::of_the_object;
use crate::foreign::content::{self, Member, Reading};
use crate::foreign::names::{self, Part};
use crate::format::{Damage, ObjectId};
use crate::index::{Form, Head};
use crate::{DamagedObject, StoreError};

impl<T: Token> Store<T> {
    /// Reads what is new in a listing; says whether something went away meanwhile.
    pub(super) fn take_in_clear(
        &mut self,
        listed: BTreeMap<ObjectHandle, (String, bool)>,
        last: bool,
    ) -> Result<bool, StoreError> {
        let there = |handle: &ObjectHandle, object: &Object| {
            listed.get(handle).is_some_and(|(label, _)| *label == object.label)
        };
        let gone = self.clear.objects.iter().filter(|(handle, object)| !there(handle, object));
        let gone: Vec<ObjectHandle> = gone.map(|(handle, _)| *handle).collect();
        for handle in gone {
            self.clear.forget(handle);
        }
        let mut vanished = false;
        for (handle, named) in listed {
            if self.clear.objects.contains_key(&handle) {
                continue;
            }
            match self.token.read(handle) {
                Ok(value) => self.clear.take(handle, named, value),
                Err(error) if of_the_object(&error) && !last => vanished = true,
                Err(error) if of_the_object(&error) => {
                    let kind = Kind::Unreadable(Damage::Unreadable(error.to_string()).to_string());
                    self.clear.put(handle, Object { label: named.0, go: named.1, kind });
                }
                Err(error) => return self.noted(Err(error)),
            }
        }
        self.stale |= self.clear.stale;
        Ok(vanished)
    }

    /// Takes in a plain record that this store has just written and read back.
    pub(super) fn adopt_plain(
        &mut self,
        handle: ObjectHandle,
        path: &RecordPath,
        value: Zeroizing<Vec<u8>>,
    ) -> Result<(), StoreError> {
        self.clear.take(handle, (path.as_str().to_owned(), false), value);
        self.stale = true;
        self.index.counts.ours += 1;
        let adopted =
            self.clear.objects.get(&handle).is_some_and(|object| matches!(object.kind, Kind::Plain));
        if !adopted {
            self.void = true;
            return Err(StoreError::ReadBack);
        }
        Ok(())
    }

    /// Puts the records together, as far as their objects have changed. Keeps no value.
    pub(super) fn regroup(&mut self) -> Result<(), StoreError> {
        if !self.clear.stale {
            return Ok(());
        }
        self.find_edits()?;
        let mut handles = Vec::new();
        let mut labels = Vec::new();
        for (handle, object) in &self.clear.objects {
            if !matches!(object.kind, Kind::Plain) {
                handles.push(*handle);
                labels.push(object.label.clone());
            }
        }
        let claimed = handles.iter().map(|handle| self.clear.claims.get(handle).cloned());
        let claimed: Vec<Option<RecordPath>> = claimed.collect();
        let texts: Vec<(&str, Option<&RecordPath>)> =
            labels.iter().map(String::as_str).zip(claimed.iter().map(Option::as_ref)).collect();
        let mut old = std::mem::take(&mut self.clear.groups);
        let mut groups = BTreeMap::new();
        let mut trouble = None;
        for (path, group) in names::group(&texts) {
            let members = group.members.into_iter().map(|(at, part)| (handles[at], part));
            // What is broken may be a key of a record that others have made, if that is there.
            let broken = |handle: &ObjectHandle| {
                self.clear.objects.get(handle).is_some_and(|object| matches!(object.kind, Kind::Broken(_)))
            };
            let members: Vec<(ObjectHandle, Part)> = members
                .filter(|(handle, part)| !broken(handle) || group.anchored && *part != Part::Data)
                .collect();
            if members.is_empty() {
                continue;
            }
            let known = old.remove(&path).filter(|old| {
                old.members == members && !members.iter().any(|(handle, _)| self.clear.fresh.contains(handle))
            });
            let go =
                |(handle, _): &(ObjectHandle, Part)| self.clear.objects.get(handle).is_some_and(|o| o.go);
            let sure = group.anchored || members.iter().any(go);
            let contested: BTreeMap<ObjectHandle, RecordPath> =
                group.contested.into_iter().map(|(at, other)| (handles[at], other)).collect();
            let (outcome, leftover) = match known {
                // Which of its objects are superfluous depends on whose they are.
                Some(known) => (known.outcome, known.leftover.filter(|_| known.contested == contested)),
                None => match self.read_group(&path, &members) {
                    Ok(reading) => (outcome(&path, reading), None),
                    Err(error) => {
                        trouble = Some(error);
                        break;
                    }
                },
            };
            let listed = group.listed;
            groups.insert(path, Group { members, listed, sure, contested, outcome, leftover });
        }
        if let Some(error) = trouble {
            // Half of it is known: all of it is put together again, with values read again.
            self.clear.fresh.extend(handles);
            self.clear.values.clear();
            return Err(error);
        }
        self.clear.groups = groups;
        self.clear.values.clear();
        self.clear.fresh.clear();
        self.clear.stale = false;
        Ok(())
    }

    /// All objects of a record of others.
    fn read_group(
        &mut self,
        path: &RecordPath,
        members: &[(ObjectHandle, Part)],
    ) -> Result<Reading, StoreError> {
        let mut values: Vec<Result<Zeroizing<Vec<u8>>, String>> = Vec::with_capacity(members.len());
        for (handle, _) in members {
            let trouble = match self.clear.objects.get(handle).map(|object| &object.kind) {
                Some(Kind::Foreign) => None,
                Some(Kind::Unreadable(why)) => Some(why.clone()),
                Some(Kind::Broken(why)) => Some((*why).to_owned()),
                _ => Some("it went away while it was read".to_owned()),
            };
            values.push(match trouble {
                Some(why) => Err(why),
                None => self.value_of(*handle)?,
            });
        }
        let objects = &self.clear.objects;
        let members: Vec<Member<'_>> = members
            .iter()
            .zip(&values)
            .map(|((handle, part), value)| {
                let object = objects.get(handle);
                Member {
                    label: object.map_or("", |object| object.label.as_str()),
                    part,
                    value: value.as_ref().map(|value| value.as_slice()).map_err(String::as_str),
                    go: object.is_some_and(|object| object.go),
                }
            })
            .collect();
        Ok(content::read(path, &members))
    }

    /// The value of an object in clear, or why it cannot be had.
    pub(super) fn value_of(
        &mut self,
        handle: ObjectHandle,
    ) -> Result<Result<Zeroizing<Vec<u8>>, String>, StoreError> {
        if let Some(value) = self.clear.values.get(&handle) {
            return Ok(Ok(value.clone()));
        }
        match self.token.read(handle) {
            Ok(value) => Ok(Ok(value)),
            Err(error) if of_the_object(&error) => Ok(Err(Damage::Unreadable(error.to_string()).to_string())),
            Err(error) => self.noted(Err(error)),
        }
    }

    /// The content of a record of others, if its objects still come to this version.
    pub(super) fn foreign_content(
        &mut self,
        path: &RecordPath,
        wanted: &Revision,
    ) -> Result<Option<Content>, StoreError> {
        let Some(group) = self.clear.groups.get(path) else {
            return Ok(None);
        };
        let members = group.members.clone();
        let values: Result<BTreeMap<_, _>, StoreError> =
            members.iter().map(|(handle, _)| Ok((*handle, self.read_in_clear(*handle)?))).collect();
        self.clear.values = values?;
        let reading = self.read_group(path, &members);
        self.clear.values.clear();
        if let Reading::Record(content) = reading?
            && content::version(path, &content) == wanted.version
            && Digest::of(path, wanted.version.incarnation, &content) == wanted.digest
        {
            return Ok(Some(content));
        }
        for (handle, _) in members {
            self.not_what_it_was(handle)?;
        }
        Ok(None)
    }

    /// The value of an object in clear that could be read before.
    pub(super) fn read_in_clear(&mut self, handle: ObjectHandle) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        match self.token.read(handle) {
            Err(error) if matches!(error.class, ErrorClass::NoSuchObject | ErrorClass::ObjectGone) => {
                self.clear.forget(handle);
                Err(error.into())
            }
            read => self.noted(read),
        }
    }

    /// An object in clear gives another value than it gave before: it is read again with the next listing. Where the
    /// view is frozen there is none that could be believed: somebody else was here, and a handle that is stale gives
    /// another object's value under the old label.
    pub(super) fn not_what_it_was(&mut self, handle: ObjectHandle) -> Result<(), StoreError> {
        self.clear.forget(handle);
        if self.token.limits().live_view {
            return Ok(());
        }
        self.void = true;
        Err(StoreError::ReadBack)
    }
}

fn outcome(path: &RecordPath, reading: Reading) -> Outcome {
    match reading {
        Reading::Record(content) => Outcome::Record(Arc::new(foreign_head(path, &content))),
        Reading::Deleted => Outcome::Deleted,
        Reading::Unclear { label, reason } => Outcome::Unclear(DamagedObject {
            label,
            path: Some(path.clone()),
            damage: Damage::Unclear(reason),
        }),
    }
}

fn foreign_head(path: &RecordPath, content: &Content) -> Head {
    let version = content::version(path, content);
    let object = ObjectId(*version.incarnation.as_bytes());
    head(path, version, Origin::Token { mark: None }, content, Form::Foreign, object)
}
