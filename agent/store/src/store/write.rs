//! Putting records: decide under the lock, write the new version completely, then let the old one go.

use hsm_token::Token;
use hsm_types::{
    Content, Digest, Incarnation, Origin, RecordPath, Relation, Revision, SecretMark, Stamp, Version,
};
use zeroize::Zeroizing;

use super::place::Room;
use super::{Expect, MAX_RECORD, PutOrigin, PutOutcome, PutRequest, Replica, Store};
use crate::format::{self, ChunkHead, SEALED_OVERHEAD, SetId};
use crate::index::Head;
use crate::{Encryption, Entry, StoreError};

impl<T: Token> Store<T> {
    /// Replaces the whole content of a record, or makes it.
    ///
    /// Content that is already there is not written again: the current version is the answer, whatever version was
    /// expected, so that the same call may be made again after an unknown outcome. The superseded objects go when the
    /// token has settled (at once where it needs no time; else with [`Store::settle`] or a later write).
    pub fn put(&mut self, request: &PutRequest) -> Result<PutOutcome, StoreError> {
        check_size(&request.content)?;
        let _lock = self.lock()?;
        self.rescan()?;
        let found = self.known(&request.path)?;
        if let Some(current) = found.as_ref().and_then(|entry| already(entry, request)) {
            let revision = current.revision.clone();
            self.tidy();
            return Ok(PutOutcome { revision, written: false });
        }
        let incomplete = self.index.entries.get(&request.path).is_some_and(|entry| entry.incomplete);
        let writer = self.keys.token_id.writer(self.options.random()?);
        let (version, origin) = match &found {
            None => {
                if let Expect::Stamp(_) = request.expect {
                    return Err(mismatch(&request.path, None));
                }
                let version = match request.parents.split_first() {
                    Some((lost, others)) if !self.index.buried(&request.path, lost.incarnation) => {
                        lost.next(writer, others, true)
                    }
                    _ => Version::first(Incarnation::from_bytes(self.options.random()?), writer),
                };
                let origin = origin(&request.origin, &version, None);
                (version, origin)
            }
            Some(entry) => {
                let current = expected(entry, request)?;
                // Where a version may have been lost or cannot be seen, its number must not be given again.
                let begin = request.begin_epoch
                    || entry.heads.len() > 1
                    || incomplete
                    || self.index.hides_records()
                    || !written_by_us(&current.revision.version);
                let version = current.revision.version.next(writer, &request.parents, begin);
                let origin = origin(&request.origin, &version, Some(current));
                (version, origin)
            }
        };
        let found = self.absorbed(&request.path, found)?;
        self.write(&request.path, version, origin, &request.content, found.as_ref())
    }

    /// Writes a version of another token as it is, for mirrors: only where this token has nothing, or an ancestor.
    pub fn replicate(&mut self, replica: &Replica) -> Result<PutOutcome, StoreError> {
        let Replica { path, revision, content } = replica;
        let life = revision.version.incarnation;
        if Digest::of(path, life, content) != revision.digest {
            return Err(StoreError::Invalid("the content is not what its digest says"));
        }
        if revision.version.lineage.contains_key(&revision.version.epoch) {
            return Err(StoreError::Invalid("the lineage names the version's own epoch"));
        }
        if let Origin::Token { mark: Some(mark) } = &revision.origin
            && mark.stamp.incarnation != life
        {
            return Err(StoreError::Invalid("the mark is of another life of the record"));
        }
        check_size(content)?;
        let _lock = self.lock()?;
        self.rescan()?;
        let found = self.known(path)?;
        let tombstone = self.index.tombstones().find(|tomb| tomb.path == *path && tomb.incarnation == life);
        if let Some(tombstone) = tombstone {
            return Err(StoreError::Deleted(Box::new(tombstone.clone())));
        }
        let heads = found.iter().flat_map(|entry| &entry.heads);
        for head in heads {
            match revision.relation(&head.revision) {
                Relation::Ahead => {}
                Relation::Equal => {
                    let revision = head.revision.clone();
                    self.tidy();
                    return Ok(PutOutcome { revision, written: false });
                }
                Relation::Behind | Relation::OtherLife => return Err(mismatch(path, found.as_ref())),
                Relation::Diverged => {
                    return Err(diverged(path, found.iter().flat_map(Entry::revisions).collect()));
                }
            }
        }
        let found = self.absorbed(path, found)?;
        self.write(path, revision.version.clone(), revision.origin.clone(), content, found.as_ref())
    }

    pub(super) fn write(
        &mut self,
        path: &RecordPath,
        version: Version,
        origin: Origin,
        content: &Content,
        old: Option<&Entry>,
    ) -> Result<PutOutcome, StoreError> {
        if self.options.encryption == Encryption::None {
            return self.write_plain(path, version, origin, content, old);
        }
        let stamp = version.stamp();
        let digest = Digest::of(path, version.incarnation, content);
        let limit = self.token.limits().object_size;
        let own = format::encode_record(path, &version, &origin, content);
        let freed = old.map_or(0, |entry| self.objects_of(path, entry));
        let room = |needed: usize| {
            if old.is_some() && (needed == 1 || needed <= freed) { Room::Passing } else { Room::AtRest }
        };
        let written = if own.len() + SEALED_OVERHEAD <= limit {
            self.make_room(1, freed, room(1))?;
            let id = self.random_object()?;
            self.create(id, &[], &[own])
        } else {
            drop(own);
            let tail = format::encode_tail(&version, &origin, content);
            let part = limit.saturating_sub(SEALED_OVERHEAD + format::body_overhead(path, &stamp));
            if part == 0 {
                return Err(StoreError::Invalid("the token's objects are too small for a chunk"));
            }
            let chunks = tail.len().div_ceil(part);
            self.make_room(chunks + 1, freed, room(chunks + 1))?;
            let head = ChunkHead {
                path: path.clone(),
                stamp,
                set: SetId(self.options.random()?),
                chunks,
                length: tail.len(),
                digest,
            };
            self.write_chunks(&head, &tail, part)
        };
        if let Err(error) = written {
            // What was made before it failed is known, and nobody's: it goes with the garbage.
            if !self.is_void() {
                self.reindex()?;
            }
            return Err(error);
        }
        self.reindex()?;
        self.tidy();
        Ok(PutOutcome { revision: Revision { version, digest, origin }, written: true })
    }

    /// How many objects a version takes when it is sealed.
    pub(super) fn sealed_objects(
        &self,
        path: &RecordPath,
        version: &Version,
        origin: &Origin,
        content: &Content,
    ) -> usize {
        let limit = self.token.limits().object_size;
        if format::encode_record(path, version, origin, content).len() + SEALED_OVERHEAD <= limit {
            return 1;
        }
        let part = limit.saturating_sub(SEALED_OVERHEAD + format::body_overhead(path, &version.stamp()));
        1 + format::encode_tail(version, origin, content).len().div_ceil(part.max(1))
    }

    /// The chunks first; the head last, since with it the version is there.
    fn write_chunks(
        &mut self,
        head: &ChunkHead,
        tail: &Zeroizing<Vec<u8>>,
        part: usize,
    ) -> Result<(), StoreError> {
        for (index, bytes) in tail.chunks(part).enumerate() {
            let body = format::encode_body(&head.path, &head.stamp, head.set, (index, head.chunks), bytes);
            let id = self.random_object()?;
            self.create(id, &[], &[body])?;
        }
        let id = self.random_object()?;
        self.create(id, &[], &[format::encode_head(head)])
    }

    /// How many objects go when this record is replaced.
    pub(super) fn objects_of(&self, path: &RecordPath, entry: &Entry) -> usize {
        use crate::catalog::{Assembly, Item};
        let mut count = 0;
        for head in &entry.heads {
            count += self.clear_objects_of(path, head);
            let Some(known) = self.objects.get(&head.place.object) else {
                continue;
            };
            // A page stays for the sake of the other records in it.
            count += usize::from(known.items.len() == 1);
            for item in &known.items {
                if let Item::Head { head: chunks, .. } = item
                    && let Some(Assembly::Whole { head: whole, parts }) = self.assemblies.get(&chunks.set)
                    && whole.revision == head.revision
                {
                    count += parts.len();
                }
            }
        }
        count
    }
}

/// Whether the version was given by a writer, and does not just follow from what somebody wrote by other means: where
/// it follows, every token says the same, so the epoch is nobody's to continue.
fn written_by_us(version: &Version) -> bool {
    version.epoch.number > 0
}

pub(super) fn check_size(content: &Content) -> Result<(), StoreError> {
    let metadata = &content.metadata;
    let pairs = metadata.labels.iter().chain(&metadata.attributes);
    let size = content.data.size()
        + metadata.description.len()
        + pairs.map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if size > MAX_RECORD {
        return Err(StoreError::ValueTooLarge { size, max: MAX_RECORD });
    }
    Ok(())
}

/// The current version, if it already has this content and has taken in all that the request names.
fn already<'a>(entry: &'a Entry, request: &PutRequest) -> Option<&'a Head> {
    let head = entry.head()?;
    let version = &head.revision.version;
    let parents = || {
        let own = |parent: &&Version| parent.incarnation == version.incarnation;
        request.parents.iter().filter(own)
    };
    let same = head.revision.digest == Digest::of(&request.path, version.incarnation, &request.content);
    (same && parents().all(|parent| version.includes(&parent.stamp()))).then_some(head.as_ref())
}

/// The head that a put continues.
fn expected<'a>(entry: &'a Entry, request: &PutRequest) -> Result<&'a Head, StoreError> {
    let stamp_of = |head: &Head| head.revision.version.stamp();
    let current = match request.expect {
        Expect::Absent => None,
        Expect::Any => entry.heads.last(),
        Expect::Stamp(stamp) => entry.heads.iter().find(|head| stamp_of(head) == stamp),
    };
    let Some(current) = current else {
        return Err(mismatch(&request.path, Some(entry)));
    };
    let named = |stamp: Stamp| request.parents.iter().any(|parent| parent.stamp() == stamp);
    let rest = entry.heads.iter().filter(|head| head.place != current.place);
    let mut rest = rest.map(|head| stamp_of(head));
    if rest.any(|stamp| stamp.incarnation != stamp_of(current).incarnation || !named(stamp)) {
        return Err(diverged(&request.path, entry.revisions()));
    }
    Ok(current)
}

/// What a put's origin becomes, with the memory of what last came from the Secret.
fn origin(origin: &PutOrigin, version: &Version, current: Option<&Head>) -> Origin {
    let mark = match origin {
        PutOrigin::Secret => return Origin::Secret,
        PutOrigin::Merged(keys) => Some(SecretMark { stamp: version.stamp(), keys: keys.clone() }),
        PutOrigin::Token => current.and_then(|current| match &current.revision.origin {
            Origin::Secret => {
                Some(SecretMark { stamp: current.revision.version.stamp(), keys: current.keys.clone() })
            }
            Origin::Token { mark } => mark.clone(),
        }),
    };
    Origin::Token { mark }
}

fn mismatch(path: &RecordPath, entry: Option<&Entry>) -> StoreError {
    let current = entry.and_then(|entry| entry.heads.last());
    StoreError::VersionMismatch {
        path: path.clone(),
        current: current.map(|head| Box::new(head.revision.clone())),
    }
}

pub(super) fn diverged(path: &RecordPath, heads: Vec<Revision>) -> StoreError {
    StoreError::Diverged { path: path.clone(), heads }
}
