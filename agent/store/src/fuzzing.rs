//! What the fuzz targets run (`tests/fuzz`), and the ordinary tests run a bounded number of times: the parsers of
//! everything that is read from a token. They must neither panic, nor allocate by a number that they read, nor take
//! two encodings for one value.

use hsm_types::TokenId;
use zeroize::Zeroizing;

use crate::foreign::{content, names};
use crate::format::{self, Entry, ObjectId, StoreKeys, Wrapped};
use crate::plain::{self, Decoded};

const TOKEN: TokenId = TokenId::from_bytes([7; 16]);
const ID: ObjectId = ObjectId([1, 2, 3, 4, 5, 6, 7, 8]);
const NONCE: [u8; 12] = [9; 12];

fn keys() -> Option<StoreKeys> {
    StoreKeys::derive(TOKEN, [3; 8], &[5; 32]).ok()
}

/// Any bytes as the value of each kind of object: a value that nobody sealed is never one.
///
/// # Panics
/// Where a parser takes what it must not: that is what a fuzzer looks for.
pub fn value(bytes: &[u8]) {
    if let Ok(id) = format::decode_identity(bytes) {
        assert!(format::encode_identity(id) == bytes, "two encodings of one identity");
    }
    let _ = Wrapped::decode(bytes);
    if let Some(keys) = keys() {
        assert!(format::open(&keys, ID, bytes).is_err(), "a seal was guessed");
    }
}

/// Any bytes as the body of an object whose seal is good: what is understood has this one encoding.
///
/// # Panics
/// Where an entry that was understood encodes to other bytes.
pub fn body(bytes: &[u8]) {
    let Ok((replaces, entries)) = format::parse_body(ID, bytes) else {
        return;
    };
    let mut rest = bytes;
    let mut head = format::encode_count(replaces.len()).to_vec();
    for id in &replaces {
        head.extend_from_slice(&id.0);
    }
    take(&mut rest, &head);
    for entry in entries {
        take(&mut rest, &encoded(&entry));
    }
    assert!(rest.is_empty(), "bytes that no entry accounts for");
}

/// Any bytes sealed, then one bit altered: the seal is broken, wherever the bit is.
///
/// # Panics
/// Where an altered object opens.
pub fn sealed(bytes: &[u8], at: usize) {
    let Some(keys) = keys() else { return };
    let entry = Zeroizing::new(bytes.to_vec());
    let Ok(mut value) = format::seal(&keys, ID, 1, NONCE, &[], &[entry]) else { return };
    let bit = at % (value.len() * 8);
    value[bit / 8] ^= 1 << (bit % 8);
    assert!(format::open(&keys, ID, &value).is_err(), "bit {bit} of {} was altered", value.len());
}

/// Any bytes as the label and the value of an object that somebody else made: names, plain records, and what the Go
/// operator and plain tools write. The first byte says where the label ends.
///
/// # Panics
/// Where reading the same bytes twice gives two versions.
pub fn others(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else { return };
    let (label, value) = rest.split_at(rest.len().min(usize::from(*length)));
    let label = String::from_utf8_lossy(label);
    let readings = names::readings(&label);
    assert!(readings.iter().all(|(path, _)| label.starts_with(path.as_str())), "a reading of another name");
    let _ = names::group(&[(&label, None)]);
    let _ = (content::json_of_texts(value), content::is_tombstone(value));
    if let Decoded::Record(record) = plain::decode(&label, value)
        && let Decoded::Record(again) = plain::decode(&label, value)
    {
        assert!(again.version == record.version, "one value, two versions");
    }
}

#[expect(clippy::panic, reason = "a fuzz target fails by panicking")]
fn take(rest: &mut &[u8], expected: &[u8]) {
    match rest.split_at_checked(expected.len()) {
        Some((taken, left)) if taken == expected => *rest = left,
        _ => panic!("an entry has two encodings"),
    }
}

/// The entry's own encoding.
fn encoded(entry: &Entry) -> Zeroizing<Vec<u8>> {
    match entry {
        Entry::Record(r) => format::encode_record(&r.path, &r.version, &r.origin, &r.content),
        Entry::Tombstone(tombstone) => format::encode_tombstone(tombstone),
        Entry::Head(head) => format::encode_head(head),
        Entry::Body(body) => {
            format::encode_body(&body.path, &body.stamp, body.set, (body.index, body.chunks), &body.part)
        }
        Entry::History(r) => format::encode_history(&r.path, &r.version, &r.origin, &r.content),
        Entry::HistoryHead(head) => format::encode_history_head(head),
        Entry::Compaction => format::encode_compaction(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hsm_types::{
        Content, Incarnation, Key, Metadata, Origin, Payload, RecordPath, Tombstone, Value, Version, WriterId,
    };
    use proptest::prelude::*;

    use super::*;

    /// The body of a page that holds a record and a tombstone, to be mutated.
    fn page() -> Vec<u8> {
        let path = RecordPath::new("secrets/ns/db").unwrap();
        let version = Version::first(Incarnation::from_bytes([4; 8]), WriterId::from_bytes([6; 8]));
        let data: Payload = [(Key::new("k").unwrap(), Value::new(vec![0, 0xff]))].into_iter().collect();
        let metadata = Metadata {
            description: "d".into(),
            labels: BTreeMap::from([("a".into(), "b".into())]),
            ..Metadata::default()
        };
        let content = Content { data, metadata };
        let record = format::encode_record(&path, &version, &Origin::Secret, &content);
        let tombstone = Tombstone { path, incarnation: version.incarnation, stamp: version.stamp() };
        [&[1u8][..], &[8; 8], &record, &format::encode_tombstone(&tombstone)].concat()
    }

    /// The length of the label, the label, and a plain record.
    const PLAIN: &[u8] = b"\x08plainrec{\"_hsm\":{\"format\":1,\"path\":\"plainrec\",\"version\":\"1.1-c417869481c9a3ea-60df1df3df31de13\",\
        \"generation\":8,\"digest\":\"62954ca7f208a343e3cf2c896a3b951e205bdfef02a725a2041655e75ced4c93\"},\"k\":\"x\"}";

    #[test]
    fn the_plain_record_is_understood() {
        assert!(matches!(plain::decode("plainrec", &PLAIN[9..]), Decoded::Record(_)));
        others(PLAIN);
    }

    #[test]
    fn a_page_is_understood_and_has_one_encoding() {
        assert!(format::parse_body(ID, &page()).is_ok());
        body(&page());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn any_value(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            value(&bytes);
        }

        #[test]
        fn any_value_with_a_good_head(kind in 1u8..=3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            value(&[&[0xf5, b'H', 1, kind][..], &bytes].concat());
        }

        #[test]
        fn any_body(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            body(&bytes);
        }

        #[test]
        fn a_mutated_page(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()) {
            let mut bytes = page();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(bytes.len() - cut % 3);
            body(&bytes);
        }

        #[test]
        fn any_object_of_others(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            others(&bytes);
        }

        #[test]
        fn a_mutated_plain_record(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4)) {
            let mut bytes = PLAIN.to_vec();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            others(&bytes);
        }

        #[test]
        fn any_bit_of_a_sealed_object(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in any::<usize>()) {
            sealed(&bytes, at);
        }
    }
}
