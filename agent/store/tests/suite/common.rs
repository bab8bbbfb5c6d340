//! What the tests share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use hsm_store::testing::{MemoryToken, World};
use hsm_store::{Expect, PutOrigin, PutRequest, Store};
use hsm_token::Limits;
use hsm_types::{Content, Key, Metadata, Payload, Presence, RecordPath, Value};

pub type MemoryStore = Store<MemoryToken>;
pub type Values = Vec<(String, Vec<u8>)>;

/// A lock file for each thread: tests run side by side.
pub fn lock_file() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    let dir = std::env::temp_dir().join(format!("hsm-store-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(NUMBER.with(usize::to_string))
}

pub fn path(text: &str) -> RecordPath {
    RecordPath::new(text).unwrap()
}

pub fn content(pairs: &[(&str, &[u8])]) -> Content {
    let data: Payload =
        pairs.iter().map(|(key, value)| (Key::new(*key).unwrap(), Value::new(value.to_vec()))).collect();
    Content { data, metadata: Metadata::default() }
}

pub fn put(name: &str, pairs: &[(&str, &[u8])]) -> PutRequest {
    PutRequest {
        path: path(name),
        expect: Expect::Any,
        content: content(pairs),
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    }
}

pub fn formatted(limits: Limits) -> World {
    let world = World::new(limits);
    let mut options = world.options(lock_file());
    Store::format(&mut world.connect(), None, &mut options).unwrap();
    world
}

pub fn open(world: &World) -> MemoryStore {
    open_with(world.connect(), world)
}

pub fn open_with(token: MemoryToken, world: &World) -> MemoryStore {
    match Store::open(token, world.options(lock_file())) {
        Ok(store) => store,
        Err((_, error)) => panic!("open: {error}"),
    }
}

/// The record's values; `None` if it is known to be absent.
pub fn values(store: &mut MemoryStore, name: &str) -> Option<Values> {
    match store.get(&path(name)).unwrap() {
        Presence::Present(record) => {
            let data = &record.content.data;
            let pairs = data.iter().map(|(key, value)| (key.as_str().to_owned(), value.expose().to_vec()));
            Some(pairs.collect())
        }
        Presence::Absent => None,
        Presence::Unknown(why) => panic!("{name} is unknown: {why}"),
    }
}

/// The values of a record with one key, as [`values`] gives them.
#[allow(clippy::unnecessary_wraps)]
pub fn one(key: &str, value: &[u8]) -> Option<Values> {
    Some(vec![(key.to_owned(), value.to_vec())])
}

/// Labels of the sealed objects on the token.
pub fn sealed(world: &World) -> Vec<String> {
    let labels = world.objects().into_iter().map(|(label, _)| label);
    labels.filter(|label| label.starts_with("hsm.j5t.io/o/")).collect()
}

/// Bytes that look like nothing else and are the same each time.
pub fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
