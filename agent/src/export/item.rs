//! Entries as bytes. What comes out of `decode` is valid: paths and keys are checked, contents fit their digests.

use std::collections::BTreeMap;

use hsm_store::Replica;
use hsm_types::{
    Content, Digest, EpochId, Incarnation, Key, KeyDigest, Lineage, Metadata, Origin, Payload, RecordPath,
    Revision, SecretMark, Stamp, Tombstone, Value, Version, WriterId,
};
use zeroize::Zeroizing;

use super::wire::{Decoder, Encoder};
use super::{ExportError, Item, Missing};

const RECORD: u8 = 1;
const EARLIER: u8 = 2;
const TOMBSTONE: u8 = 3;
const MISSING: u8 = 4;
pub(super) const END: u8 = 255;

const FROM_TOKEN: u8 = 0;
const WITH_MARK: u8 = 1;
const FROM_SECRET: u8 = 2;

/// An entry's kind and its bytes.
pub(super) fn encode(item: &Item) -> (u8, Zeroizing<Vec<u8>>) {
    let mut out = Encoder::default();
    let kind = match item {
        Item::Record(replica) => {
            write_replica(&mut out, replica);
            RECORD
        }
        Item::Earlier(replica) => {
            write_replica(&mut out, replica);
            EARLIER
        }
        Item::Tombstone(tombstone) => {
            out.text(tombstone.path.as_str());
            out.put(tombstone.incarnation.as_bytes());
            write_epoch(&mut out, tombstone.stamp.epoch, tombstone.stamp.counter);
            TOMBSTONE
        }
        Item::Missing(missing) => {
            out.text(&missing.what);
            out.text(&missing.why);
            MISSING
        }
    };
    (kind, out.done())
}

pub(super) fn decode(kind: u8, bytes: &[u8]) -> Result<Item, ExportError> {
    let mut input = Decoder::new(bytes);
    let item = match kind {
        RECORD => Item::Record(read_replica(&mut input)?),
        EARLIER => Item::Earlier(read_replica(&mut input)?),
        TOMBSTONE => {
            let path = read_path(&mut input)?;
            let stamp = read_point(&mut input)?;
            Item::Tombstone(Tombstone { path, incarnation: stamp.incarnation, stamp })
        }
        MISSING => Item::Missing(Missing { what: input.text()?.to_owned(), why: input.text()?.to_owned() }),
        _ => return Err(ExportError::malformed("an entry of unknown kind")),
    };
    input.end()?;
    Ok(item)
}

fn write_epoch(out: &mut Encoder, epoch: EpochId, counter: u64) {
    out.u32(epoch.number);
    out.put(epoch.writer.as_bytes());
    out.u64(counter);
}

fn read_epoch(input: &mut Decoder<'_>) -> Result<(EpochId, u64), ExportError> {
    let number = input.u32()?;
    let writer = WriterId::from_bytes(input.array()?);
    Ok((EpochId { number, writer }, input.u64()?))
}

fn read_point(input: &mut Decoder<'_>) -> Result<Stamp, ExportError> {
    let incarnation = Incarnation::from_bytes(input.array()?);
    let (epoch, counter) = read_epoch(input)?;
    Ok(Stamp { incarnation, epoch, counter })
}

fn read_path(input: &mut Decoder<'_>) -> Result<RecordPath, ExportError> {
    RecordPath::new(input.text()?).map_err(|e| ExportError::malformed(&format!("a path: {e}")))
}

fn read_key(input: &mut Decoder<'_>) -> Result<Key, ExportError> {
    Key::new(input.text()?).map_err(|e| ExportError::malformed(&format!("a key: {e}")))
}

fn write_replica(out: &mut Encoder, replica: &Replica) {
    let Replica { path, revision, content } = replica;
    out.text(path.as_str());
    out.put(revision.version.incarnation.as_bytes());
    write_epoch(out, revision.version.epoch, revision.version.counter);
    out.length(revision.version.lineage.len());
    for (epoch, end) in &revision.version.lineage {
        write_epoch(out, *epoch, *end);
    }
    match &revision.origin {
        Origin::Token { mark: None } => out.put(&[FROM_TOKEN]),
        Origin::Token { mark: Some(mark) } => {
            out.put(&[WITH_MARK]);
            write_epoch(out, mark.stamp.epoch, mark.stamp.counter);
            out.length(mark.keys.len());
            for (key, digest) in &mark.keys {
                out.text(key.as_str());
                out.put(digest.as_bytes());
            }
        }
        Origin::Secret => out.put(&[FROM_SECRET]),
    }
    out.text(&content.metadata.description);
    for map in [&content.metadata.labels, &content.metadata.attributes] {
        out.length(map.len());
        for (name, value) in map {
            out.text(name);
            out.text(value);
        }
    }
    out.length(content.data.len());
    for (key, value) in &content.data {
        out.text(key.as_str());
        out.bytes(value.expose());
    }
    out.put(revision.digest.as_bytes());
}

fn read_replica(input: &mut Decoder<'_>) -> Result<Replica, ExportError> {
    let path = read_path(input)?;
    let stamp = read_point(input)?;
    let mut lineage = Lineage::new();
    for _ in 0..input.count(20)? {
        let (epoch, end) = read_epoch(input)?;
        if epoch == stamp.epoch || lineage.insert(epoch, end).is_some() {
            return Err(ExportError::malformed("a lineage that contradicts itself"));
        }
    }
    let origin = match input.array()? {
        [FROM_TOKEN] => Origin::Token { mark: None },
        [WITH_MARK] => Origin::Token { mark: Some(read_mark(input, stamp.incarnation)?) },
        [FROM_SECRET] => Origin::Secret,
        _ => return Err(ExportError::malformed("an origin of unknown kind")),
    };
    let metadata = Metadata {
        description: input.text()?.to_owned(),
        labels: read_map(input)?,
        attributes: read_map(input)?,
    };
    let mut data = Payload::new();
    for _ in 0..input.count(8)? {
        let key = read_key(input)?;
        if data.get(key.as_str()).is_some() {
            return Err(ExportError::malformed("a key that is there twice"));
        }
        data.insert(key, Value::new(input.bytes()?.to_vec()));
    }
    let digest = Digest::from_bytes(input.array()?);
    let content = Content { data, metadata };
    if Digest::of(&path, stamp.incarnation, &content) != digest {
        return Err(ExportError::malformed("a record that is not what its digest says"));
    }
    let version =
        Version { incarnation: stamp.incarnation, epoch: stamp.epoch, counter: stamp.counter, lineage };
    Ok(Replica { path, revision: Revision { version, digest, origin }, content })
}

fn read_mark(input: &mut Decoder<'_>, incarnation: Incarnation) -> Result<SecretMark, ExportError> {
    let (epoch, counter) = read_epoch(input)?;
    let mut keys = Vec::new();
    for _ in 0..input.count(12)? {
        let key = read_key(input)?;
        keys.push((key, KeyDigest::from_bytes(input.array()?)));
    }
    Ok(SecretMark { stamp: Stamp { incarnation, epoch, counter }, keys })
}

fn read_map(input: &mut Decoder<'_>) -> Result<BTreeMap<String, String>, ExportError> {
    let mut map = BTreeMap::new();
    for _ in 0..input.count(8)? {
        let name = input.text()?.to_owned();
        if map.insert(name, input.text()?.to_owned()).is_some() {
            return Err(ExportError::malformed("a label that is there twice"));
        }
    }
    Ok(map)
}
