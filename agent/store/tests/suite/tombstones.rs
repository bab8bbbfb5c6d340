//! Tombstones: packed, listed, buried, forgotten.

use std::time::Duration;

use hsm_store::{Clock, Expect, StoreError};
use hsm_token::Limits;
use hsm_types::{EpochId, Incarnation, Stamp, Tombstone, WriterId};

use crate::common::*;

#[test]
fn a_new_record_of_the_same_name_is_safe_from_an_old_tombstone() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    let first = store.put(&put("a", &[("k", b"1")])).unwrap().revision;
    store.delete(&path("a"), Expect::Any).unwrap();
    let second = store.put(&put("a", &[("k", b"1")])).unwrap().revision;
    assert_ne!(first.version.incarnation, second.version.incarnation);
    let mut store = open(&world);
    assert_eq!(values(&mut store, "a"), one("k", b"1"));
    let tombstones: Vec<Tombstone> = store.index().tombstones().cloned().collect();
    assert_eq!(tombstones[0].stamp, first.version.stamp());
}

#[test]
fn tombstones_are_packed_and_none_is_lost_by_packing() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    for number in 0..150 {
        let name = format!("secrets/ns/{number}");
        store.put(&put(&name, &[("k", b"v")])).unwrap();
        store.delete(&path(&name), Expect::Any).unwrap();
        if number % 40 == 0 {
            store = open(&world);
        }
    }
    world.clock().sleep(Duration::from_secs(2));
    store.settle().unwrap();
    let store = open(&world);
    assert_eq!(store.index().tombstones().count(), 150);
    assert!(sealed(&world).len() <= 7, "{}", sealed(&world).len());
}

#[test]
fn a_tombstone_is_forgotten_only_when_no_copy_is_left() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    for name in ["a", "b"] {
        store.put(&put(name, &[("k", b"1")])).unwrap();
        store.delete(&path(name), Expect::Any).unwrap();
    }
    let tombstones: Vec<Tombstone> = store.index().tombstones().cloned().collect();
    for tombstone in &tombstones {
        assert!(store.forget_tombstone(&tombstone.path, tombstone.incarnation).unwrap());
        assert!(!store.forget_tombstone(&tombstone.path, tombstone.incarnation).unwrap());
        // Whatever the flash loses now, the deleted record does not come back.
        let lossy = world.fork();
        lossy.power_loss(|_| false);
        let mut store = open(&lossy);
        assert_eq!(values(&mut store, "a"), None);
        assert_eq!(values(&mut store, "b"), None);
    }
    assert_eq!(store.index().tombstones().count(), 0);
    assert!(store.index().entries().is_empty());
    world.clock().sleep(Duration::from_secs(2));
    store.settle().unwrap();
    assert!(sealed(&world).is_empty());
}

#[test]
fn many_lives_are_buried_at_once() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let tombstones: Vec<Tombstone> = (0..100u8)
        .map(|number| {
            let incarnation = Incarnation::from_bytes([number; 8]);
            let epoch = EpochId { number: 1, writer: WriterId::from_bytes([1; 8]) };
            Tombstone {
                path: path(&format!("secrets/ns/{number}")),
                incarnation,
                stamp: Stamp { incarnation, epoch, counter: 1 },
            }
        })
        .collect();
    assert!(store.bury(&tombstones).unwrap());
    assert_eq!(open(&world).index().tombstones().count(), 100);
    assert!(sealed(&world).len() <= 4, "{}", sealed(&world).len());
    let mut wrong = tombstones[0].clone();
    wrong.incarnation = Incarnation::from_bytes([200; 8]);
    assert!(matches!(store.bury(&[wrong]), Err(StoreError::Invalid(_))));
}
