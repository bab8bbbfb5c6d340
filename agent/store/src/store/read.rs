//! Reading values. Every value is checked against the index: what comes back is the version that was asked for.

use std::sync::Arc;

use hsm_token::{ErrorClass, Token, TokenError};
use hsm_types::{Digest, Presence, RecordPath};
use zeroize::Zeroizing;

use super::scan::RELISTS;
use super::{Record, Store};
use crate::StoreError;
use crate::format::{self, Entry, ObjectId, RecordEntry, Sealed, SetId};
use crate::index::{Form, Head};

/// Why a read has to be tried again with a new listing.
pub(super) enum Failed {
    /// The handle is unknown or gives another object: it is stale.
    Stale,
    /// Another program has destroyed the object, which it may do on a software token.
    Gone(TokenError),
    Error(StoreError),
}

impl<T: Token> Store<T> {
    /// The record at `path`. Diverged if there is more than one head (see [`Store::heads`]).
    ///
    /// Lists the token only if what it knows turns out to be stale; writes nothing.
    pub fn get(&mut self, path: &RecordPath) -> Result<Presence<Record>, StoreError> {
        match self.heads(path)? {
            Presence::Present(mut records) => match records.pop() {
                Some(only) if records.is_empty() => Ok(Presence::Present(only)),
                last => {
                    records.extend(last);
                    Err(StoreError::Diverged {
                        path: path.clone(),
                        heads: records.into_iter().map(|record| record.revision).collect(),
                    })
                }
            },
            Presence::Absent => Ok(Presence::Absent),
            Presence::Unknown(why) => Ok(Presence::Unknown(why)),
        }
    }

    /// All heads of the record at `path`: one, unless it has diverged or has two lives.
    pub fn heads(&mut self, path: &RecordPath) -> Result<Presence<Vec<Record>>, StoreError> {
        self.read_versions(path, false, |entry| entry.heads.clone())
    }

    /// The versions of a record that `pick` picks: current ones, or earlier ones.
    pub(super) fn read_versions(
        &mut self,
        path: &RecordPath,
        history: bool,
        pick: impl Fn(&crate::Entry) -> Vec<Arc<Head>>,
    ) -> Result<Presence<Vec<Record>>, StoreError> {
        self.usable()?;
        let mut gone = 0;
        let mut stale = 0;
        while stale < 2 {
            let heads: Vec<Arc<Head>> = match self.index.presence(path) {
                Presence::Present(entry) => pick(entry),
                Presence::Absent => return Ok(Presence::Absent),
                Presence::Unknown(why) => return Ok(Presence::Unknown(why)),
            };
            let records: Result<Vec<Record>, Failed> =
                heads.iter().map(|head| self.read_version(path, head, history)).collect();
            match records {
                Ok(records) => return Ok(Presence::Present(records)),
                Err(Failed::Error(error)) => return Err(error),
                Err(Failed::Gone(error)) if gone == RELISTS => return Err(error.into()),
                Err(Failed::Gone(_)) => {
                    gone += 1;
                    self.look_again()?;
                }
                Err(Failed::Stale) => {
                    stale += 1;
                    if stale < 2 {
                        self.look_again()?;
                    }
                }
            }
        }
        // Listed twice, and still not what it says: everything read in this epoch is in doubt.
        self.void = true;
        Err(StoreError::ReadBack)
    }

    fn look_again(&mut self) -> Result<(), StoreError> {
        let _lock = self.reader_lock()?;
        self.scan()
    }

    pub(super) fn read_version(
        &mut self,
        path: &RecordPath,
        head: &Head,
        history: bool,
    ) -> Result<Record, Failed> {
        if head.form != Form::Sealed {
            return self.read_clear(path, head);
        }
        let sealed = self.read_sealed(head.place.object)?;
        let wanted = &head.revision;
        let is_it = |record: &RecordEntry| {
            record.path == *path
                && record.version == wanted.version
                && Digest::of(path, record.version.incarnation, &record.content) == wanted.digest
        };
        let mut found = None;
        for entry in sealed.entries {
            let record = match entry {
                Entry::Record(record) if !history => Some(record),
                Entry::History(record) if history => Some(record),
                // Head or history head: the index says what is current, and the digest that it is the same content.
                Entry::Head(chunks) | Entry::HistoryHead(chunks)
                    if chunks.path == *path && chunks.digest == wanted.digest =>
                {
                    self.read_chunked(&chunks).map_err(|error| match error {
                        StoreError::ReadBack => Failed::Stale,
                        StoreError::Token(error) if error.class == ErrorClass::ObjectGone => {
                            Failed::Gone(error)
                        }
                        error => Failed::Error(error),
                    })?
                }
                _ => None,
            };
            found = record.filter(is_it).or(found);
        }
        let record = found.ok_or(Failed::Stale)?;
        Ok(Record { revision: wanted.clone(), content: record.content })
    }

    /// The record of a head that is not sealed.
    fn read_clear(&mut self, path: &RecordPath, head: &Head) -> Result<Record, Failed> {
        let revision = head.revision.clone();
        let content = match head.form {
            Form::Foreign => self.foreign_content(path, &revision),
            Form::Plain | Form::Sealed => self.plain_content(head.place.object),
        };
        let content = content.map_err(|error| match error {
            StoreError::Token(error) if error.class == ErrorClass::NoSuchObject => Failed::Stale,
            StoreError::Token(error) if error.class == ErrorClass::ObjectGone => Failed::Gone(error),
            error => Failed::Error(error),
        })?;
        let content = content.ok_or(Failed::Stale)?;
        if Digest::of(path, revision.version.incarnation, &content) != revision.digest {
            return Err(Failed::Stale);
        }
        Ok(Record { revision, content })
    }

    /// Reads an object by the handle that the index has for it, and makes sure that it is that object.
    fn read_sealed(&mut self, id: ObjectId) -> Result<Sealed, Failed> {
        let handle = self.objects.get(&id).ok_or(Failed::Stale)?.handle;
        match self.token.read(handle) {
            Ok(value) => format::open(&self.keys, id, &value).map_err(|_| Failed::Stale),
            Err(error) if error.class == ErrorClass::NoSuchObject => Err(Failed::Stale),
            Err(error) if error.class == ErrorClass::ObjectGone => Err(Failed::Gone(error)),
            Err(error) => self.noted(Err(error)).map_err(Failed::Error),
        }
    }

    /// An object's entries once more, for copying them.
    pub(super) fn read_again(&mut self, id: ObjectId) -> Result<Sealed, StoreError> {
        self.read_sealed(id).map_err(|failed| match failed {
            Failed::Stale => StoreError::ReadBack,
            Failed::Gone(error) => error.into(),
            Failed::Error(error) => error,
        })
    }

    pub(super) fn read_part(
        &mut self,
        id: ObjectId,
        set: SetId,
        index: usize,
    ) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let sealed = self.read_again(id)?;
        sealed
            .entries
            .into_iter()
            .find_map(|entry| match entry {
                Entry::Body(body) if body.set == set && body.index == index => Some(body.part),
                _ => None,
            })
            .ok_or(StoreError::ReadBack)
    }

    /// Whether the token still gives this object under the handle that we have for it.
    pub(super) fn verify(&mut self, id: ObjectId) -> Result<bool, StoreError> {
        match self.read_sealed(id) {
            Ok(_) => Ok(true),
            Err(Failed::Stale | Failed::Gone(_)) => Ok(false),
            Err(Failed::Error(error)) => Err(error),
        }
    }
}
