//! From the values of foreign objects to the content of a record, and to its version. Pure.

use aws_lc_rs::digest::{SHA256, digest};
use hsm_types::{
    Content, Digest, EpochId, Incarnation, Key, Lineage, Metadata, RecordPath, Value, Version, WriterId,
};
use zeroize::Zeroizing;

use super::names::{Part, is_default_form};
use crate::json::{self, Members};

/// The labels in the Go operator's metadata that are its own bookkeeping.
const BOOKKEEPING: &str = "sync.";
const DELETED: &str = "sync.deleted";

/// One object of a group with its value.
pub(crate) struct Member<'a> {
    pub(crate) label: &'a str,
    pub(crate) part: &'a Part,
    /// What kept it from being read.
    pub(crate) value: Result<&'a [u8], &'a str>,
    /// Whether the Go operator's name is on it.
    pub(crate) go: bool,
}

/// What a group of objects comes to.
pub(crate) enum Reading {
    Record(Content),
    /// The Go operator deleted it.
    Deleted,
    /// Which record it is would be a guess.
    Unclear {
        label: String,
        reason: String,
    },
}

/// Reads all objects of one record.
pub(crate) fn read(path: &RecordPath, members: &[Member<'_>]) -> Reading {
    match try_read(path, members) {
        Ok(reading) => reading,
        Err((label, reason)) => Reading::Unclear { label: label.to_owned(), reason },
    }
}

fn try_read<'a>(path: &RecordPath, members: &[Member<'a>]) -> Result<Reading, (&'a str, String)> {
    let mut content = Content::default();
    let mut metadata: Option<&[u8]> = None;
    for member in members {
        let value = member.value.map_err(|why| (member.label, why.to_owned()))?;
        if *member.part != Part::Metadata {
            continue;
        }
        if metadata.is_some_and(|other| other != value) {
            return Err((member.label, "several objects have this label and different values".to_owned()));
        }
        metadata = Some(value);
        let (parsed, deleted) =
            parse_metadata(value).ok_or((member.label, "it is not metadata in JSON".to_owned()))?;
        if deleted {
            return Ok(Reading::Deleted);
        }
        content.metadata = parsed;
    }
    let by_hand = metadata.is_none()
        && is_default_form(path.as_str())
        && members.iter().all(|member| *member.part == Part::Data && !member.go);
    for member in members {
        let (Part::Data | Part::Key(_), Ok(value)) = (member.part, member.value) else {
            continue;
        };
        let pairs = match by_hand.then(|| json_of_texts(value)).flatten() {
            Some(pairs) => pairs,
            None => vec![(key_of(member.part).ok_or_else(no_key)?, Value::new(value.to_vec()))],
        };
        for (key, value) in pairs {
            if content.data.get(key.as_str()).is_some_and(|other| other.expose() != value.expose()) {
                let reason = format!("several objects have different values for the key {}", key.as_str());
                return Err((member.label, reason));
            }
            content.data.insert(key, value);
        }
    }
    Ok(Reading::Record(content))
}

fn no_key<'a>() -> (&'a str, String) {
    ("", "it is no key".to_owned())
}

fn key_of(part: &Part) -> Option<Key> {
    match part {
        Part::Metadata => None,
        Part::Data => Key::new("data").ok(),
        Part::Key(key) => Some(key.clone()),
    }
}

/// Whether all that this object says is in `content`, so that it is superfluous.
pub(crate) fn holds(content: &Content, path: &RecordPath, part: &Part, value: &[u8]) -> bool {
    let has = |key: &str, value: &[u8]| content.data.get(key).is_some_and(|own| own.expose() == value);
    match part {
        Part::Metadata => parse_metadata(value).is_some_and(|(parsed, _)| parsed == content.metadata),
        Part::Key(key) => has(key.as_str(), value),
        Part::Data => {
            has("data", value)
                || is_default_form(path.as_str())
                    && json_of_texts(value).is_some_and(|pairs| {
                        pairs.iter().all(|(key, value)| has(key.as_str(), value.expose()))
                    })
        }
    }
}

/// The values in a JSON object that holds nothing but texts under names that may be keys, and at least one.
pub(crate) fn json_of_texts(value: &[u8]) -> Option<Vec<(Key, Value)>> {
    let members = Members::of(value)?;
    let pairs: Option<Vec<(Key, Value)>> = members
        .0
        .iter()
        .map(|(name, raw)| Some((Key::new(name.as_str()).ok()?, Value::new(json::text(raw)?.to_vec()))))
        .collect();
    pairs.filter(|pairs| !pairs.is_empty())
}

/// The Go operator's metadata, and whether they are a tombstone. Description and labels are kept as they are; what the
/// operator wrote for itself becomes attributes, and what is no text is kept as it was written.
fn parse_metadata(value: &[u8]) -> Option<(Metadata, bool)> {
    let mut metadata = Metadata::default();
    let mut deleted = false;
    let as_text =
        |raw: &serde_json::value::RawValue| json::string(raw).unwrap_or_else(|| raw.get().to_owned());
    for (name, raw) in Members::of(value)?.0 {
        if raw.get() == "null" {
            continue;
        }
        match name.as_str() {
            "description" => metadata.description = json::string(raw)?,
            "labels" => {
                for (label, raw) in Members::of(raw.get().as_bytes())?.0 {
                    let text = as_text(raw);
                    if label.starts_with(BOOKKEEPING) {
                        deleted |= label == DELETED && text == "true";
                        metadata.attributes.insert(label, text);
                    } else {
                        metadata.labels.insert(label, text);
                    }
                }
            }
            _ => {
                metadata.attributes.insert(name, as_text(raw));
            }
        }
    }
    Some((metadata, deleted))
}

/// Whether these are metadata by which the Go operator remembers a deletion.
pub(crate) fn is_tombstone(value: &[u8]) -> bool {
    parse_metadata(value).is_some_and(|(_, deleted)| deleted)
}

/// The version that a foreign record has: see the module's documentation.
pub(crate) fn version(path: &RecordPath, content: &Content) -> Version {
    let content = Digest::of(path, Incarnation::from_bytes([0; 8]), content);
    let incarnation = Incarnation::from_bytes(derived(b"hsm.j5t.io/foreign/life/v1", &[content.as_bytes()]));
    let writer = WriterId::from_bytes(derived(b"hsm.j5t.io/foreign/writer/v1", &[content.as_bytes()]));
    Version { incarnation, epoch: EpochId { number: 0, writer }, counter: 1, lineage: Lineage::new() }
}

/// The first eight bytes of SHA-256 over a domain and parts of fixed length.
pub(crate) fn derived(domain: &[u8], parts: &[&[u8]]) -> [u8; 8] {
    let mut input = Zeroizing::new(domain.to_vec());
    for part in parts {
        input.extend_from_slice(part);
    }
    let hash = digest(&SHA256, &input);
    let mut short = [0; 8];
    short.copy_from_slice(&hash.as_ref()[..8]);
    short
}

#[cfg(test)]
mod tests {
    use hsm_types::Payload;

    use super::*;

    fn path(text: &str) -> RecordPath {
        RecordPath::new(text).unwrap()
    }

    fn member<'a>(label: &'a str, part: &'a Part, value: &'a [u8]) -> Member<'a> {
        Member { label, part, value: Ok(value), go: false }
    }

    fn pairs(reading: &Reading) -> Vec<(String, Vec<u8>)> {
        let Reading::Record(content) = reading else { panic!("no record") };
        content.data.iter().map(|(k, v)| (k.as_str().to_owned(), v.expose().to_vec())).collect()
    }

    fn texts(expected: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        expected.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect()
    }

    #[test]
    fn metadata_of_the_go_operator_are_carried() {
        let value = br#"{"description":"the db","labels":{"team":"a","sync.version":"7","sync.source":"node-1","n":3},
            "format":"opaque","dataType":"text","createdAt":"2025-01-01T00:00:00Z","source":"api","extra":{"a":[1]},"x":null}"#;
        let (metadata, deleted) = parse_metadata(value).unwrap();
        assert!(!deleted);
        assert_eq!(metadata.description, "the db");
        let all = |map: &std::collections::BTreeMap<String, String>| {
            map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(all(&metadata.labels), "n=3 team=a");
        assert_eq!(
            all(&metadata.attributes),
            "createdAt=2025-01-01T00:00:00Z dataType=text extra={\"a\":[1]} format=opaque source=api sync.source=node-1 sync.version=7"
        );
        assert!(parse_metadata(br#"{"labels":{"sync.deleted":"true"}}"#).unwrap().1);
        assert!(!parse_metadata(br#"{"labels":{"sync.deleted":"false"}}"#).unwrap().1);
        assert!(parse_metadata(b"{}").unwrap().0.is_empty());
        for bad in ["", "[]", "{", "{\"description\":1}", "{\"labels\":\"x\"}"] {
            assert!(parse_metadata(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn one_object_by_hand_is_json_of_texts_or_one_value() {
        let by_hand = |label: &str, value: &str| {
            pairs(&read(&path(label), &[member(label, &Part::Data, value.as_bytes())]))
        };
        assert_eq!(
            by_hand("secrets/n/db", r#"{"user":"x","pass":"\u0079"}"#),
            texts(&[("pass", "y"), ("user", "x")])
        );
        for single in ["plain", "{}", r#"{"a":1}"#, r#"{"a b":"x"}"#, r#"{"a":"1","a":"2"}"#, r#"["x"]"#, ""]
        {
            assert_eq!(by_hand("secrets/n/db", single), texts(&[("data", single)]), "{single}");
        }
        // Elsewhere, and where the Go operator wrote it, JSON is just a value.
        let json = r#"{"user":"x"}"#;
        assert_eq!(by_hand("db", json), texts(&[("data", json)]));
        let label = "secrets/n/db";
        let go = Member { go: true, ..member(label, &Part::Data, json.as_bytes()) };
        assert_eq!(pairs(&read(&path(label), &[go])), texts(&[("data", json)]));
        let described = [
            member(label, &Part::Data, json.as_bytes()),
            member("secrets/n/db/_metadata", &Part::Metadata, b"{}"),
        ];
        assert_eq!(pairs(&read(&path(label), &described)), texts(&[("data", json)]));
    }

    #[test]
    fn doubled_objects_count_once_or_are_unclear() {
        let key = Part::Key(Key::new("k").unwrap());
        let same = [member("a/k", &key, b"v"), member("a/k", &key, b"v")];
        assert_eq!(pairs(&read(&path("a"), &same)), texts(&[("k", "v")]));
        let differ = [member("a/k", &key, b"v"), member("a/k", &key, b"w")];
        let Reading::Unclear { label, .. } = read(&path("a"), &differ) else { panic!("a guess") };
        assert_eq!(label, "a/k");
        let data = Part::Key(Key::new("data").unwrap());
        let both = [member("a", &Part::Data, b"v"), member("a/data", &data, b"w")];
        assert!(matches!(read(&path("a"), &both), Reading::Unclear { label, .. } if label == "a/data"));
        let metadata =
            [member("a/_metadata", &Part::Metadata, b"{}"), member("a/_metadata", &Part::Metadata, b"{ }")];
        assert!(matches!(read(&path("a"), &metadata), Reading::Unclear { .. }));
    }

    #[test]
    fn the_version_is_the_contents_and_nothing_elses() {
        let content = |pairs: &[(&str, &str)]| Content {
            data: pairs
                .iter()
                .map(|(k, v)| (Key::new(*k).unwrap(), Value::new(v.as_bytes().to_vec())))
                .collect::<Payload>(),
            metadata: Metadata::default(),
        };
        let of = |p: &str, pairs: &[(&str, &str)]| version(&path(p), &content(pairs)).stamp().to_string();
        // A vector: what tombstones name must stay what it is.
        assert_eq!(
            of("secrets/ns/db", &[("password", "s3cr3t"), ("username", "admin")]),
            "0.1-c3418877b817c5dc-d0adae124de7e0c9"
        );
        assert_ne!(of("p", &[("a", "bc")]), of("p", &[("ab", "c")]));
        assert_ne!(of("p", &[("a", "b")]), of("q", &[("a", "b")]));
    }
}
