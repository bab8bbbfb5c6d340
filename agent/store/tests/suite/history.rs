//! Earlier values: kept where there is room, listed, read, brought back, and never served as the current one.

use std::time::Duration;

use hsm_store::testing::{Call, World};
use hsm_store::{Clock, Expect, Replica, StoreError};
use hsm_token::Limits;
use hsm_types::{Digest, Origin, Presence, Stamp, WriterId};

use crate::common::*;

fn keep(store: &mut MemoryStore, name: &str, value: &[u8], history: usize) -> Stamp {
    let mut request = put(name, &[("k", value)]);
    request.keep_history = history;
    store.put(&request).unwrap().revision.version.stamp()
}

fn stamps(store: &MemoryStore, name: &str) -> Vec<Stamp> {
    match store.history(&path(name)) {
        Presence::Present(history) => history.iter().map(|revision| revision.version.stamp()).collect(),
        other => panic!("{name}: {other:?}"),
    }
}

fn earlier(store: &mut MemoryStore, name: &str, stamp: Stamp) -> Option<Vec<u8>> {
    match store.history_value(&path(name), stamp).unwrap() {
        Presence::Present(record) => Some(record.content.data.get("k").unwrap().expose().to_vec()),
        Presence::Absent => None,
        Presence::Unknown(why) => panic!("{why}"),
    }
}

fn wait(world: &World, store: &mut MemoryStore) {
    world.clock().sleep(Duration::from_secs(2));
    store.settle().unwrap();
    world.clock().sleep(Duration::from_secs(2));
}

/// Puts values one after another and keeps `count`; checks what is kept each time, before and after it has settled.
fn succession(limits: Limits, sizes: &[usize], count: usize, kept: impl Fn(usize) -> usize) {
    let world = formatted(limits);
    let mut store = open(&world);
    let mut past: Vec<(Stamp, Vec<u8>)> = Vec::new();
    for (round, size) in sizes.iter().enumerate() {
        let value = noise(*size, u8::try_from(round).unwrap());
        let stamp = keep(&mut store, "a", &value, count);
        past.insert(0, (stamp, value.clone()));
        let expected: Vec<Stamp> =
            past.iter().skip(1).take(count.min(kept(round))).map(|(stamp, _)| *stamp).collect();
        let check = |store: &mut MemoryStore, what: &str| {
            assert_eq!(stamps(store, "a"), expected, "{what} {round} {sizes:?}");
            assert_eq!(values(store, "a"), one("k", &value));
            for (stamp, value) in past.iter().skip(1) {
                let found = earlier(store, "a", *stamp);
                assert_eq!(
                    found.as_ref(),
                    expected.contains(stamp).then_some(value),
                    "{what} {round} {sizes:?}"
                );
            }
            assert_eq!(earlier(store, "a", past[0].0), None, "the current value is not history");
        };
        check(&mut store, "at once");
        check(&mut open(&world), "opened");
        store = open(&world);
        wait(&world, &mut store);
        check(&mut store, "settled");
    }
    keep(&mut store, "a", b"last", 0);
    assert!(stamps(&store, "a").is_empty());
    wait(&world, &mut store);
    assert_eq!(sealed(&world).len(), 1);
}

#[test]
fn values_ride_beside_a_small_record() {
    succession(Limits::SOFTWARE, &[20; 6], 3, |_| 3);
    succession(Limits::SC_HSM, &[20; 6], 3, |_| 3);
    // What does not fit beside a small record is not kept where objects are counted.
    succession(Limits::SC_HSM, &[400; 3], 3, |_| 0);
    succession(Limits::SOFTWARE, &[800; 5], 3, |_| 3);
}

#[test]
fn values_of_larger_records_lie_apart() {
    for limits in [Limits::SOFTWARE, Limits::SC_HSM] {
        succession(limits, &[1_500; 5], 2, |_| 2);
        succession(limits, &[5_000; 5], 2, |_| 2);
        succession(limits, &[5_000, 1_500, 9_000, 600, 700], 3, |_| 3);
    }
    succession(Limits::SOFTWARE, &[5_000, 10, 1_900, 20, 3_000, 30], 4, |_| 4);
}

#[test]
fn a_small_replace_that_keeps_history_is_one_create_and_one_destroy() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    for round in 0..5 {
        keep(&mut store, "a", &[round; 20], 2);
        wait(&world, &mut store);
    }
    world.take_calls();
    keep(&mut store, "a", b"new", 2);
    wait(&world, &mut store);
    let expected = [Call::Read, Call::Create, Call::Read, Call::Read, Call::Destroy];
    assert_eq!(world.take_calls(), expected);
}

#[test]
fn an_earlier_value_is_brought_back_as_a_new_version() {
    for (limits, size) in [(Limits::SC_HSM, 20), (Limits::SC_HSM, 5_000), (Limits::SOFTWARE, 1_000)] {
        let world = formatted(limits);
        let mut store = open(&world);
        let (old, new) = (noise(size, 1), noise(size, 2));
        let first = keep(&mut store, "a", &old, 3);
        let second = keep(&mut store, "a", &new, 3);
        let stale = store.restore(&path("a"), first, Expect::Stamp(first)).unwrap_err();
        assert!(matches!(stale, StoreError::VersionMismatch { .. }));
        let restored = store.restore(&path("a"), first, Expect::Stamp(second)).unwrap();
        assert!(restored.written);
        assert_eq!(restored.revision.version.to_string(), "1.3");
        assert_eq!(values(&mut store, "a"), one("k", &old));
        assert_eq!(stamps(&store, "a")[0], second);
        assert_eq!(earlier(&mut store, "a", second), Some(new));
        let unknown = Stamp { counter: 99, ..first };
        assert!(matches!(store.restore(&path("a"), unknown, Expect::Any), Err(StoreError::Invalid(_))));
        // History ends with its life.
        store.delete(&path("a"), Expect::Any).unwrap();
        assert!(store.history(&path("a")).is_absent());
        assert!(matches!(store.restore(&path("a"), first, Expect::Any), Err(StoreError::Invalid(_))));
        wait(&world, &mut store);
        assert_eq!(sealed(&world).len(), 1);
    }
}

#[test]
fn a_mirror_keeps_as_many_as_it_had() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    keep(&mut store, "a", b"1", 2);
    keep(&mut store, "a", b"2", 2);
    keep(&mut store, "a", b"3", 2);
    let current = store.index().entries()[&path("a")].head().unwrap().revision.clone();
    let version = current.version.next(WriterId::from_bytes([9; 8]), &[], false);
    let content = content(&[("k", b"4")]);
    let digest = Digest::of(&path("a"), version.incarnation, &content);
    let revision = hsm_types::Revision { version, digest, origin: Origin::Token { mark: None } };
    store.replicate(&Replica { path: path("a"), revision, content }).unwrap();
    assert_eq!(values(&mut store, "a"), one("k", b"4"));
    let counters: Vec<u64> = stamps(&store, "a").iter().map(|stamp| stamp.counter).collect();
    assert_eq!(counters, [3, 2]);
    wait(&world, &mut store);
    assert_eq!(sealed(&world).len(), 1);
}

#[test]
fn history_goes_before_anything_is_refused() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    for round in 0..3 {
        keep(&mut store, "small", &[round; 20], 3);
        keep(&mut store, "large", &noise(1_200, round), 3);
        keep(&mut store, "chunks", &noise(5_000, round), 3);
        wait(&world, &mut store);
    }
    assert_eq!((stamps(&store, "large").len(), stamps(&store, "chunks").len()), (2, 2));
    let mut count = 0;
    while store.put(&put(&format!("r/{count}"), &[("k", &noise(1_200, 9))])).is_ok() {
        count += 1;
    }
    // 5 of the store, one of `large`, four of `chunks`; `small` has joined one of the others in a page.
    assert_eq!(count, 116 - 5 - 5);
    let mut store = open(&world);
    assert!(stamps(&store, "large").is_empty() && stamps(&store, "chunks").is_empty());
    assert_eq!(values(&mut store, "small"), one("k", &[2; 20]));
    assert_eq!(values(&mut store, "large"), one("k", &noise(1_200, 2)));
    assert_eq!(values(&mut store, "chunks"), one("k", &noise(5_000, 2)));
}
