//! Entries: records, tombstones, chunks, history, markers.

use std::collections::BTreeMap;

use hsm_types::{
    Content, Digest, EpochId, Incarnation, Key, KeyDigest, Lineage, Metadata, Origin, Payload, RecordPath,
    SecretMark, Stamp, Tombstone, Value, Version, WriterId,
};
use zeroize::Zeroizing;

use super::object::SetId;
use super::wire::{Malformed, Reader, Writer, varint_len};

const RECORD: u8 = 1;
const TOMBSTONE: u8 = 2;
const HEAD: u8 = 3;
const BODY: u8 = 4;
const HISTORY: u8 = 5;
const HISTORY_HEAD: u8 = 6;
const MARKER: u8 = 7;
const COMPACTION: u8 = 1;

const FROM_SECRET: u8 = 1;
const HAS_MARK: u8 = 2;
const HAS_METADATA: u8 = 4;

pub(crate) enum Entry {
    Record(RecordEntry),
    History(RecordEntry),
    Tombstone(Tombstone),
    Head(ChunkHead),
    HistoryHead(ChunkHead),
    Body(ChunkBody),
    Compaction,
}

pub(crate) struct RecordEntry {
    pub(crate) path: RecordPath,
    pub(crate) version: Version,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ChunkHead {
    pub(crate) path: RecordPath,
    pub(crate) stamp: Stamp,
    pub(crate) set: SetId,
    pub(crate) chunks: usize,
    pub(crate) length: usize,
    pub(crate) digest: Digest,
}

pub(crate) struct ChunkBody {
    pub(crate) path: RecordPath,
    pub(crate) stamp: Stamp,
    pub(crate) set: SetId,
    pub(crate) index: usize,
    pub(crate) chunks: usize,
    pub(crate) part: Zeroizing<Vec<u8>>,
}

impl Entry {
    pub(crate) fn decode(kind: u8, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if kind == MARKER {
            let what = reader.byte()?;
            reader.end()?;
            return if what == COMPACTION { Ok(Self::Compaction) } else { Err(Malformed("unknown marker")) };
        }
        // Before anything else is looked at: the entry may be of a form that we do not know.
        if !(RECORD..=HISTORY_HEAD).contains(&kind) {
            return Err(Malformed("unknown kind of entry"));
        }
        let (path, stamp) = read_place(&mut reader)?;
        match kind {
            RECORD => decode_tail(path, &stamp, reader.rest()).map(Self::Record),
            HISTORY => decode_tail(path, &stamp, reader.rest()).map(Self::History),
            TOMBSTONE => {
                reader.end()?;
                Ok(Self::Tombstone(Tombstone { path, incarnation: stamp.incarnation, stamp }))
            }
            BODY => Ok(Self::Body(ChunkBody {
                path,
                stamp,
                set: SetId(reader.array()?),
                index: reader.length()?,
                chunks: reader.length()?,
                part: Zeroizing::new(reader.rest().to_vec()),
            })),
            HEAD | HISTORY_HEAD => {
                let head = ChunkHead {
                    path,
                    stamp,
                    set: SetId(reader.array()?),
                    chunks: reader.length()?,
                    length: reader.length()?,
                    digest: Digest::from_bytes(reader.array()?),
                };
                reader.end()?;
                Ok(if kind == HEAD { Self::Head(head) } else { Self::HistoryHead(head) })
            }
            _ => Err(Malformed("unknown kind of entry")),
        }
    }
}

/// Kind and length before the bytes of an entry.
fn framed(kind: u8, bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut writer = Writer::new();
    writer.byte(kind);
    writer.bytes(bytes);
    writer.done()
}

pub(crate) fn encode_record(
    path: &RecordPath,
    version: &Version,
    origin: &Origin,
    content: &Content,
) -> Zeroizing<Vec<u8>> {
    encode_value(RECORD, path, version, origin, content)
}

/// A current value and an earlier one differ in their kind alone.
fn encode_value(
    kind: u8,
    path: &RecordPath,
    version: &Version,
    origin: &Origin,
    content: &Content,
) -> Zeroizing<Vec<u8>> {
    let mut writer = Writer::new();
    write_place(&mut writer, path, &version.stamp());
    writer.put(&encode_tail(version, origin, content));
    framed(kind, &writer.done())
}

/// How many bytes an entry takes in a page; 0 for what is never moved to one.
pub(crate) fn page_share(entry: &Entry) -> usize {
    match entry {
        Entry::Record(record) => {
            encode_record(&record.path, &record.version, &record.origin, &record.content).len()
        }
        Entry::Tombstone(tombstone) => encode_tombstone(tombstone).len(),
        Entry::History(_) | Entry::Head(_) | Entry::HistoryHead(_) | Entry::Body(_) | Entry::Compaction => 0,
    }
}

pub(crate) fn encode_history(
    path: &RecordPath,
    version: &Version,
    origin: &Origin,
    content: &Content,
) -> Zeroizing<Vec<u8>> {
    encode_value(HISTORY, path, version, origin, content)
}

pub(crate) fn encode_compaction() -> Zeroizing<Vec<u8>> {
    framed(MARKER, &[COMPACTION])
}

pub(crate) fn encode_tombstone(tombstone: &Tombstone) -> Zeroizing<Vec<u8>> {
    let mut writer = Writer::new();
    // The incarnation that dies is the tombstone's; its stamp differs in nothing else.
    let stamp = Stamp { incarnation: tombstone.incarnation, ..tombstone.stamp };
    write_place(&mut writer, &tombstone.path, &stamp);
    framed(TOMBSTONE, &writer.done())
}

pub(crate) fn encode_head(head: &ChunkHead) -> Zeroizing<Vec<u8>> {
    encode_head_as(HEAD, head)
}

pub(crate) fn encode_history_head(head: &ChunkHead) -> Zeroizing<Vec<u8>> {
    encode_head_as(HISTORY_HEAD, head)
}

fn encode_head_as(kind: u8, head: &ChunkHead) -> Zeroizing<Vec<u8>> {
    let mut writer = Writer::new();
    write_place(&mut writer, &head.path, &head.stamp);
    writer.put(&head.set.0);
    writer.length(head.chunks);
    writer.length(head.length);
    writer.put(head.digest.as_bytes());
    framed(kind, &writer.done())
}

pub(crate) fn encode_body(
    path: &RecordPath,
    stamp: &Stamp,
    set: SetId,
    (index, chunks): (usize, usize),
    part: &[u8],
) -> Zeroizing<Vec<u8>> {
    let mut writer = Writer::new();
    write_place(&mut writer, path, stamp);
    writer.put(&set.0);
    writer.length(index);
    writer.length(chunks);
    writer.put(part);
    framed(BODY, &writer.done())
}

/// The most that a chunk body's entry costs beside its part.
pub(crate) fn body_overhead(path: &RecordPath, stamp: &Stamp) -> usize {
    let text = path.as_str().len();
    let place = varint_len(text as u64)
        + text
        + 16
        + varint_len(u64::from(stamp.epoch.number))
        + varint_len(stamp.counter);
    // Kind, length (up to 2 MiB), place, set, index and number of chunks (each up to 2 million).
    1 + 3 + place + 8 + 3 + 3
}

fn write_place(writer: &mut Writer, path: &RecordPath, stamp: &Stamp) {
    writer.bytes(path.as_str().as_bytes());
    writer.put(stamp.incarnation.as_bytes());
    write_point(writer, stamp.epoch, stamp.counter);
}

fn read_place(reader: &mut Reader<'_>) -> Result<(RecordPath, Stamp), Malformed> {
    let path = RecordPath::new(reader.text()?).map_err(|_| Malformed("not a path"))?;
    let incarnation = Incarnation::from_bytes(reader.array()?);
    let (epoch, counter) = read_point(reader)?;
    let stamp = Stamp { incarnation, epoch, counter };
    Ok((path, stamp))
}

fn write_point(writer: &mut Writer, epoch: EpochId, counter: u64) {
    writer.varint(u64::from(epoch.number));
    writer.put(epoch.writer.as_bytes());
    writer.varint(counter);
}

fn read_point(reader: &mut Reader<'_>) -> Result<(EpochId, u64), Malformed> {
    let number = u32::try_from(reader.varint()?).map_err(|_| Malformed("number too large"))?;
    let writer = WriterId::from_bytes(reader.array()?);
    Ok((EpochId { number, writer }, reader.varint()?))
}

/// All of a record that does not say which version of which record it is.
pub(crate) fn encode_tail(version: &Version, origin: &Origin, content: &Content) -> Zeroizing<Vec<u8>> {
    let mark = match origin {
        Origin::Secret => None,
        Origin::Token { mark } => mark.as_ref(),
    };
    let mut writer = Writer::new();
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    writer.byte(
        flag(*origin == Origin::Secret, FROM_SECRET)
            | flag(mark.is_some(), HAS_MARK)
            | flag(!content.metadata.is_empty(), HAS_METADATA),
    );
    writer.length(version.lineage.len());
    for (epoch, end) in &version.lineage {
        write_point(&mut writer, *epoch, *end);
    }
    if let Some(mark) = mark {
        write_mark(&mut writer, mark, &content.data);
    }
    if !content.metadata.is_empty() {
        writer.bytes(content.metadata.description.as_bytes());
        for map in [&content.metadata.labels, &content.metadata.attributes] {
            writer.length(map.len());
            for (name, value) in map {
                writer.bytes(name.as_bytes());
                writer.bytes(value.as_bytes());
            }
        }
    }
    writer.length(content.data.len());
    for (key, value) in &content.data {
        writer.bytes(key.as_str().as_bytes());
        writer.bytes(value.expose());
    }
    writer.done()
}

pub(crate) fn decode_tail(path: RecordPath, stamp: &Stamp, bytes: &[u8]) -> Result<RecordEntry, Malformed> {
    let mut reader = Reader::new(bytes);
    let flags = reader.byte()?;
    if flags & !(FROM_SECRET | HAS_MARK | HAS_METADATA) != 0
        || flags & (FROM_SECRET | HAS_MARK) == FROM_SECRET | HAS_MARK
    {
        return Err(Malformed("unknown flags"));
    }
    let mut lineage = Lineage::new();
    for _ in 0..reader.count(10)? {
        let (epoch, end) = read_point(&mut reader)?;
        if epoch == stamp.epoch || lineage.last_key_value().is_some_and(|(last, _)| *last >= epoch) {
            return Err(Malformed("lineage out of order"));
        }
        lineage.insert(epoch, end);
    }
    let mark = (flags & HAS_MARK != 0).then(|| read_mark(&mut reader, stamp.incarnation)).transpose()?;
    let mut metadata = Metadata::default();
    if flags & HAS_METADATA != 0 {
        reader.text()?.clone_into(&mut metadata.description);
        metadata.labels = read_map(&mut reader)?;
        metadata.attributes = read_map(&mut reader)?;
        if metadata.is_empty() {
            return Err(Malformed("metadata that are empty"));
        }
    }
    let data = read_values(&mut reader)?;
    reader.end()?;
    let origin = if flags & FROM_SECRET != 0 {
        Origin::Secret
    } else {
        Origin::Token { mark: mark.map(|mark| mark.resolve(&data)).transpose()? }
    };
    Ok(RecordEntry {
        path,
        version: Version {
            incarnation: stamp.incarnation,
            epoch: stamp.epoch,
            counter: stamp.counter,
            lineage,
        },
        origin,
        content: Content { data, metadata },
    })
}

fn write_mark(writer: &mut Writer, mark: &SecretMark, data: &Payload) {
    write_point(writer, mark.stamp.epoch, mark.stamp.counter);
    writer.length(mark.keys.len());
    for (key, digest) in &mark.keys {
        if let Some(index) = data.iter().position(|(own, _)| own == key) {
            writer.length(index + 1);
        } else {
            writer.byte(0);
            writer.bytes(key.as_str().as_bytes());
        }
        writer.put(digest.as_bytes());
    }
}

/// A mark whose keys may still be places among the values that follow it.
struct RawMark {
    stamp: Stamp,
    keys: Vec<(Result<Key, usize>, KeyDigest)>,
}

impl RawMark {
    fn resolve(self, data: &Payload) -> Result<SecretMark, Malformed> {
        let own: Vec<&Key> = data.iter().map(|(key, _)| key).collect();
        let mut keys = Vec::with_capacity(self.keys.len());
        for (key, digest) in self.keys {
            let key = match key {
                Ok(key) if own.contains(&&key) => return Err(Malformed("a mark's key written out")),
                Ok(key) => key,
                Err(place) => own
                    .get(place - 1)
                    .map(|key| (*key).clone())
                    .ok_or(Malformed("a mark's key that is not there"))?,
            };
            keys.push((key, digest));
        }
        Ok(SecretMark { stamp: self.stamp, keys })
    }
}

fn read_mark(reader: &mut Reader<'_>, incarnation: Incarnation) -> Result<RawMark, Malformed> {
    let (epoch, counter) = read_point(reader)?;
    let mut keys = Vec::new();
    for _ in 0..reader.count(9)? {
        let key = match reader.length()? {
            0 => Ok(read_key(reader)?),
            place => Err(place),
        };
        keys.push((key, KeyDigest::from_bytes(reader.array()?)));
    }
    let stamp = Stamp { incarnation, epoch, counter };
    Ok(RawMark { stamp, keys })
}

fn read_key(reader: &mut Reader<'_>) -> Result<Key, Malformed> {
    Key::new(reader.text()?).map_err(|_| Malformed("not a key"))
}

fn read_map(reader: &mut Reader<'_>) -> Result<BTreeMap<String, String>, Malformed> {
    let mut map = BTreeMap::<String, String>::new();
    for _ in 0..reader.count(2)? {
        let name = reader.text()?;
        if map.last_key_value().is_some_and(|(last, _)| last.as_str() >= name) {
            return Err(Malformed("metadata out of order"));
        }
        map.insert(name.to_owned(), reader.text()?.to_owned());
    }
    Ok(map)
}

fn read_values(reader: &mut Reader<'_>) -> Result<Payload, Malformed> {
    let mut data = Payload::new();
    let mut last: Option<Key> = None;
    for _ in 0..reader.count(3)? {
        let key = read_key(reader)?;
        if last.as_ref().is_some_and(|last| *last >= key) {
            return Err(Malformed("keys out of order"));
        }
        data.insert(key.clone(), Value::new(reader.bytes()?.to_vec()));
        last = Some(key);
    }
    Ok(data)
}
