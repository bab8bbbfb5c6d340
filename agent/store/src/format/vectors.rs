//! Test vectors with fixed keys and nonces: when one of these fails, the format has moved. Do not bless it: records
//! that people have would be lost. A change is a new format version.

use std::collections::BTreeMap;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use hsm_types::{
    Content, Digest, EpochId, Incarnation, Key, KeyDigest, Lineage, Metadata, Origin, Payload, RecordPath,
    SecretMark, Stamp, TokenId, Tombstone, Value, Version, WriterId,
};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

const TOKEN: TokenId = TokenId::from_bytes([
    0x6f, 0x9b, 0x2d, 0x1e, 0x8c, 0x3a, 0x4e, 0x57, 0x9b, 0x1d, 0x0a, 0x2f, 0x4c, 0x6e, 0x8d, 0x10,
]);
const STORE: StoreId = *b"store-id";
const STORE_KEY: [u8; 32] = [0x42; 32];
const NONCE: [u8; 12] = *b"random-nonce";
const ID: ObjectId = ObjectId([0, 1, 2, 3, 0xfc, 0xfd, 0xfe, 0xff]);

fn keys() -> StoreKeys {
    StoreKeys::derive(TOKEN, STORE, &STORE_KEY).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

fn path() -> RecordPath {
    RecordPath::new("secrets/ns/db").unwrap()
}

fn epoch(number: u32, writer: u8) -> EpochId {
    EpochId { number, writer: WriterId::from_bytes([writer; 8]) }
}

fn version() -> Version {
    Version {
        incarnation: Incarnation::from_bytes(*b"incarnat"),
        epoch: epoch(3, 0xaa),
        counter: 300,
        lineage: Lineage::from([(epoch(1, 0xaa), 7), (epoch(2, 0xbb), 129)]),
    }
}

fn pairs(pairs: &[(&str, &[u8])]) -> Payload {
    pairs.iter().map(|(key, value)| (Key::new(*key).unwrap(), Value::new(value.to_vec()))).collect()
}

fn full_content() -> Content {
    Content {
        data: pairs(&[("password", b"s3cr3t"), ("user", b"")]),
        metadata: Metadata {
            description: "the database".into(),
            labels: BTreeMap::from([("team".into(), "a".into())]),
            attributes: BTreeMap::new(),
        },
    }
}

fn marked() -> Origin {
    let mark = SecretMark {
        stamp: Stamp { counter: 6, epoch: epoch(1, 0xaa), ..version().stamp() },
        keys: vec![
            (Key::new("password").unwrap(), KeyDigest::from_bytes([1; 8])),
            (Key::new("old").unwrap(), KeyDigest::from_bytes([2; 8])),
        ],
    };
    Origin::Token { mark: Some(mark) }
}

fn head() -> ChunkHead {
    ChunkHead {
        path: path(),
        stamp: version().stamp(),
        set: SetId(*b"chunkset"),
        chunks: 9,
        length: 16_000,
        digest: Digest::from_bytes([0xdd; 32]),
    }
}

fn tombstone() -> Tombstone {
    Tombstone { path: path(), incarnation: version().incarnation, stamp: version().stamp() }
}

#[test]
fn identity() {
    let value = encode_identity(TOKEN);
    assert_eq!(hex(&value), "f54801016f9b2d1e8c3a4e579b1d0a2f4c6e8d100efa416e71d51c02");
    assert_eq!(decode_identity(&value), Ok(TOKEN));
}

#[test]
fn wrapped_store_key() {
    let private = |byte| PrivateKey::from_private_key(&ECDH_P256, &[byte; 32]).unwrap();
    let (token, ephemeral) = (private(1), private(2));
    let recipient = token.compute_public_key().unwrap();
    let value = wrap(TOKEN, STORE, recipient.as_ref(), &ephemeral, NONCE, &STORE_KEY).unwrap();
    assert_eq!(
        hex(&value),
        "f54801026f9b2d1e8c3a4e579b1d0a2f4c6e8d1073746f72652d6964046ff03b949241ce1dadd43519e6960e0a85b41a69a05c328103aa2bce1594ca163c4f753a55bf01dc53f6c0b0c7eee78b40c6ff7d25a96e2282b989cef71c144a04550f471003f3df97c3df506ac797f6721fb1a1fb7b8f6f83d224498a65c88e24136093d7012e509a73715cbd0b00a3cc0ff4b5c01b3ffa196ab1fb327036b8e672616e646f6d2d6e6f6e6365d95b28b0067a2217fa245150159df08c5e8510138fdc2f2b52466a30b56e25b5480b983c0afe5226d974f862dd1a4d6b"
    );
    let wrapped = Wrapped::decode(&value).unwrap();
    let peer = UnparsedPublicKey::new(&ECDH_P256, wrapped.ephemeral);
    let shared = agree(&token, peer, (), |shared| Ok(shared.to_vec())).unwrap();
    let opened = wrapped.unwrap_with(&shared).unwrap();
    assert_eq!(opened.fingerprint.to_string(), "e6f502e432d2688792512e8c86a4af71");
    assert_eq!(opened.fingerprint, keys().fingerprint);
    // Whatever bit of it flips, it does not open.
    for bit in 0..value.len() * 8 {
        let mut altered = value.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let opened = Wrapped::decode(&altered).and_then(|wrapped| wrapped.unwrap_with(&shared));
        assert!(opened.is_err(), "bit {bit}");
    }
}

#[test]
fn entries() {
    let secret = Origin::Secret;
    let plain = Origin::Token { mark: None };
    let first = Version::first(version().incarnation, WriterId::from_bytes([0xaa; 8]));
    let small = Content { data: pairs(&[("k", b"v")]), ..Content::default() };
    let all = [
        (
            "record, plain",
            encode_record(&path(), &first, &plain, &small),
            "01270d736563726574732f6e732f6462696e6361726e617401aaaaaaaaaaaaaaaa01000001016b0176",
        ),
        (
            "record, of the Secret",
            encode_record(&path(), &first, &secret, &small),
            "01270d736563726574732f6e732f6462696e6361726e617401aaaaaaaaaaaaaaaa01010001016b0176",
        ),
        (
            "record, full",
            encode_record(&path(), &version(), &marked(), &full_content()),
            "0186010d736563726574732f6e732f6462696e6361726e617403aaaaaaaaaaaaaaaaac02060201aaaaaaaaaaaaaaaa0702bbbbbbbbbbbbbbbb810101aaaaaaaaaaaaaaaa060201010101010101010100036f6c6402020202020202020c74686520646174616261736501047465616d016100020870617373776f726406733363723374047573657200",
        ),
        (
            "tombstone",
            encode_tombstone(&tombstone()),
            "02210d736563726574732f6e732f6462696e6361726e617403aaaaaaaaaaaaaaaaac02",
        ),
        (
            "chunk head",
            encode_head(&head()),
            "034c0d736563726574732f6e732f6462696e6361726e617403aaaaaaaaaaaaaaaaac026368756e6b73657409807ddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd",
        ),
        (
            "chunk body",
            encode_body(&path(), &head().stamp, head().set, (8, 9), b"part"),
            "042f0d736563726574732f6e732f6462696e6361726e617403aaaaaaaaaaaaaaaaac026368756e6b736574080970617274",
        ),
    ];
    for (name, bytes, expected) in &all {
        assert_eq!(hex(bytes), *expected, "{name}");
    }
}

#[test]
fn sealed_object() {
    let entries = [encode_tombstone(&tombstone()), encode_head(&head())];
    let replaced = [ObjectId(*b"replaced")];
    let value = seal(&keys(), ID, 258, NONCE, &replaced, &entries).unwrap();
    assert_eq!(ID.label(), "hsm.j5t.io/o/00010203fcfdfeff");
    assert_eq!(ObjectId::from_label(&ID.label()), Some(ID));
    assert_eq!(
        hex(&value),
        "f548010300010203fcfdfeff000000000000010272616e646f6d2d6e6f6e63651b4088385d735d16c8a0ca3451d6f5bcee387b5d01779d804c1279e22928ed7c1d0e1cb8809c564932aa23c4970d198f106bc699c2dd73ae86962987b57c89f4576f002b409da1a8026fb6ec90cfd28112f90a528597f2d128c28ab033fae17ac64352d67fe443ca7e0bb4953bdf3f02d62dc522f2a5dd60ae85aa576d3c93169e13cfb2deeeb5baddf8"
    );
    let opened = open(&keys(), ID, &value).unwrap();
    assert_eq!((opened.generation, opened.replaces), (258, replaced.to_vec()));
    assert!(matches!(&opened.entries[0], Entry::Tombstone(found) if *found == tombstone()));
    assert!(matches!(&opened.entries[1], Entry::Head(found) if *found == head()));
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let record = encode_record(&path(), &version(), &marked(), &full_content());
    let value = seal(&keys(), ID, 1, NONCE, &[], &[record]).unwrap();
    assert!(open(&keys(), ID, &value).is_ok());
    for bit in 0..value.len() * 8 {
        let mut altered = value.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&keys(), ID, &altered).is_err(), "bit {bit}");
    }
    for length in 0..value.len() {
        assert!(open(&keys(), ID, &value[..length]).is_err(), "{length} bytes");
    }
    let identity = encode_identity(TOKEN);
    for bit in 0..identity.len() * 8 {
        let mut altered = identity.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_identity(&altered).is_err(), "bit {bit}");
    }
    let other = StoreKeys::derive(TOKEN, *b"store-IE", &STORE_KEY).unwrap();
    assert_eq!(open(&other, ID, &value).err(), Some(Damage::Seal));
    let other = StoreKeys::derive(TOKEN, STORE, &[0x43; 32]).unwrap();
    assert_eq!(open(&other, ID, &value).err(), Some(Damage::Seal));
    let elsewhere = ObjectId(*b"elsewher");
    assert_eq!(open(&keys(), elsewhere, &value).err(), Some(Damage::WrongObject));
}

#[test]
fn what_a_newer_format_writes_is_not_skipped() {
    let framed = |kind: u8, bytes: &[u8]| {
        let mut entry = vec![kind, u8::try_from(bytes.len()).unwrap()];
        entry.extend_from_slice(bytes);
        Zeroizing::new(entry)
    };
    let good = encode_tombstone(&tombstone());
    let bad = [
        framed(0, b""),
        framed(8, b"something new"),
        framed(7, &[2]),
        framed(7, &[1, 0]),
        framed(1, &good[2..]),
    ];
    for entry in bad {
        let value = seal(&keys(), ID, 1, NONCE, &[], &[good.clone(), entry]).unwrap();
        assert!(matches!(open(&keys(), ID, &value), Err(Damage::Body(_))));
    }
    let itself = seal(&keys(), ID, 1, NONCE, &[ID], &[]).unwrap();
    assert!(matches!(open(&keys(), ID, &itself), Err(Damage::Body(_))));
    let mut newer = seal(&keys(), ID, 1, NONCE, &[], &[good]).unwrap();
    newer[2] = 2;
    assert_eq!(open(&keys(), ID, &newer).err(), Some(Damage::Newer(2)));
}

#[test]
fn what_a_record_costs() {
    // One key, one lineage entry, a mark; in a page of six that replaces one page.
    let mut version = version();
    version.lineage = Lineage::from([(epoch(1, 0xaa), 1000)]);
    version.counter = 1000;
    let content = Content { data: pairs(&[("password", &[b'x'; 150])]), ..Content::default() };
    let Origin::Token { mark: Some(mut mark) } = marked() else { panic!("it has a mark") };
    mark.keys.truncate(1);
    mark.stamp.counter = 1000;
    let entry = encode_record(&path(), &version, &Origin::Token { mark: Some(mark) }, &content);
    let useful = path().as_str().len() + content.data.size();
    let page = seal(&keys(), ID, u64::MAX, NONCE, &[ObjectId([9; 8])], &vec![entry; 6]).unwrap();
    let cost = page.len().div_ceil(6) - useful;
    assert!(cost <= 90, "{cost} bytes");
    assert_eq!(cost, 71);
    assert_eq!(encode_tombstone(&tombstone()).len(), 35);
}

/// For proptest, which wants to print what failed; the real one prints nothing.
struct Shown(RecordEntry);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let RecordEntry { version, origin, content, .. } = &self.0;
        let data: Vec<_> = content.data.iter().map(|(k, v)| (k, v.expose())).collect();
        write!(f, "{version:?} {origin:?} {:?} {data:?}", content.metadata)
    }
}

fn record_entry() -> impl Strategy<Value = Shown> {
    let names = "[a-z0-9._-]{1,12}";
    let texts = prop::collection::btree_map("[a-zé]{0,6}", "\\PC{0,8}", 0..3);
    let values = prop::collection::btree_map(names, prop::collection::vec(any::<u8>(), 0..80), 0..5);
    let lineage = prop::collection::btree_map((any::<u32>(), any::<u8>()), any::<u64>(), 0..4);
    let mark = prop::option::of((
        any::<u32>(),
        any::<u64>(),
        prop::collection::btree_map(names, any::<[u8; 8]>(), 0..4),
        any::<bool>(),
    ));
    let stamp = (any::<[u8; 8]>(), any::<u32>(), any::<u8>(), any::<u64>());
    (stamp, lineage, mark, values, "\\PC{0,10}", texts.clone(), texts).prop_map(
        |((life, number, writer, counter), lineage, mark, values, description, labels, attributes)| {
            let incarnation = Incarnation::from_bytes(life);
            let own = epoch(number, writer);
            let mut lineage: Lineage = lineage.into_iter().map(|((n, w), end)| (epoch(n, w), end)).collect();
            lineage.remove(&own);
            let data: Payload = values
                .into_iter()
                .filter_map(|(key, value)| Some((Key::new(key).ok()?, Value::new(value))))
                .collect();
            let origin = match mark {
                Some((_, _, _, true)) => Origin::Secret,
                None => Origin::Token { mark: None },
                Some((number, counter, keys, false)) => {
                    let mut keys: Vec<_> = keys
                        .into_iter()
                        .filter_map(|(key, digest)| {
                            Some((Key::new(key).ok()?, KeyDigest::from_bytes(digest)))
                        })
                        .collect();
                    let own = data.iter().map(|(key, _)| (key.clone(), KeyDigest::from_bytes([7; 8])));
                    keys.retain(|(key, _)| data.get(key.as_str()).is_none());
                    keys.extend(own);
                    let stamp = Stamp { incarnation, epoch: epoch(number, writer), counter };
                    Origin::Token { mark: Some(SecretMark { stamp, keys }) }
                }
            };
            Shown(RecordEntry {
                path: path(),
                version: Version { incarnation, epoch: own, counter, lineage },
                origin,
                content: Content { data, metadata: Metadata { description, labels, attributes } },
            })
        },
    )
}

proptest! {
    #[test]
    fn records_round_trip(Shown(record) in record_entry()) {
        let entry = encode_record(&record.path, &record.version, &record.origin, &record.content);
        let value = seal(&keys(), ID, 5, NONCE, &[], std::slice::from_ref(&entry)).unwrap();
        let mut opened = open(&keys(), ID, &value).unwrap();
        let Some(Entry::Record(found)) = opened.entries.pop() else {
            panic!("it is a record")
        };
        prop_assert_eq!(&found.path, &record.path);
        prop_assert_eq!(&found.version, &record.version);
        prop_assert_eq!(&found.origin, &record.origin);
        prop_assert_eq!(&found.content.metadata, &record.content.metadata);
        prop_assert!(found.content.data.same_as(&record.content.data));
        let again = encode_record(&found.path, &found.version, &found.origin, &found.content);
        prop_assert_eq!(&*again, &*entry);
    }

    #[test]
    fn whatever_the_bytes_parsing_ends_and_has_one_form(kind in 0u8..9, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Entry::Record(found)) = Entry::decode(kind, &bytes) {
            let again = encode_record(&found.path, &found.version, &found.origin, &found.content);
            prop_assert!(again.ends_with(&bytes));
        }
    }

    #[test]
    fn an_altered_record_is_an_error_or_another_record(Shown(record) in record_entry(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let mut entry = encode_record(&record.path, &record.version, &record.origin, &record.content).to_vec();
        let at = at.index(entry.len());
        entry[at] ^= flip;
        let value = seal(&keys(), ID, 5, NONCE, &[], &[Zeroizing::new(entry.clone())]).unwrap();
        if let Ok(opened) = open(&keys(), ID, &value)
            && let [Entry::Record(found)] = opened.entries.as_slice()
        {
            let again = encode_record(&found.path, &found.version, &found.origin, &found.content);
            prop_assert_eq!(again.to_vec(), entry);
        }
    }
}
