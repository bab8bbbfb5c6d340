//! The vector of export format 1, and what is not an export.

use hsm_types::{
    Content, Digest, EpochId, Incarnation, Key, KeyDigest, Lineage, Origin, Payload, RecordPath, Revision,
    SecretMark, Value, Version, WriterId,
};

use super::*;

/// The stream of [`sample`]. A change of it is a new format version.
const VECTOR: &str = include_str!("vector.hex");

fn epoch(number: u32, writer: u8) -> EpochId {
    EpochId { number, writer: WriterId::from_bytes([writer; 8]) }
}

fn replica(path: &str, counter: u64, origin: Origin, pairs: &[(&str, &[u8])]) -> Replica {
    let path = RecordPath::new(path).unwrap();
    let incarnation = Incarnation::from_bytes([7; 8]);
    let data: Payload = pairs.iter().map(|(k, v)| (Key::new(*k).unwrap(), Value::new(v.to_vec()))).collect();
    let mut content = Content { data, ..Content::default() };
    content.metadata.labels.insert("team".into(), "a".into());
    let digest = Digest::of(&path, incarnation, &content);
    let lineage = Lineage::from([(epoch(1, 0xaa), 3)]);
    let version = Version { incarnation, epoch: epoch(2, 0xbb), counter, lineage };
    Replica { path, revision: Revision { version, digest, origin }, content }
}

fn sample() -> (Header, Vec<Item>) {
    let header = Header {
        token_id: "6f9b2d1e-8c3a-4e57-9b1d-0a2f4c6e8d10".parse().unwrap(),
        made_by: "hsm-agent 0.1.0".into(),
        prefix: String::new(),
    };
    let record = replica("secrets/a/b", 2, Origin::Secret, &[("empty", b""), ("k", &[0, 0xff])]);
    let mark = SecretMark {
        stamp: record.revision.version.stamp(),
        keys: vec![(Key::new("k").unwrap(), KeyDigest::from_bytes([9; 8]))],
    };
    let marked = replica("secrets/a/c", 1, Origin::Token { mark: Some(mark) }, &[("k", b"v")]);
    let earlier = replica("secrets/a/c", 1, Origin::Token { mark: None }, &[("k", b"w")]);
    let stamp = record.revision.version.stamp();
    let dead = RecordPath::new("dead").unwrap();
    let tombstone = Tombstone { path: dead, incarnation: stamp.incarnation, stamp };
    let missing = Missing { what: "hsm.j5t.io/o/00".into(), why: "cut".into() };
    let items = vec![
        Item::Record(record),
        Item::Record(marked),
        Item::Earlier(earlier),
        Item::Tombstone(tombstone),
        Item::Missing(missing),
    ];
    (header, items)
}

fn stream() -> Vec<u8> {
    let (header, items) = sample();
    let mut writer = Writer::begin(Vec::new(), &header).unwrap();
    for item in &items {
        writer.put(item).unwrap();
    }
    writer.finish().unwrap().0
}

fn read_stream(bytes: &[u8]) -> Result<Export, ExportError> {
    Reader::whole(bytes)
}

#[test]
fn the_format_has_not_moved() {
    let stream = stream();
    assert_eq!(crate::hex::text(&stream), VECTOR.split_whitespace().collect::<String>());
    let export = read_stream(&stream).ok().unwrap();
    let (header, items) = sample();
    assert_eq!(export.header, header);
    assert_eq!(export.counts, Counts { records: 2, earlier: 1, tombstones: 1, missing: 1 });
    for (read, wrote) in export.items.iter().zip(&items) {
        match (read, wrote) {
            (Item::Record(a), Item::Record(b)) | (Item::Earlier(a), Item::Earlier(b)) => {
                assert_eq!((&a.path, &a.revision), (&b.path, &b.revision));
                assert!(a.content.data.same_as(&b.content.data));
                assert_eq!(a.content.metadata, b.content.metadata);
            }
            (Item::Tombstone(a), Item::Tombstone(b)) => assert_eq!(a, b),
            (Item::Missing(a), Item::Missing(b)) => assert_eq!(a, b),
            _ => panic!("another kind of entry"),
        }
    }
}

#[test]
fn a_stream_that_is_cut_or_altered_anywhere_is_refused() {
    let stream = stream();
    for length in 0..stream.len() {
        assert!(read_stream(&stream[..length]).is_err(), "cut at {length}");
    }
    for at in 0..stream.len() {
        let mut altered = stream.clone();
        altered[at] ^= 1;
        assert!(read_stream(&altered).is_err(), "altered at {at}");
    }
    let longer = [stream.as_slice(), b"x"].concat();
    assert!(matches!(read_stream(&longer), Err(ExportError::Damaged(_))));
}

#[test]
fn what_it_is_not_is_said() {
    assert!(matches!(read_stream(b"not an export"), Err(ExportError::NotOurs)));
    let mut newer = stream();
    newer[7] = 2;
    assert!(matches!(read_stream(&newer), Err(ExportError::Newer(2))));
}

fn draft(dir: &std::path::Path, lock: &Lock) -> Draft {
    let (header, items) = sample();
    let mut draft = Draft::begin(&dir.join("out"), lock, &header).unwrap();
    for item in &items {
        draft.put(item).unwrap();
    }
    draft
}

#[test]
fn a_passphrase_file_is_encrypted_checked_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let lock = Lock::Passphrase("correct horse".to_owned().into());
    let unlock = lock.unlock().unwrap();
    let (counts, verified) = draft(dir.path(), &lock).publish(Some(&unlock), false).unwrap();
    assert_eq!((counts.records, verified), (2, Verified::Decrypted));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = std::fs::read(&file).unwrap();
    assert!(bytes.starts_with(b"age-encryption.org/v1\n"));
    assert!(!bytes.windows(9).any(|w| w == b"secrets/a"));

    let again = draft(dir.path(), &lock).publish(None, false).map(|_| ()).unwrap_err();
    assert!(again.to_string().contains("--force"), "{again}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes, "what was there is still there");
    assert!(!dir.path().join("out.part").exists());

    let other = Unlock::Passphrase("wrong".to_owned().into());
    assert!(matches!(read(&file, &other), Err(ExportError::Locked(_))));
    let mut altered = bytes.clone();
    *altered.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &altered).unwrap();
    assert!(matches!(read(&file, &unlock), Err(ExportError::Damaged(_))));
    std::fs::write(&file, &bytes[..bytes.len() - 20]).unwrap();
    assert!(matches!(read(&file, &unlock), Err(ExportError::Damaged(_))));
    std::fs::write(&file, "a text").unwrap();
    assert!(matches!(read(&file, &unlock), Err(ExportError::NotAge(_))));
}

#[test]
fn any_of_the_recipients_opens_a_file_and_nobody_else() {
    use age::secrecy::ExposeSecret as _;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    let (one, two, three) = (
        age::x25519::Identity::generate(),
        age::x25519::Identity::generate(),
        age::x25519::Identity::generate(),
    );
    let list = dir.path().join("recipients");
    std::fs::write(&list, format!("# two\n\n{}\n", two.to_public())).unwrap();
    let lock = Lock::recipients(&[one.to_public().to_string()], Some(&list)).unwrap();
    let (_, verified) = draft(dir.path(), &lock).publish(lock.unlock().as_ref(), false).unwrap();
    assert_eq!(verified, Verified::Bytes);
    let unlock = |identity: &age::x25519::Identity| {
        let key = dir.path().join("key");
        std::fs::write(&key, format!("# key\n{}\n", identity.to_string().expose_secret())).unwrap();
        Unlock::identities(&key).unwrap()
    };
    assert_eq!(read(&file, &unlock(&one)).ok().unwrap().counts.records, 2);
    assert_eq!(read(&file, &unlock(&two)).ok().unwrap().counts.records, 2);
    assert!(matches!(read(&file, &unlock(&three)), Err(ExportError::Locked(_))));
    let passphrase = Unlock::Passphrase("x".to_owned().into());
    let why = read(&file, &passphrase).map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("--identity"), "{why}");
}

#[test]
fn keys_that_cannot_be_used_are_refused_without_being_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    let why = |result: Result<(), ExportError>| result.unwrap_err().to_string();
    let lock = |given: &str| Lock::recipients(&[given.to_owned()], None).map(|_| ());
    assert!(why(Lock::recipients(&[], None).map(|_| ())).contains("nobody"));
    let secret = why(lock("AGE-SECRET-KEY-1CANARY"));
    assert!(!secret.contains("CANARY") && secret.contains("age1"), "{secret}");
    std::fs::write(&file, "\n").unwrap();
    assert!(why(passphrase(&file).map(|_| ())).contains("empty"));
    std::fs::write(&file, "CANARY\nb\n").unwrap();
    assert!(why(passphrase(&file).map(|_| ())).contains("one line"));
    let identity = why(Unlock::identities(&file).map(|_| ()));
    assert!(identity.contains("AGE-SECRET-KEY-1…") && !identity.contains("CANARY"), "{identity}");
}
