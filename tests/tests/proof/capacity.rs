//! SCENARIO 2 on a card of v6.6's limits: how much it takes, and what happens when it takes no more.

use faulty_pkcs11::ObjectKind;
use hsm_store::{Expect, PutRequest, StoreError};
use hsm_types::RecordPath;

use crate::bed::*;

/// Objects that may be at rest (DESIGN.md, "Frugal").
const AT_REST: usize = 116;
/// Objects that OpenSC shows; a create beyond is answered with CKR_OK and lost.
const VISIBLE: usize = 126;

fn name(number: usize) -> String {
    format!("secrets/team-{}/service-{number}", number % 7)
}

fn value(number: usize) -> Vec<u8> {
    let mut value = noise(150, u8::try_from(number % 251).unwrap());
    value[..8].copy_from_slice(&(number as u64).to_be_bytes());
    value
}

fn bundle() -> (Vec<u8>, Vec<u8>) {
    (noise(14_300, 7), noise(1_700, 8))
}

fn put_all(store: &mut ProofStore, numbers: std::ops::Range<usize>) {
    let requests: Vec<PutRequest> =
        numbers.map(|number| put(&name(number), &[("password", &value(number))])).collect();
    for outcome in store.put_all(&requests) {
        outcome.unwrap();
    }
}

#[test]
fn five_hundred_secrets_and_a_tls_bundle_on_one_card() {
    let world = World::formatted();
    let mut store = world.open();
    let (certificate, key) = bundle();
    store.put(&put("secrets/web/tls", &[("tls.crt", &certificate), ("tls.key", &key)])).unwrap();
    // As they come: a hundred at once, then one after another, while the owner packs when there is nothing to do.
    put_all(&mut store, 0..100);
    for number in 100..500 {
        store.put(&put(&name(number), &[("password", &value(number))])).unwrap();
        assert!(world.objects() <= VISIBLE, "{number}: an object would be lost from view");
        if number % 50 == 0 {
            world.idle(&mut store);
        }
    }
    world.idle(&mut store);
    assert!(world.objects() <= AT_REST, "{} objects at rest", world.objects());
    assert_eq!(store.index().counts().total(), world.objects(), "as the card counts them");
    eprintln!("500 secrets of 150 bytes and 16,000 bytes of TLS: {} objects at rest", world.objects());
    drop(store);

    let mut store = world.open();
    assert_eq!(store.index().entries().len(), 501);
    for number in 0..500 {
        let found = values(&mut store, &path(&name(number))).unwrap();
        assert!(found == one("password", &value(number)), "{number} is not byte-exact");
    }
    let found = values(&mut store, &path("secrets/web/tls")).unwrap().unwrap();
    assert!(found["tls.crt"] == certificate && found["tls.key"] == key);
    assert!(world.machine.objects(READER).unwrap().iter().all(|object| object.listed));
}

#[test]
fn a_full_card_refuses_before_anything_is_destroyed_and_goes_on() {
    let world = World::formatted();
    let mut store = world.open();
    // Records that no packing makes room for: an object each, and more than a third of a page.
    let big = |number: usize| noise(1_500, u8::try_from(number % 251).unwrap());
    let mut count = 0;
    let refused = loop {
        match store.put(&put(&name(count), &[("k", &big(count))])) {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
        assert!(count < AT_REST, "never full");
    };
    assert!(matches!(refused, StoreError::TokenFull { .. }), "{refused}");
    world.settle(&mut store);
    assert_eq!(world.objects(), AT_REST);

    let before = (world.machine.objects(READER).unwrap(), world.machine.counters(READER).unwrap().writes);
    for size in [1_500, 16_000] {
        let refused = store.put(&put("one/too-many", &[("k", &noise(size, 1))]));
        assert!(matches!(refused, Err(StoreError::TokenFull { .. })), "{refused:?}");
    }
    // A batch that does not fit is refused as well, where it does not fit.
    let batch: Vec<PutRequest> =
        (0..3).map(|number| put(&format!("batch/{number}"), &[("k", &noise(1_500, 2))])).collect();
    for outcome in store.put_all(&batch) {
        assert!(matches!(outcome, Err(StoreError::TokenFull { .. })), "{outcome:?}");
    }
    let after = (world.machine.objects(READER).unwrap(), world.machine.counters(READER).unwrap().writes);
    assert!(before == after, "a refusal changed the card");

    // Replace and delete go on, and what was deleted makes room.
    for number in [0, 1, count - 1] {
        store.put(&put(&name(number), &[("k", &big(number + 1))])).unwrap();
        assert!(world.objects() <= VISIBLE);
    }
    let gone: Vec<RecordPath> = [2, 3, 4].map(|number| path(&name(number))).to_vec();
    for path in &gone {
        store.delete(path, Expect::Any).unwrap();
    }
    world.settle(&mut store);
    store.put(&put("one/more", &[("k", &big(7))])).unwrap();
    world.idle(&mut store);
    assert!(world.objects() <= AT_REST);
    drop(store);

    let mut store = world.open();
    assert!(store.index().damaged().is_empty());
    for number in 0..count {
        let wanted = match number {
            2..=4 => None,
            0 | 1 => one("k", &big(number + 1)),
            _ if number == count - 1 => one("k", &big(number + 1)),
            _ => one("k", &big(number)),
        };
        assert!(values(&mut store, &path(&name(number))).unwrap() == wanted, "{number}");
    }
    assert!(values(&mut store, &path("one/more")).unwrap() == one("k", &big(7)));
    assert_eq!(world.count(ObjectKind::Ghost) + world.count(ObjectKind::Orphan), 0);
}
