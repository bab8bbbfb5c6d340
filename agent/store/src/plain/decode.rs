//! From the JSON of a plain record to the record.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hsm_types::{
    Content, Digest, EpochId, Key, KeyDigest, Lineage, Metadata, Origin, Payload, RecordPath, SecretMark,
    Stamp, Value, Version, WriterId,
};
use serde_json::value::RawValue;

use super::RESERVED;
use crate::foreign::content::derived;
use crate::json::{self, Members};

/// A plain record as it was read.
pub(crate) struct PlainRecord {
    pub(crate) path: RecordPath,
    pub(crate) version: Version,
    pub(crate) origin: Origin,
    pub(crate) content: Content,
    pub(crate) generation: u64,
}

/// What the value of an object is.
pub(crate) enum Decoded {
    Record(Box<PlainRecord>),
    /// There is no `_hsm` in it.
    NotPlain,
    /// There is, and it is not understood.
    Broken(&'static str),
}

/// Reads the value of an object with this label.
pub(crate) fn decode(label: &str, value: &[u8]) -> Decoded {
    let Some(mut members) = Members::of(value) else {
        return Decoded::NotPlain;
    };
    let Some(head) = members.take(RESERVED) else {
        return Decoded::NotPlain;
    };
    match read(label, head, members) {
        Ok(record) => Decoded::Record(Box::new(record)),
        Err(reason) => Decoded::Broken(reason),
    }
}

struct Head {
    path: RecordPath,
    stamp: Stamp,
    generation: u64,
    digest: [u8; 32],
    lineage: Lineage,
    secret: bool,
    mark: Option<SecretMark>,
    binary: Vec<String>,
    metadata: Metadata,
}

fn read(label: &str, head: &RawValue, members: Members<'_>) -> Result<PlainRecord, &'static str> {
    let head = Head::of(head)?;
    if head.path.as_str() != label {
        return Err("its _hsm names another path; to make it a record of its own, take _hsm out");
    }
    let mut data = Payload::new();
    for (name, raw) in members.0 {
        let key = Key::new(name).map_err(|_| "it has a member that is no key")?;
        let text = json::text(raw).ok_or("it has a value that is no string")?;
        let value = if head.binary.iter().any(|binary| binary == key.as_str()) {
            STANDARD.decode(text.as_slice()).map_err(|_| "a value that _hsm.base64 names is not base64")?
        } else {
            text.to_vec()
        };
        data.insert(key, Value::new(value));
    }
    let content = Content { data, metadata: head.metadata };
    let version = Version {
        incarnation: head.stamp.incarnation,
        epoch: head.stamp.epoch,
        counter: head.stamp.counter,
        lineage: head.lineage,
    };
    let digest = Digest::of(&head.path, version.incarnation, &content);
    let intact = *digest.as_bytes() == head.digest;
    let (version, origin) = if intact {
        (version, if head.secret { Origin::Secret } else { Origin::Token { mark: head.mark } })
    } else {
        (edited(&version, &digest), Origin::Token { mark: head.mark })
    };
    Ok(PlainRecord { path: head.path, version, origin, content, generation: head.generation })
}

/// The version of what somebody made of `base` by hand.
pub(crate) fn edited(base: &Version, digest: &Digest) -> Version {
    let number = base.epoch.number.saturating_add(1);
    let parts: [&[u8]; 5] = [
        base.incarnation.as_bytes(),
        &base.epoch.number.to_be_bytes(),
        base.epoch.writer.as_bytes(),
        &base.counter.to_be_bytes(),
        digest.as_bytes(),
    ];
    let writer = WriterId::from_bytes(derived(b"hsm.j5t.io/edited/v1", &parts));
    let mut lineage = base.lineage.clone();
    lineage.insert(base.epoch, base.counter);
    Version { incarnation: base.incarnation, epoch: EpochId { number, writer }, counter: 1, lineage }
}

impl Head {
    fn of(raw: &RawValue) -> Result<Self, &'static str> {
        const MISSING: &str = "a member of its _hsm is missing";
        const WRONG: &str = "a member of its _hsm is not as it should be";
        let mut members = Members::of(raw.get().as_bytes()).ok_or("its _hsm is no JSON object")?;
        let mut take = |name| members.take(name);
        if take("format").ok_or(MISSING)?.get() != "1" {
            return Err("its _hsm is of another format version; use a newer version");
        }
        let text = |raw: &RawValue| json::string(raw).ok_or(WRONG);
        let path = RecordPath::new(text(take("path").ok_or(MISSING)?)?).map_err(|_| WRONG)?;
        let stamp: Stamp = text(take("version").ok_or(MISSING)?)?.parse().map_err(|_| WRONG)?;
        let generation = take("generation").ok_or(MISSING)?.get().parse().map_err(|_| WRONG)?;
        let digest = hex(&text(take("digest").ok_or(MISSING)?)?).ok_or(WRONG)?;
        let mut lineage = Lineage::new();
        for end in take("lineage").map_or(Ok(Vec::new()), |raw| texts(raw).ok_or(WRONG))? {
            let (epoch, counter) = point(&end, &stamp).ok_or(WRONG)?;
            if epoch == stamp.epoch || lineage.insert(epoch, counter).is_some() {
                return Err(WRONG);
            }
        }
        let secret = match take("secret").map(RawValue::get) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(WRONG),
        };
        let mark = take("mark").map(|raw| mark(raw, &stamp).ok_or(WRONG)).transpose()?;
        let binary = take("base64").map_or(Ok(Vec::new()), |raw| texts(raw).ok_or(WRONG))?;
        let mut metadata = Metadata::default();
        if let Some(raw) = take("description") {
            metadata.description = text(raw)?;
        }
        metadata.labels = take("labels").map_or(Ok(BTreeMap::new()), |raw| map(raw).ok_or(WRONG))?;
        metadata.attributes = take("attributes").map_or(Ok(BTreeMap::new()), |raw| map(raw).ok_or(WRONG))?;
        if !members.0.is_empty() {
            return Err("its _hsm has a member that this version does not know; use a newer version");
        }
        Ok(Self { path, stamp, generation, digest, lineage, secret, mark, binary, metadata })
    }
}

fn mark(raw: &RawValue, own: &Stamp) -> Option<SecretMark> {
    let mut members = Members::of(raw.get().as_bytes())?;
    let (epoch, counter) = point(&json::string(members.take("version")?)?, own)?;
    let keys = pairs(members.take("keys")?)?
        .into_iter()
        .map(|(key, digest)| Some((Key::new(key).ok()?, KeyDigest::from_bytes(hex(&digest)?))))
        .collect::<Option<_>>()?;
    let stamp = Stamp { incarnation: own.incarnation, epoch, counter };
    members.0.is_empty().then_some(SecretMark { stamp, keys })
}

/// `EPOCH.COUNTER-WRITER` in the one form that is written.
fn point(text: &str, own: &Stamp) -> Option<(EpochId, u64)> {
    let stamp: Stamp = format!("{text}-{}", own.incarnation).parse().ok()?;
    Some((stamp.epoch, stamp.counter))
}

fn texts(raw: &RawValue) -> Option<Vec<String>> {
    serde_json::from_str(raw.get()).ok()
}

fn map(raw: &RawValue) -> Option<BTreeMap<String, String>> {
    Some(pairs(raw)?.into_iter().collect())
}

fn pairs(raw: &RawValue) -> Option<Vec<(String, String)>> {
    Members::of(raw.get().as_bytes())?
        .0
        .into_iter()
        .map(|(name, raw)| Some((name, json::string(raw)?)))
        .collect()
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |at: usize| text.get(at..=at).and_then(|digit| u8::from_str_radix(digit, 16).ok());
    let mut bytes = [0; N];
    if text.len() != 2 * N || text.bytes().any(|b| !b.is_ascii_digit() && !(b'a'..=b'f').contains(&b)) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = digit(2 * at)? << 4 | digit(2 * at + 1)?;
    }
    Some(bytes)
}
