//! What a store does when nothing fails: SCENARIOS 1, 2, 4, 6, 7, 8.

mod common;

use common::*;
use hsm_store::testing::{Call, World};
use hsm_store::{Expect, StoreError};
use hsm_token::Limits;
use hsm_types::{Presence, Relation};

#[test]
fn a_record_is_put_read_replaced_and_deleted() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let first = store.put(put("secrets/a/db", &[("k", b"one")])).unwrap();
    assert!(first.written);
    assert_eq!(first.revision.version.to_string(), "1.1");
    assert_eq!(
        values(&mut store, "secrets/a/db"),
        Some(vec![("k".into(), b"one".to_vec())])
    );
    let second = store.put(put("secrets/a/db", &[("k", b"two")])).unwrap();
    assert_eq!(second.revision.relation(&first.revision), Relation::Ahead);
    assert_eq!(
        values(&mut store, "secrets/a/db"),
        Some(vec![("k".into(), b"two".to_vec())])
    );
    assert_eq!(sealed(&world), 1);
    let gone = store
        .delete(
            &path("secrets/a/db"),
            Expect::Stamp(second.revision.version.stamp()),
        )
        .unwrap();
    assert_eq!(gone.tombstones.len(), 1);
    assert!(store.get(&path("secrets/a/db")).unwrap().is_absent());
    assert!(
        store
            .delete(&path("secrets/a/db"), Expect::Any)
            .unwrap()
            .tombstones
            .is_empty()
    );
    drop(store);
    let mut store = open(&world);
    assert!(store.get(&path("secrets/a/db")).unwrap().is_absent());
    assert_eq!(store.index().tombstones().count(), 1);
}
