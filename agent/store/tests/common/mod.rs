//! What the tests of the store share.
#![allow(dead_code, unreachable_pub)]

use std::sync::atomic::{AtomicUsize, Ordering};

use hsm_store::testing::{MemoryToken, World};
use hsm_store::{Expect, PutOrigin, PutRequest, Store};
use hsm_token::Limits;
use hsm_types::{Content, Key, Metadata, Payload, Presence, RecordPath, Value};

pub type MemoryStore = Store<MemoryToken>;

/// A lock file of its own: tests run side by side.
pub fn lock_file() -> std::path::PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let dir = std::env::temp_dir().join(format!("hsm-store-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string())
}

pub fn path(text: &str) -> RecordPath {
    RecordPath::new(text).unwrap()
}

pub fn content(pairs: &[(&str, &[u8])]) -> Content {
    let data: Payload = pairs
        .iter()
        .map(|(key, value)| (Key::new(*key).unwrap(), Value::new(value.to_vec())))
        .collect();
    Content {
        data,
        metadata: Metadata::default(),
    }
}

pub fn put(name: &str, pairs: &[(&str, &[u8])]) -> PutRequest {
    PutRequest {
        path: path(name),
        expect: Expect::Any,
        content: content(pairs),
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
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

pub type Values = Vec<(String, Vec<u8>)>;

/// The record's values; `None` if it is known to be absent.
pub fn values(store: &mut MemoryStore, name: &str) -> Option<Values> {
    match store.get(&path(name)).unwrap() {
        Presence::Present(record) => Some(
            record
                .content
                .data
                .iter()
                .map(|(key, value)| (key.as_str().to_owned(), value.expose().to_vec()))
                .collect(),
        ),
        Presence::Absent => None,
        Presence::Unknown(why) => panic!("{name} is unknown: {why}"),
    }
}

/// How many sealed objects the token holds.
pub fn sealed(world: &World) -> usize {
    let objects = world.objects();
    objects
        .iter()
        .filter(|(label, _)| label.starts_with("hsm.j5t.io/o/"))
        .count()
}

/// Bytes that look like nothing else and are the same each time.
pub fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .collect()
}
