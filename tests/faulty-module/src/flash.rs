//! A card's flash: the files of its objects, the writes that are still on their way, and what was leaked. Pure: it
//! knows no folder, no clock and no PKCS#11 call.
//!
//! As on a SmartCard-HSM a data object is two files, its value and its description; a description without its value
//! is a ghost. A key pair is one file.

use std::collections::{BTreeMap, BTreeSet};

use crate::codec::{Damaged, Reader, Writer};
use crate::settings::{Settings, Settle};

/// What kind of file. The order is that in which a card that loses power may have kept them: any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A data object's value.
    Value,
    /// A data object's label and the like; what is listed.
    Description,
    /// A key pair.
    Key,
}

/// A file's name on the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Its kind.
    pub kind: Kind,
    /// Its number; a value and its description have the same.
    pub number: u8,
}

/// A data object's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) sequence: u64,
    pub(crate) label: Vec<u8>,
    pub(crate) application: Vec<u8>,
    pub(crate) object_id: Vec<u8>,
    pub(crate) private: bool,
}

/// A P-256 key pair, with its private half in clear: this is no place for a key that matters.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyPair {
    pub(crate) sequence: u64,
    pub(crate) label: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) secret: Vec<u8>,
    pub(crate) point: Vec<u8>,
    pub(crate) derive: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Value(Vec<u8>),
    Description(Description),
    Key(KeyPair),
}

impl Content {
    fn size(&self) -> u64 {
        let size = match self {
            Self::Value(value) => value.len(),
            Self::Description(d) => d.label.len() + d.application.len() + d.object_id.len() + 32,
            Self::Key(key) => key.label.len() + 192,
        };
        size as u64
    }
}

/// A write that was answered, and may not be in the flash yet.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) at_millis: u64,
    pub(crate) file: FileId,
    /// What was there before.
    before: Option<Content>,
}

impl Pending {
    pub(crate) fn had_before(&self) -> bool {
        self.before.is_some()
    }
}

/// What the card says to a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No room, or too many objects: CKR_GENERAL_ERROR both.
    Full,
    /// The value is too long.
    TooLong,
}

/// Everything in the flash.
#[derive(Clone, Default)]
pub(crate) struct Flash {
    next_sequence: u64,
    last_number: u8,
    /// Bytes that are lost until the card is empty.
    pub(crate) leaked: u64,
    /// Whether a create found no room because of what was leaked: none finds any until the card is empty.
    pub(crate) exhausted: bool,
    pub(crate) files: BTreeMap<FileId, Content>,
    pub(crate) pending: Vec<Pending>,
}

impl FileId {
    pub(crate) fn value(number: u8) -> Self {
        Self { kind: Kind::Value, number }
    }

    pub(crate) fn description(number: u8) -> Self {
        Self { kind: Kind::Description, number }
    }

    pub(crate) fn key(number: u8) -> Self {
        Self { kind: Kind::Key, number }
    }
}

impl Flash {
    /// Values of destroyed objects of at least `leak_from` bytes leak; fitted to the two figures that were measured
    /// (750 replaces of 2000 bytes and 1280 of 1024 bytes fill 1 MiB): 0.593 · (size + 357).
    pub(crate) fn leak_of(size: usize, settings: &Settings) -> u64 {
        match settings.leak_from {
            Some(from) if size >= from => (size as u64 + 357) * 593 / 1000,
            _ => 0,
        }
    }

    /// Objects as the card counts them: each key pair is two.
    pub(crate) fn objects(&self) -> usize {
        let of = |kind| self.files.keys().filter(|file| file.kind == kind).count();
        of(Kind::Description) + 2 * of(Kind::Key)
    }

    pub(crate) fn used(&self) -> u64 {
        self.files.values().map(Content::size).sum::<u64>() + self.leaked
    }

    /// Whether one more object of this value fits, and the number that it would have.
    pub(crate) fn room(&mut self, kind: Kind, size: usize, settings: &Settings) -> Result<u8, Refusal> {
        let counts = if kind == Kind::Key { 2 } else { 1 };
        if size > settings.value_max {
            return Err(Refusal::TooLong);
        }
        if self.objects() + counts > settings.objects_max {
            return Err(Refusal::Full);
        }
        if self.used() + size as u64 > settings.flash_bytes {
            self.exhausted |= self.leaked > 0;
        }
        if self.exhausted || self.used() + size as u64 > settings.flash_bytes {
            return Err(Refusal::Full);
        }
        let taken: BTreeSet<u8> = self
            .files
            .keys()
            .filter(|file| (file.kind == Kind::Key) == (kind == Kind::Key))
            .map(|file| file.number)
            .collect();
        let free = |number: &u8| !taken.contains(number);
        if settings.reuse_ids || kind == Kind::Key {
            return (1..=255).find(free).ok_or(Refusal::Full);
        }
        let last = self.last_number;
        (last..=255).skip(1).chain(1..=last).find(free).ok_or(Refusal::Full)
    }

    /// What a process that connects now is shown, in the order in which it was made.
    pub(crate) fn listed(&self, settings: &Settings) -> Vec<FileId> {
        let described = |(file, content): (&FileId, &Content)| match content {
            Content::Description(d) if d.label.len() + d.application.len() < settings.description_limit => {
                Some((d.sequence, 1, *file))
            }
            Content::Key(key) => Some((key.sequence, 2, *file)),
            _ => None,
        };
        let mut all: Vec<_> = self.files.iter().filter_map(described).collect();
        all.sort_unstable();
        let mut room = settings.visible_objects;
        all.retain(|(_, counts, _)| {
            let fits = *counts <= room;
            room = if fits { room - counts } else { 0 };
            fits
        });
        all.into_iter().map(|(_, _, file)| file).collect()
    }

    pub(crate) fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }

    /// Writes or deletes a file: the card answers with it from now on, and the flash has it later.
    pub(crate) fn write(
        &mut self,
        file: FileId,
        content: Option<Content>,
        now_millis: u64,
        settings: &Settings,
    ) {
        self.settle(now_millis, settings);
        if file.kind == Kind::Value {
            self.last_number = file.number;
            if let (None, Some(Content::Value(old))) = (&content, self.files.get(&file)) {
                self.leaked += Self::leak_of(old.len(), settings);
            }
        }
        let before = self.put(file, content);
        if settings.settle != Settle::Millis(0) {
            self.pending.push(Pending { at_millis: now_millis, file, before });
        }
        let surplus = self.pending.len().saturating_sub(settings.unflushed_max);
        self.pending.drain(..surplus);
        if self.files.is_empty() {
            self.leaked = 0;
            self.exhausted = false;
        }
    }

    fn put(&mut self, file: FileId, content: Option<Content>) -> Option<Content> {
        match content {
            Some(content) => self.files.insert(file, content),
            None => self.files.remove(&file),
        }
    }

    /// Forgets the writes that have reached the flash by now.
    pub(crate) fn settle(&mut self, now_millis: u64, settings: &Settings) {
        if let Settle::Millis(settle) = settings.settle {
            self.pending.retain(|write| write.at_millis.saturating_add(settle) > now_millis);
        }
    }

    /// Power is lost: of the writes on their way, in order of their answers, those survive for which `keep` says so.
    pub(crate) fn lose_power(&mut self, keep: impl Fn(usize) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        let mut undone = Vec::new();
        for write in pending.into_iter().rev() {
            let after = self.put(write.file, write.before);
            undone.push((write.file, after));
        }
        for (index, (file, content)) in undone.into_iter().rev().enumerate() {
            if keep(index) {
                self.put(file, content);
            }
        }
    }

    pub(crate) fn encode(&self, generation: u64) -> Vec<u8> {
        let mut w = Writer::default();
        w.number(MAGIC);
        w.number(generation);
        w.number(self.next_sequence);
        w.byte(self.last_number);
        w.number(self.leaked);
        w.byte(self.exhausted.into());
        w.number(self.files.len() as u64);
        for (file, content) in &self.files {
            encode_file(&mut w, *file, Some(content));
        }
        w.number(self.pending.len() as u64);
        for write in &self.pending {
            w.number(write.at_millis);
            encode_file(&mut w, write.file, write.before.as_ref());
        }
        w.into_bytes()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(bytes);
        if r.number()? != MAGIC {
            return Err(Damaged);
        }
        r.number()?;
        let (next_sequence, last_number, leaked) = (r.number()?, r.byte()?, r.number()?);
        let exhausted = r.byte()? != 0;
        let mut files = BTreeMap::new();
        for _ in 0..r.number()? {
            let (file, content) = decode_file(&mut r)?;
            files.insert(file, content.ok_or(Damaged)?);
        }
        let mut pending = Vec::new();
        for _ in 0..r.number()? {
            let at_millis = r.number()?;
            let (file, before) = decode_file(&mut r)?;
            pending.push(Pending { at_millis, file, before });
        }
        Ok(Self { next_sequence, last_number, leaked, exhausted, files, pending })
    }
}

/// The first eight bytes of the file, with the version at their end.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"flash  1");

fn encode_file(w: &mut Writer, file: FileId, content: Option<&Content>) {
    w.byte(match file.kind {
        Kind::Value => 0,
        Kind::Description => 1,
        Kind::Key => 2,
    });
    w.byte(file.number);
    match content {
        None => w.byte(0),
        Some(Content::Value(value)) => {
            w.byte(1);
            w.bytes(value);
        }
        Some(Content::Description(d)) => {
            w.byte(2);
            w.number(d.sequence);
            w.bytes(&d.label);
            w.bytes(&d.application);
            w.bytes(&d.object_id);
            w.byte(d.private.into());
        }
        Some(Content::Key(key)) => {
            w.byte(3);
            w.number(key.sequence);
            w.bytes(&key.label);
            w.bytes(&key.id);
            w.bytes(&key.secret);
            w.bytes(&key.point);
            w.byte(key.derive.into());
        }
    }
}

fn decode_file(r: &mut Reader<'_>) -> Result<(FileId, Option<Content>), Damaged> {
    let kind = match r.byte()? {
        0 => Kind::Value,
        1 => Kind::Description,
        2 => Kind::Key,
        _ => return Err(Damaged),
    };
    let file = FileId { kind, number: r.byte()? };
    let content = match r.byte()? {
        0 => None,
        1 => Some(Content::Value(r.bytes()?)),
        2 => Some(Content::Description(Description {
            sequence: r.number()?,
            label: r.bytes()?,
            application: r.bytes()?,
            object_id: r.bytes()?,
            private: r.byte()? != 0,
        })),
        3 => Some(Content::Key(KeyPair {
            sequence: r.number()?,
            label: r.bytes()?,
            id: r.bytes()?,
            secret: r.bytes()?,
            point: r.bytes()?,
            derive: r.byte()? != 0,
        })),
        _ => return Err(Damaged),
    };
    Ok((file, content))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn late() -> Settings {
        Settings { settle: Settle::UntilFlush, ..Settings::default() }
    }

    fn values(flash: &Flash) -> Vec<(u8, Vec<u8>)> {
        let value = |(file, content): (&FileId, &Content)| match content {
            Content::Value(value) => Some((file.number, value.clone())),
            _ => None,
        };
        flash.files.iter().filter_map(value).collect()
    }

    fn value(flash: &mut Flash, number: u8, value: Option<&[u8]>) {
        flash.write(FileId::value(number), value.map(|v| Content::Value(v.to_vec())), 0, &late());
    }

    #[test]
    fn every_subset_of_late_writes_may_survive() {
        let mut flash = Flash::default();
        value(&mut flash, 1, Some(b"old"));
        flash.pending.clear();
        value(&mut flash, 2, Some(b"new"));
        value(&mut flash, 1, None);
        let after = |keep: &[usize]| {
            let mut flash = flash.clone();
            flash.lose_power(|index| keep.contains(&index));
            assert!(flash.pending.is_empty());
            values(&flash)
        };
        let (old, new) = (|| (1, b"old".to_vec()), || (2, b"new".to_vec()));
        assert_eq!(after(&[]), [old()]);
        assert_eq!(after(&[0]), [old(), new()]);
        assert_eq!(after(&[1]), [], "the destroy overtook the create");
        assert_eq!(after(&[0, 1]), [new()]);
    }

    #[test]
    fn a_number_that_was_given_again_is_one_file() {
        let mut flash = Flash::default();
        value(&mut flash, 1, Some(b"old"));
        flash.pending.clear();
        value(&mut flash, 1, None);
        value(&mut flash, 1, Some(b"new"));
        let mut kept = flash.clone();
        kept.lose_power(|index| index == 1);
        assert_eq!(values(&kept), [(1, b"new".to_vec())]);
        flash.lose_power(|index| index == 0);
        assert_eq!(values(&flash), []);
    }

    #[test]
    fn a_card_comes_back_from_its_bytes() {
        let mut flash = Flash::default();
        value(&mut flash, 3, Some(b"v"));
        let description = Description {
            sequence: 1,
            label: b"l".to_vec(),
            application: vec![],
            object_id: vec![6, 1, 1],
            private: true,
        };
        flash.write(FileId::description(3), Some(Content::Description(description)), 5, &late());
        let bytes = flash.encode(9);
        let again = Flash::decode(&bytes).unwrap();
        assert!(again.files == flash.files);
        assert_eq!(again.pending.len(), 2);
        assert!(Flash::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    #[test]
    fn the_leak_fits_what_was_measured() {
        let settings = Settings::default();
        assert_eq!(settings.flash_bytes / Flash::leak_of(2000, &settings), 750);
        assert!((1275..=1285).contains(&(settings.flash_bytes / Flash::leak_of(1024, &settings))));
        assert_eq!(Flash::leak_of(500, &settings), 0);
    }
}
