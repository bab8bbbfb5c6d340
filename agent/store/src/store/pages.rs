//! What is read whoever wrote it: pages of several records, history, markers, in every mixture.

use hsm_token::Limits;
use hsm_types::{
    Content, Digest, Incarnation, Key, Origin, Payload, Presence, RecordPath, Tombstone, Value, Version,
    WriterId,
};
use zeroize::Zeroizing;

use super::*;
use crate::catalog::Objects;
use crate::format::{
    ChunkHead, SetId, encode_body, encode_head, encode_record, encode_tail, encode_tombstone, seal,
};
use crate::testing::{MemoryToken, World};

type Entries = Vec<Zeroizing<Vec<u8>>>;

const NONE: Origin = Origin::Token { mark: None };

struct Bench {
    world: World,
    lock: std::path::PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let lock = std::env::temp_dir().join(format!("hsm-store-pages-{name}-{}", std::process::id()));
        let world = World::new(Limits::SOFTWARE);
        Store::format(&mut world.connect(), None, &mut world.options(&lock)).unwrap();
        Self { world, lock }
    }

    fn open(&self) -> Store<MemoryToken> {
        Store::open(self.world.connect(), self.world.options(&self.lock)).ok().unwrap()
    }

    /// Puts an object on the token as a later version would write it.
    fn plant(&self, id: u8, generation: u64, replaces: &[u8], entries: &Entries) {
        let replaces: Vec<ObjectId> = replaces.iter().map(|id| object(*id)).collect();
        let value = seal(&self.open().keys, object(id), generation, [id; 12], &replaces, entries).unwrap();
        self.world.plant(&object(id).label(), &value);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.lock);
    }
}

fn object(id: u8) -> ObjectId {
    ObjectId([id; 8])
}

fn path(name: &str) -> RecordPath {
    RecordPath::new(name).unwrap()
}

fn content(value: &[u8]) -> Content {
    let data: Payload = [(Key::new("k").unwrap(), Value::new(value.to_vec()))].into_iter().collect();
    Content { data, ..Content::default() }
}

fn version(life: u8, counter: u64) -> Version {
    let first = Version::first(Incarnation::from_bytes([life; 8]), WriterId::from_bytes([1; 8]));
    Version { counter, ..first }
}

fn record(name: &str, life: u8, counter: u64) -> Zeroizing<Vec<u8>> {
    let value = format!("{name}.{counter}");
    encode_record(&path(name), &version(life, counter), &NONE, &content(value.as_bytes()))
}

fn history(name: &str, life: u8, counter: u64) -> Zeroizing<Vec<u8>> {
    let mut entry = record(name, life, counter);
    entry[0] = 5;
    entry
}

fn tombstone(name: &str, life: u8) -> Zeroizing<Vec<u8>> {
    encode_tombstone(&Tombstone {
        path: path(name),
        incarnation: Incarnation::from_bytes([life; 8]),
        stamp: version(life, 9).stamp(),
    })
}

fn put(name: &str, value: &[u8]) -> PutRequest {
    PutRequest {
        path: path(name),
        expect: Expect::Any,
        content: content(value),
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    }
}

fn value(store: &mut Store<MemoryToken>, name: &str) -> Option<String> {
    match store.get(&path(name)).unwrap() {
        Presence::Present(record) => {
            let value = record.content.data.get("k").unwrap();
            Some(String::from_utf8_lossy(value.expose()).into_owned())
        }
        Presence::Absent => None,
        Presence::Unknown(why) => panic!("{name} is unknown: {why}"),
    }
}

fn ids(objects: &Objects) -> Vec<u8> {
    objects.keys().map(|id| id.0[0]).collect()
}

#[test]
fn a_record_leaves_its_page_by_a_put_and_the_others_stay() {
    let bench = Bench::new("leave");
    bench.plant(1, 1, &[], &vec![record("a", 1, 1), record("b", 2, 1), record("c", 3, 1)]);
    let mut store = bench.open();
    assert_eq!(value(&mut store, "b").as_deref(), Some("b.1"));
    let outcome = store.put(&put("b", b"new")).unwrap();
    assert!(outcome.written);
    for (name, expected) in [("a", "a.1"), ("b", "new"), ("c", "c.1")] {
        assert_eq!(value(&mut bench.open(), name).as_deref(), Some(expected), "{name}");
    }
    let mut store = bench.open();
    assert_eq!((store.objects.len(), store.pending()), (2, 0));
    store.delete(&path("a"), Expect::Any).unwrap();
    assert!(store.objects.contains_key(&object(1)));
    // With the last record the page goes.
    store.put(&put("c", b"newer")).unwrap();
    assert!(!store.objects.contains_key(&object(1)));
    assert_eq!(value(&mut store, "a"), None);
    assert_eq!(value(&mut store, "c").as_deref(), Some("newer"));
}

#[test]
fn a_replaced_page_is_never_read_again() {
    let bench = Bench::new("replaced");
    // Page 2 was made from page 1 after `gone` was deleted and its tombstone forgotten.
    bench.plant(1, 1, &[], &vec![record("a", 1, 1), record("gone", 2, 1)]);
    bench.plant(2, 2, &[1], &vec![record("a", 1, 1)]);
    let mut store = bench.open();
    assert_eq!(value(&mut store, "gone"), None);
    assert_eq!(value(&mut store, "a").as_deref(), Some("a.1"));
    assert_eq!(store.pending(), 1);
    store.settle().unwrap();
    assert_eq!(ids(&store.objects), [2]);
    // Only a younger object replaces: an old page put back does not hide the new one.
    bench.plant(3, 1, &[2], &vec![record("a", 1, 1)]);
    let mut store = bench.open();
    store.settle().unwrap();
    assert_eq!(ids(&store.objects), [2]);
}

#[test]
fn history_is_kept_listed_and_dies_with_its_life() {
    let bench = Bench::new("history");
    bench.plant(1, 1, &[], &vec![history("a", 1, 1), history("a", 1, 2), history("b", 2, 1)]);
    bench.plant(2, 2, &[], &vec![record("a", 1, 3)]);
    let mut store = bench.open();
    assert_eq!(value(&mut store, "a").as_deref(), Some("a.3"));
    let entry = &store.index().entries()[&path("a")];
    let counters: Vec<u64> = entry.history.iter().map(|head| head.revision.version.counter).collect();
    assert_eq!(counters, [2, 1]);
    // A value that is only history is not the record's value.
    assert_eq!(value(&mut store, "b"), None);
    store.put(&put("a", b"new")).unwrap();
    assert!(store.objects.contains_key(&object(1)));
    store.delete(&path("a"), Expect::Any).unwrap();
    assert!(store.index().entries()[&path("a")].history.is_empty());
    assert!(store.objects.contains_key(&object(1)), "b's history is in it");
    bench.plant(3, 9, &[], &vec![tombstone("b", 2)]);
    let mut store = bench.open();
    store.settle().unwrap();
    assert!(!store.objects.contains_key(&object(1)));
}

#[test]
fn a_page_of_everything_is_read() {
    let bench = Bench::new("mixed");
    let big = vec![b'x'; 100];
    let tail = encode_tail(&version(4, 1), &NONE, &content(&big));
    let head = ChunkHead {
        path: path("big"),
        stamp: version(4, 1).stamp(),
        set: SetId([7; 8]),
        chunks: 2,
        length: tail.len(),
        digest: Digest::of(&path("big"), version(4, 1).incarnation, &content(&big)),
    };
    let body = |index, part: &[u8]| encode_body(&head.path, &head.stamp, head.set, (index, 2), part);
    bench.plant(
        1,
        1,
        &[],
        &vec![
            record("a", 1, 1),
            tombstone("a", 9),
            encode_head(&head),
            body(1, &tail[60..]),
            body(0, &tail[..60]),
        ],
    );
    let mut store = bench.open();
    assert!(store.index().damaged().is_empty());
    assert_eq!(value(&mut store, "a").as_deref(), Some("a.1"));
    assert_eq!(store.index().entries()[&path("a")].tombstones.len(), 1);
    assert_eq!(value(&mut store, "big").unwrap().len(), 100);
}

#[test]
fn chunks_that_are_not_what_their_head_says_are_damage_of_that_record_alone() {
    let bench = Bench::new("broken");
    let tail = encode_tail(&version(4, 1), &NONE, &content(b"value"));
    let head = ChunkHead {
        path: path("big"),
        stamp: version(4, 1).stamp(),
        set: SetId([7; 8]),
        chunks: 1,
        length: tail.len(),
        digest: Digest::from_bytes([0; 32]),
    };
    let body = encode_body(&head.path, &head.stamp, head.set, (0, 1), &tail);
    bench.plant(1, 1, &[], &vec![record("a", 1, 1)]);
    bench.plant(2, 2, &[], &vec![body]);
    bench.plant(3, 3, &[], &vec![encode_head(&head)]);
    let mut store = bench.open();
    assert!(store.get(&path("big")).unwrap().is_unknown());
    assert!(matches!(store.put(&put("big", b"x")), Err(StoreError::Damaged { .. })));
    assert_eq!(value(&mut store, "a").as_deref(), Some("a.1"));
    assert_eq!(value(&mut store, "never"), None);
    assert_eq!(store.index().damaged()[0].path, Some(path("big")));
    store.settle().unwrap();
    assert_eq!(store.objects.len(), 3);
}

#[test]
fn a_marker_makes_the_token_unknown() {
    let bench = Bench::new("marker");
    bench.plant(1, 1, &[], &vec![record("a", 1, 1)]);
    bench.plant(2, 2, &[], &vec![Zeroizing::new(vec![7, 1, 1])]);
    let mut store = bench.open();
    assert!(store.get(&path("a")).unwrap().is_unknown());
    assert!(store.index().hides_records());
    assert_eq!(store.put(&put("a", b"x")), Err(StoreError::Compacting));
    assert_eq!(store.delete(&path("a"), Expect::Any), Err(StoreError::Compacting));
    assert_eq!(store.pending(), 0);
}

#[test]
fn a_damaged_page_hides_its_records_and_its_predecessor_is_read() {
    let bench = Bench::new("damaged");
    bench.plant(1, 1, &[], &vec![record("a", 1, 1), record("b", 2, 1)]);
    bench.plant(2, 2, &[1], &vec![record("a", 1, 2), record("b", 2, 1)]);
    bench.world.alter(&object(2).label(), |value| value[50] ^= 1);
    let mut store = bench.open();
    assert_eq!(value(&mut store, "b").as_deref(), Some("b.1"));
    assert!(store.get(&path("c")).unwrap().is_unknown());
    assert_eq!(store.pending(), 0);
}

#[test]
fn heads_that_diverged_in_one_page_are_all_kept() {
    let bench = Bench::new("diverged");
    let one = |value: &[u8]| encode_record(&path("a"), &version(1, 1), &NONE, &content(value));
    let other_life = record("a", 2, 1);
    bench.plant(1, 1, &[], &vec![one(b"left"), one(b"right"), other_life]);
    let mut store = bench.open();
    let Presence::Present(heads) = store.heads(&path("a")).unwrap() else { panic!("a is there") };
    let mut values: Vec<Vec<u8>> =
        heads.iter().map(|record| record.content.data.get("k").unwrap().expose().to_vec()).collect();
    values.sort();
    assert_eq!(values, [b"a.1".to_vec(), b"left".to_vec(), b"right".to_vec()]);
    store.delete(&path("a"), Expect::Stamp(version(1, 1).stamp())).unwrap();
    assert_eq!(value(&mut store, "a").as_deref(), Some("a.1"));
}

#[test]
fn a_chunk_head_that_moved_to_a_page_serves_from_there() {
    let bench = Bench::new("moved");
    let tail = encode_tail(&version(4, 1), &NONE, &content(b"value"));
    let head = ChunkHead {
        path: path("big"),
        stamp: version(4, 1).stamp(),
        set: SetId([7; 8]),
        chunks: 1,
        length: tail.len(),
        digest: Digest::of(&path("big"), version(4, 1).incarnation, &content(b"value")),
    };
    let body = encode_body(&head.path, &head.stamp, head.set, (0, 1), &tail);
    bench.plant(9, 1, &[], &vec![body]);
    bench.plant(1, 2, &[], &vec![encode_head(&head)]);
    bench.plant(2, 3, &[1], &vec![record("a", 1, 1), encode_head(&head)]);
    let mut store = bench.open();
    store.settle().unwrap();
    assert_eq!(ids(&store.objects), [2, 9]);
    assert_eq!(value(&mut store, "big").as_deref(), Some("value"));
}
