//! Putting records: decide under the lock, write the new version completely, then let the old one go.

use hsm_token::Token;
use hsm_types::{
    Content, Digest, Incarnation, Origin, RecordPath, Relation, Revision, SecretMark, Stamp, Version,
};
use zeroize::Zeroizing;

use super::history::History;
use super::place::{Need, Room};
use super::repack::Leaving;
use super::{Expect, MAX_RECORD, PutOrigin, PutOutcome, PutRequest, Replica, Store};
use crate::catalog::Item;
use crate::format::{self, ChunkHead, ObjectId, SEALED_OVERHEAD, SetId};
use crate::index::Head;
use crate::{Encryption, Entry, StoreError};

/// What a put comes to.
pub(super) enum Decision {
    /// It is so already.
    Done(PutOutcome),
    /// This is to be written.
    Write(Write),
}

/// A version to write.
pub(super) struct Write {
    pub(super) path: RecordPath,
    pub(super) version: Version,
    pub(super) origin: Origin,
    /// What is there.
    pub(super) old: Option<Entry>,
    /// The version that this one continues.
    pub(super) current: Option<Stamp>,
    /// How many earlier values are kept.
    pub(super) keep: usize,
    /// [`Room::Passing`] for a version that is about to be deleted.
    pub(super) room: Room,
}

impl Write {
    /// The same version, over what is there by now.
    fn over(&self, old: Option<Entry>) -> Self {
        let (path, version, origin) = (self.path.clone(), self.version.clone(), self.origin.clone());
        Self { path, version, origin, old, current: self.current, keep: self.keep, room: self.room }
    }
}

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
        match self.decide(request)? {
            Decision::Done(outcome) => {
                self.tidy();
                Ok(outcome)
            }
            Decision::Write(what) => self.write(&what, &request.content),
        }
    }

    /// What a put comes to: nothing, a version to write, or a refusal.
    pub(super) fn decide(&mut self, request: &PutRequest) -> Result<Decision, StoreError> {
        let found = self.known(&request.path)?;
        if let Some(current) = found.as_ref().and_then(|entry| already(entry, request)) {
            let revision = current.revision.clone();
            return Ok(Decision::Done(PutOutcome { revision, written: false }));
        }
        let incomplete = self.index.entries.get(&request.path).is_some_and(|entry| entry.incomplete);
        let writer = self.keys.token_id.writer(self.options.random()?);
        let (version, origin, current) = match &found {
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
                (version, origin, None)
            }
            Some(entry) => {
                let current = expected(entry, request)?;
                // Where a version may have been lost or cannot be seen, its number must not be given again.
                let begin = request.begin_epoch
                    || entry.heads.len() > 1
                    || incomplete
                    || self.index.hides_records()
                    || self.clear.unreadable_at(request.path.as_str())
                    || !written_by_us(&current.revision.version);
                let version = current.revision.version.next(writer, &request.parents, begin);
                let origin = origin(&request.origin, &version, Some(current));
                (version, origin, Some(current.revision.version.stamp()))
            }
        };
        let (keep, room) = (request.keep_history, Room::AtRest);
        let path = request.path.clone();
        Ok(Decision::Write(Write { path, version, origin, old: found, current, keep, room }))
    }

    /// Writes a version of another token as it is, for mirrors: only where this token has nothing, or an ancestor.
    pub fn replicate(&mut self, replica: &Replica) -> Result<PutOutcome, StoreError> {
        check_replica(replica)?;
        let _lock = self.lock()?;
        self.rescan()?;
        let found = self.known(&replica.path)?;
        self.take_over(replica, found)
    }

    /// The part of [`Store::replicate`] that is the same while a token is refilled.
    pub(super) fn take_over(
        &mut self,
        replica: &Replica,
        found: Option<Entry>,
    ) -> Result<PutOutcome, StoreError> {
        let Replica { path, revision, content } = replica;
        let life = revision.version.incarnation;
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
        let keep = found.as_ref().map_or(0, |entry| entry.history.len());
        let heads = found.iter().flat_map(|entry| &entry.heads);
        let current = heads.map(|head| head.revision.version.stamp()).next_back();
        let (version, origin) = (revision.version.clone(), revision.origin.clone());
        let (path, room) = (path.clone(), Room::AtRest);
        self.write(&Write { path, version, origin, old: found, current, keep, room }, content)
    }

    /// Writes a version as the options say. What is there in the format of others becomes ours before.
    pub(super) fn write(&mut self, what: &Write, content: &Content) -> Result<PutOutcome, StoreError> {
        let old = self.absorbed(&what.path, what.old.clone(), what.room)?;
        self.write_own(&what.over(old), content, self.options.encryption)
    }

    /// Writes a version over one that is ours, or imports it.
    pub(super) fn write_own(
        &mut self,
        what: &Write,
        content: &Content,
        encryption: Encryption,
    ) -> Result<PutOutcome, StoreError> {
        match encryption {
            Encryption::Envelope => self.write_sealed(what, content),
            Encryption::None => self.write_plain(what, content),
        }
    }

    fn write_sealed(&mut self, what: &Write, content: &Content) -> Result<PutOutcome, StoreError> {
        let Write { path, version, origin, .. } = what;
        let stamp = version.stamp();
        let digest = Digest::of(path, version.incarnation, content);
        let limit = self.token.limits().object_size;
        let own = format::encode_record(path, version, origin, content);
        let part = limit.saturating_sub(SEALED_OVERHEAD + format::body_overhead(path, &stamp));
        let tail = if own.len() + SEALED_OVERHEAD <= limit {
            Zeroizing::default()
        } else {
            format::encode_tail(version, origin, content)
        };
        let objects = 1 + tail.len().div_ceil(part.max(1));
        let history = self.plan_history(what, own.len(), objects)?;
        let names = size_of::<ObjectId>() * history.replaces.len();
        let fits = own.len() + SEALED_OVERHEAD + names <= limit;
        let tail =
            if fits || !tail.is_empty() { tail } else { format::encode_tail(version, origin, content) };
        if !fits && part == 0 {
            return Err(StoreError::Invalid("the token's objects are too small for a chunk"));
        }
        let chunks = tail.len().div_ceil(part.max(1));
        let leaving = Leaving { path, own: fits.then_some(own.len()) };
        let need = Need {
            objects: 1 + chunks + usize::from(!history.apart.is_empty()),
            freed: self.objects_of(path, &history.sets) + self.clear_objects_of(what),
            room: what.room,
            leaving: Some(leaving),
            goes_back: self.goes_back(leaving) && history.apart.is_empty(),
        };
        self.make_room(need)?;
        self.after_the_end(what);
        let written = self.write_version(what, &history, digest, own, fits, (&tail, part, chunks));
        self.finish(written)?;
        if what.room == Room::AtRest {
            self.back_to_rest(path);
        }
        let (version, origin) = (version.clone(), origin.clone());
        Ok(PutOutcome { revision: Revision { version, digest, origin }, written: true })
    }

    /// The index after a write that came to this, and what it superseded.
    pub(super) fn finish(&mut self, written: Result<(), StoreError>) -> Result<(), StoreError> {
        if let Err(error) = written {
            // What was made before it failed is known, and nobody's: it goes with the garbage.
            if !self.is_void() {
                self.reindex()?;
            }
            return Err(error);
        }
        self.reindex()?;
        self.tidy();
        Ok(())
    }

    /// Earlier values that lie apart, then the version itself.
    fn write_version(
        &mut self,
        what: &Write,
        history: &History,
        digest: Digest,
        own: Zeroizing<Vec<u8>>,
        fits: bool,
        (tail, part, chunks): (&Zeroizing<Vec<u8>>, usize, usize),
    ) -> Result<(), StoreError> {
        // Packing for the room may have moved or dropped what was to be replaced; what is gone needs no name.
        let replaces: Vec<ObjectId> =
            history.replaces.iter().copied().filter(|id| self.objects.contains_key(id)).collect();
        if !history.apart.is_empty() {
            let id = self.random_object()?;
            self.create(id, &[], &history.apart)?;
        }
        if fits {
            let mut entries = vec![own];
            entries.extend(history.beside.iter().cloned());
            let id = self.random_object()?;
            return self.create(id, &replaces, &entries);
        }
        let (path, stamp) = (what.path.clone(), what.version.stamp());
        let set = SetId(self.options.random()?);
        let head = ChunkHead { path, stamp, set, chunks, length: tail.len(), digest };
        // The chunks first; the head last, since with it the version is there.
        for (index, bytes) in tail.chunks(part).enumerate() {
            let body = format::encode_body(&head.path, &head.stamp, head.set, (index, head.chunks), bytes);
            let id = self.random_object()?;
            self.create(id, &[], &[body])?;
        }
        if !replaces.is_empty() {
            // A head that reached the flash before its chunks would hide what it names, and be no version itself.
            self.options.clock.sleep(self.token.limits().settle);
        }
        let id = self.random_object()?;
        self.create(id, &replaces, &[format::encode_head(&head)])
    }

    /// How many objects go when this record is replaced: those in which nothing else lives. Chunks of the sets that
    /// are kept as history stay.
    pub(super) fn objects_of(&self, path: &RecordPath, kept: &[SetId]) -> usize {
        let goes = |item: &Item| match item {
            Item::Record(own, _) => own == path,
            Item::Head { head, history: false } => head.path == *path,
            Item::Body(body) => body.path == *path && !kept.contains(&body.set) && !self.is_history(body.set),
            _ => false,
        };
        let stays = |item: &Item| match item {
            // History that rides beside a record goes with its object.
            Item::History(own, _) => own != path,
            item => !goes(item),
        };
        let all = self.live.iter().filter_map(|(id, live)| Some((&self.objects.get(id)?.items, live)));
        all.filter(|(items, live)| {
            let mut all = live.iter().filter_map(|number| items.get(*number));
            all.clone().any(goes) && !all.any(stays)
        })
        .count()
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

    /// A new life must not reach the flash before the end of the old one: without it the two would diverge.
    pub(super) fn after_the_end(&self, what: &Write) {
        if what.old.is_none() && self.ended(&what.path) {
            self.sleep_until(self.buried + self.token.limits().settle);
        }
    }

    /// Whether a life of this record ended here.
    pub(super) fn ended(&self, path: &RecordPath) -> bool {
        self.index.entries.get(path).is_some_and(|entry| !entry.tombstones.is_empty())
    }

    fn is_history(&self, set: SetId) -> bool {
        let history = |item: &Item| matches!(item, Item::Head { head, history: true } if head.set == set);
        self.live.keys().any(|id| self.objects.get(id).is_some_and(|known| known.items.iter().any(history)))
    }
}

/// Whether the version was given by a writer, and does not just follow from what somebody wrote by other means: where
/// it follows, every token says the same, so the epoch is nobody's to continue.
fn written_by_us(version: &Version) -> bool {
    version.epoch.number > 0
}

/// Whether a copy of another token contradicts itself.
pub(super) fn check_replica(replica: &Replica) -> Result<(), StoreError> {
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
    check_size(content)
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
