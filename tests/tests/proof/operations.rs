//! SCENARIO 3, operation by operation: see `faults`.

use hsm_store::{Expect, StoreError};
use hsm_token::{Limits, Token as _, Visibility};

use crate::bed::*;
use crate::faults::{Case, enumerate, enumerate_all};

const SUBJECT: &str = "secrets/a/db";

/// Names that are prefixes of each other, a record in chunks, one without a value, and one that was deleted.
fn bystanders(world: &World, store: &mut ProofStore) {
    let records: [(&str, Vec<u8>); 4] = [
        ("secrets/a/db-prod", noise(40, 1)),
        ("secrets/a/d", noise(2_500, 2)),
        ("secrets/a/db/x", Vec::new()),
        ("secrets/a/gone", vec![1]),
    ];
    for (name, value) in records {
        store.put(&put(name, &[("k", &value)])).unwrap();
    }
    store.delete(&path("secrets/a/gone"), Expect::Any).unwrap();
    world.settle(store);
}

fn write(store: &mut ProofStore, value: &[u8]) -> Result<(), StoreError> {
    store.put(&put(SUBJECT, &[("k", value)])).map(drop)
}

const NEW: Case = Case {
    limits: None,
    setup: bystanders,
    operation: |_, store| write(store, b"new"),
    subject: SUBJECT,
    foreign: None,
    exact: true,
};

const REPLACED: Case = Case {
    setup: |world, store| {
        bystanders(world, store);
        write(store, b"old").unwrap();
    },
    ..NEW
};

const CHUNKED: Case = Case {
    setup: |world, store| {
        bystanders(world, store);
        write(store, &noise(5_000, 4)).unwrap();
    },
    operation: |_, store| write(store, &noise(3_000, 5)),
    ..NEW
};

const DELETED: Case =
    Case { operation: |_, store| store.delete(&path(SUBJECT), Expect::Any).map(drop), ..REPLACED };

const CHUNKS_DELETED: Case = Case { operation: DELETED.operation, ..CHUNKED };

/// A card on which objects are short after a few records.
const SMALL: Limits = Limits { objects_at_rest: Some(16), objects_in_passing: Some(22), ..Limits::SC_HSM };

fn fill(store: &mut ProofStore, records: std::ops::Range<u8>) {
    for number in records {
        store.put(&put(&format!("r/{number}"), &[("k", &noise(250, number))])).unwrap();
    }
}

const PACKED: Case = Case {
    limits: Some(SMALL),
    setup: |_, store| fill(store, 0..8),
    operation: |_, store| store.repack().map(drop),
    subject: "r/2",
    foreign: None,
    exact: false,
};

/// A page with a hole is written anew, while a record leaves it.
const REPACKED: Case = Case {
    setup: |world, store| {
        fill(store, 0..8);
        world.idle(store);
        for name in ["r/0", "r/1"] {
            store.put(&put(name, &[("k", &noise(250, 200))])).unwrap();
        }
        world.settle(store);
        fill(store, 8..10);
    },
    operation: |world, store| {
        store.put(&put("r/3", &[("k", &noise(250, 100))]))?;
        world.sleep();
        store.settle()?;
        while store.repack()? {}
        Ok(())
    },
    ..PACKED
};

/// A record as the Go operator writes it (TOKEN.md, section 7), beside ours and beside an object that is nobody's record.
const MIGRATED: Case = Case {
    setup: |world, store| {
        bystanders(world, store);
        let metadata =
            br#"{"description":"the db","labels":{"sync.version":"3"},"createdAt":"2025-01-01T00:00:00Z"}"#;
        let objects: [(&str, &[u8]); 4] = [
            ("app/db/username", b"admin"),
            ("app/db/password", b"s3cr3t"),
            ("app/db/_metadata", metadata),
            ("somebody's", b"no record"),
        ];
        for (label, value) in objects {
            store.token().create(label, Visibility::Private, value).unwrap();
        }
    },
    operation: |_, store| store.migrate(false).map(drop),
    subject: "app/db",
    foreign: Some("app/db"),
    ..NEW
};

#[test]
fn a_record_of_the_go_operator_migrated() {
    assert!(enumerate(&MIGRATED) > 40);
}

#[test]
fn a_new_record() {
    assert!(enumerate(&NEW) > 20);
}

#[test]
fn a_small_record_replaced() {
    assert!(enumerate(&REPLACED) > 40);
}

#[test]
fn a_record_in_chunks_replaced() {
    assert!(enumerate(&CHUNKED) > 100);
}

#[test]
fn a_record_deleted() {
    assert!(enumerate(&DELETED) > 40);
}

#[test]
fn records_packed_into_a_page() {
    assert!(enumerate(&PACKED) > 100);
}

#[test]
#[ignore = "every kind of fault at every call takes long: ./hack/test --long"]
fn every_fault_of_a_new_record() {
    enumerate_all(&NEW);
}

#[test]
#[ignore = "every kind of fault at every call takes long: ./hack/test --long"]
fn every_fault_of_a_small_record_replaced() {
    enumerate_all(&REPLACED);
}

#[test]
#[ignore = "every kind of fault at every call takes long: ./hack/test --long"]
fn every_fault_of_a_record_in_chunks_replaced() {
    enumerate_all(&CHUNKED);
}

#[test]
#[ignore = "every kind of fault at every call takes long: ./hack/test --long"]
fn every_fault_of_a_record_deleted() {
    enumerate_all(&DELETED);
    enumerate_all(&CHUNKS_DELETED);
}

#[test]
#[ignore = "every kind of fault at every call takes long: ./hack/test --long"]
fn every_fault_of_a_migration() {
    enumerate_all(&MIGRATED);
}

#[test]
#[ignore = "every kind of fault at every call takes long: ./hack/test --long"]
fn every_fault_of_packing() {
    enumerate_all(&PACKED);
    enumerate_all(&REPACKED);
}
