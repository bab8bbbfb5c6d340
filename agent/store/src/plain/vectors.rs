//! Test vectors: when one of these fails, the format has moved. Do not bless it: records that people have would be
//! lost. A change is a new format.

use std::collections::BTreeMap;

use hsm_types::{
    Content, EpochId, Incarnation, Key, KeyDigest, Lineage, Metadata, Origin, RecordPath, SecretMark, Stamp,
    Value, Version, WriterId,
};
use proptest::prelude::*;

use super::*;
use crate::StoreError;

fn path() -> RecordPath {
    RecordPath::new("secrets/ns/db").unwrap()
}

fn version() -> Version {
    let epoch = |number, writer| EpochId { number, writer: WriterId::from_bytes([writer; 8]) };
    Version {
        incarnation: Incarnation::from_bytes(*b"incarnat"),
        epoch: epoch(3, 0xaa),
        counter: 300,
        lineage: Lineage::from([(epoch(1, 0xaa), 7), (epoch(2, 0xbb), 129)]),
    }
}

fn content(pairs: &[(&str, &[u8])], metadata: Metadata) -> Content {
    let data =
        pairs.iter().map(|(key, value)| (Key::new(*key).unwrap(), Value::new(value.to_vec()))).collect();
    Content { data, metadata }
}

fn full() -> Content {
    let metadata = Metadata {
        description: "the \"database\"".into(),
        labels: BTreeMap::from([("team".into(), "a".into())]),
        attributes: BTreeMap::from([("format".into(), "opaque".into())]),
    };
    content(&[("blob", &[0, 0xff]), ("password", "s3cr\u{fc}t\n".as_bytes()), ("user", b"")], metadata)
}

fn marked() -> Origin {
    let stamp = Stamp { counter: 6, ..version().stamp() };
    let keys = vec![(Key::new("old").unwrap(), KeyDigest::from_bytes([2; 8]))];
    Origin::Token { mark: Some(SecretMark { stamp, keys }) }
}

fn written(origin: &Origin, content: &Content) -> String {
    let value = encode(&path(), &version(), origin, content, 7, 2000).unwrap();
    String::from_utf8(value.to_vec()).unwrap()
}

const FULL: &str = r#"{"_hsm":{"format":1,"path":"secrets/ns/db","version":"3.300-aaaaaaaaaaaaaaaa-696e6361726e6174","generation":7,"digest":"8ad25a478ffceca2897c03e20b6b9c8ecb34853f4fa18ca4080078d748e2be01","lineage":["1.7-aaaaaaaaaaaaaaaa","2.129-bbbbbbbbbbbbbbbb"],"mark":{"version":"3.6-aaaaaaaaaaaaaaaa","keys":{"old":"0202020202020202"}},"base64":["blob"],"description":"the \"database\"","labels":{"team":"a"},"attributes":{"format":"opaque"}},"blob":"AP8=","password":"s3crüt\n","user":""}"#;
const SMALL: &str = r#"{"_hsm":{"format":1,"path":"secrets/ns/db","version":"1.1-aaaaaaaaaaaaaaaa-696e6361726e6174","generation":1,"digest":"9a5256d60e5d241f23531a9035dd79896c18e23a1d0f03d0bb67685130949cc4","secret":true,"mark":{"version":"1.1-aaaaaaaaaaaaaaaa","keys":{"k":"56fdedd382a83c51"}}},"k":"v"}"#;

#[test]
fn a_record_looks_like_this() {
    assert_eq!(written(&marked(), &full()), FULL);
    let small = content(&[("k", b"v")], Metadata::default());
    let first = Version::first(version().incarnation, WriterId::from_bytes([0xaa; 8]));
    let value = encode(&path(), &first, &Origin::Secret, &small, 1, 2000).unwrap();
    assert_eq!(String::from_utf8(value.to_vec()).unwrap(), SMALL);
}

fn record(value: &str) -> decode::PlainRecord {
    match decode("secrets/ns/db", value.as_bytes()) {
        Decoded::Record(record) => *record,
        Decoded::NotPlain => panic!("not plain: {value}"),
        Decoded::Broken(reason) => panic!("{reason}: {value}"),
    }
}

#[test]
fn what_was_written_is_read_in_any_order_and_with_any_white_space() {
    let members: serde_json::Value = serde_json::from_str(FULL).unwrap();
    // This order is the alphabet's.
    for text in [FULL.to_owned(), members.to_string(), serde_json::to_string_pretty(&members).unwrap()] {
        let read = record(&text);
        assert_eq!((read.version, read.origin, read.generation), (version(), marked(), 7));
        assert!(read.content.data.same_as(&full().data));
        assert_eq!(read.content.metadata, full().metadata);
    }
    assert_eq!(record(SMALL).origin, Origin::Secret);
}

#[test]
fn an_edit_is_a_version_of_its_own_that_follows_from_the_content() {
    let edited = record(&SMALL.replace("\"k\":\"v\"", "\"k\":\"w\",\"more\":\"x\""));
    assert_eq!(edited.version.stamp().to_string(), "2.1-82336faa19d9d752-696e6361726e6174");
    assert_eq!(edited.version.relation(&record(SMALL).version), hsm_types::Relation::Ahead);
    // What the Secret was is remembered, since the edited version came from there.
    let Origin::Token { mark: Some(mark) } = &edited.origin else { panic!("no mark") };
    assert_eq!(mark.stamp, record(SMALL).version.stamp());
    assert_eq!(
        mark.keys[0].1,
        KeyDigest::of(version().incarnation, &mark.keys[0].0, &Value::new(b"v".to_vec()))
    );
    // The same edit is the same version, another one has diverged.
    let again = record(&SMALL.replace("\"k\":\"v\"", "\"more\" : \"x\",\n\"k\":\"\\u0077\""));
    assert_eq!(again.version, edited.version);
    let other = record(&SMALL.replace("\"k\":\"v\"", "\"k\":\"y\""));
    assert_eq!(other.version.relation(&edited.version), hsm_types::Relation::Diverged);
    // Metadata are content too.
    let described = record(&SMALL.replace("\"generation\"", "\"description\":\"d\",\"generation\""));
    assert_eq!(described.version.epoch.number, 2);
    assert_eq!(described.content.metadata.description, "d");
}

#[test]
fn what_is_not_understood_is_no_version() {
    let broken = [
        ("\"format\":1", "\"format\":2"),
        ("\"format\":1,", ""),
        ("\"path\":\"secrets/ns/db\"", "\"path\":\"secrets/ns/web\""),
        ("\"generation\":1", "\"generation\":\"1\""),
        ("\"generation\":1", "\"generation\":1,\"new\":1"),
        ("\"version\":\"1.1", "\"version\":\"1.01"),
        ("\"k\":\"v\"", "\"k\":1"),
        ("\"k\":\"v\"", "\"a b\":\"v\""),
        ("\"secret\":true", "\"secret\":1"),
        ("\"secret\":true", "\"base64\":[\"k\"]"),
        ("\"secret\":true", "\"lineage\":[\"1.1-aaaaaaaaaaaaaaaa\"]"),
        ("\"secret\":true", "\"lineage\":[\"x\"]"),
    ];
    for (from, to) in broken {
        let text = SMALL.replace(from, to);
        assert_ne!(text, SMALL);
        assert!(matches!(decode("secrets/ns/db", text.as_bytes()), Decoded::Broken(_)), "{text}");
    }
    for other in ["", "{}", "[]", "{\"k\":\"v\"}", "text", "{\"_hsm\":{},\"_hsm\":{}}"] {
        assert!(matches!(decode("secrets/ns/db", other.as_bytes()), Decoded::NotPlain), "{other}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let refused = |path: &str, content: &Content| {
        let path = RecordPath::new(path).unwrap();
        let origin = Origin::Token { mark: None };
        match encode(&path, &version(), &origin, content, 1, 2000) {
            Err(StoreError::NotPlain { reason, .. }) => reason,
            _ => panic!("taken"),
        }
    };
    let small = content(&[("k", b"v")], Metadata::default());
    assert!(refused(&"p".repeat(201), &small).contains("201 bytes"));
    assert!(refused("p", &content(&[("_hsm", b"v")], Metadata::default())).contains("reserved"));
    assert!(refused("p", &content(&[("k", &[b'x'; 1900])], Metadata::default())).contains("at most 2000"));
}

proptest! {
    #[test]
    fn every_content_comes_back(
        pairs in proptest::collection::btree_map("[a-z.]{1,9}k", proptest::collection::vec(any::<u8>(), 0..40), 0..5),
        texts in proptest::collection::vec(".{0,12}", 3),
        secret in any::<bool>(),
    ) {
        let pairs: Vec<(&str, &[u8])> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
        let metadata = Metadata {
            description: texts[0].clone(),
            labels: BTreeMap::from([(texts[1].clone(), texts[2].clone())]),
            attributes: BTreeMap::from([(texts[2].clone(), texts[0].clone())]),
        };
        if pairs.iter().all(|(key, _)| Key::new(*key).is_ok()) {
            let content = content(&pairs, metadata);
            let origin = if secret { Origin::Secret } else { Origin::Token { mark: None } };
            let read = record(&written(&origin, &content));
            prop_assert_eq!(read.version, version());
            prop_assert_eq!(read.origin, origin);
            prop_assert!(read.content.data.same_as(&content.data));
            prop_assert_eq!(read.content.metadata, content.metadata);
        }
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode("secrets/ns/db", &bytes);
        let mut text = b"{\"_hsm\":".to_vec();
        text.extend_from_slice(&bytes);
        let _ = decode("secrets/ns/db", &text);
    }
}
