//! SCENARIO 2: the token's limits.

use std::time::Duration;

use hsm_store::{Clock, Expect, Remedy, StoreError};
use hsm_token::Limits;

use crate::common::*;

/// Identity, two copies of the store key, and the two halves of the key pair.
const OWN: usize = 5;

#[test]
fn lists_are_complete_up_to_the_limit() {
    for count in [0, 1, 99, 100, 101, 110, 111] {
        let world = formatted(Limits::SC_HSM);
        let mut store = open(&world);
        for number in 0..count {
            store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
        }
        let mut store = open(&world);
        assert_eq!(store.index().entries().len(), count);
        assert_eq!(store.index().counts().total(), count + OWN);
        if count > 0 {
            store.put(&put("r/0", &[("k", b"w")])).unwrap();
            assert_eq!(open(&world).index().entries().len(), count);
        }
    }
}

#[test]
fn at_the_limit_new_records_are_refused_and_the_rest_goes_on() {
    let world = formatted(Limits::SC_HSM);
    for number in 0..10 {
        world.plant(&format!("secrets/r/foreign-{number}"), b"not ours");
    }
    let mut store = open(&world);
    // So large that no two share a page.
    let (old, new) = (noise(1_200, 1), noise(1_200, 2));
    let room = 116 - OWN - 10;
    for number in 0..room {
        store.put(&put(&format!("r/{number}"), &[("k", &old)])).unwrap();
    }
    let before = world.objects();
    let full = store.put(&put("r/new", &[("k", &new)])).unwrap_err();
    assert_eq!(full, StoreError::TokenFull { objects: 116, needed: 1, limit: 116 });
    assert_eq!(full.remedy(), Remedy::Space);
    let grown = store.put(&put("r/1", &[("k", &noise(9_000, 1))])).unwrap_err();
    assert!(matches!(grown, StoreError::TokenFull { .. }));
    assert_eq!(world.objects(), before);
    // Replaces and deletions in a row, faster than the flash settles: the store waits where it has to.
    for number in 0..room {
        store.put(&put(&format!("r/{number}"), &[("k", &new)])).unwrap();
        assert!(world.objects().len() + 2 <= 122);
    }
    for number in 0..room {
        store.delete(&path(&format!("r/{number}")), Expect::Any).unwrap();
        assert!(world.objects().len() + 2 <= 122);
    }
    world.clock().sleep(Duration::from_secs(2));
    store.settle().unwrap();
    let store = open(&world);
    assert_eq!(store.index().counts().foreign, 10);
    assert_eq!(store.index().tombstones().count(), room);
    assert!(world.objects().len() < 20);
}

#[test]
fn the_old_copy_stays_until_the_flash_has_settled() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    store.put(&put("a", &[("k", b"1")])).unwrap();
    world.clock().sleep(Duration::from_secs(5));
    store.put(&put("a", &[("k", b"2")])).unwrap();
    assert_eq!((store.pending(), sealed(&world).len()), (1, 2));
    let due = store.settle().unwrap().unwrap();
    assert_eq!((due, sealed(&world).len()), (Duration::from_millis(1500), 2));
    world.clock().sleep(due);
    assert_eq!(store.settle().unwrap(), None);
    assert_eq!((store.pending(), sealed(&world).len()), (0, 1));
}

#[test]
fn what_a_crash_left_is_not_touched_by_reading() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    store.put(&put("a", &[("k", b"1")])).unwrap();
    store.put(&put("a", &[("k", b"2")])).unwrap();
    world.clock().sleep(Duration::from_secs(5));
    let mut store = open(&world);
    assert_eq!((store.pending(), sealed(&world).len()), (1, 2));
    for _ in 0..3 {
        world.clock().sleep(Duration::from_secs(5));
        store.refresh().unwrap();
        assert_eq!(values(&mut store, "a"), one("k", b"2"));
    }
    assert_eq!(sealed(&world).len(), 2);
    store.put(&put("b", &[("k", b"1")])).unwrap();
    assert_eq!(sealed(&world).len(), 2);
    assert_eq!(store.pending(), 0);
}
