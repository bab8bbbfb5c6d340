//! Records when nothing fails: SCENARIOS 1, 4, 7, 8.

use std::time::Duration;

use hsm_store::testing::Call;
use hsm_store::{Clock, Expect, MAX_RECORD, Remedy, StoreError, WriterLock};
use hsm_token::Limits;
use hsm_types::{Presence, Relation, Version, WriterId};

use crate::common::*;

#[test]
fn a_record_is_put_read_replaced_and_deleted() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let first = store.put(&put("secrets/a/db", &[("k", b"one")])).unwrap();
    assert!(first.written);
    assert_eq!(first.revision.version.to_string(), "1.1");
    assert_eq!(values(&mut store, "secrets/a/db"), one("k", b"one"));
    let second = store.put(&put("secrets/a/db", &[("k", b"two")])).unwrap();
    assert_eq!(second.revision.relation(&first.revision), Relation::Ahead);
    assert_eq!(values(&mut store, "secrets/a/db"), one("k", b"two"));
    assert_eq!(sealed(&world).len(), 1);
    let stamp = second.revision.version.stamp();
    let gone = store.delete(&path("secrets/a/db"), Expect::Stamp(stamp)).unwrap();
    assert_eq!(gone.tombstones.len(), 1);
    assert_eq!(values(&mut store, "secrets/a/db"), None);
    let again = store.delete(&path("secrets/a/db"), Expect::Stamp(stamp)).unwrap();
    assert!(again.tombstones.is_empty());
    let mut store = open(&world);
    assert_eq!(values(&mut store, "secrets/a/db"), None);
    assert_eq!(store.index().tombstones().count(), 1);
}

#[test]
fn scenario_1_names_that_are_prefixes_of_each_other_are_different() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let names = ["db", "db-prod", "db2", "dbx/y", "db/y", "d"];
    for name in names {
        store.put(&put(name, &[("k", name.as_bytes())])).unwrap();
    }
    store.put(&put("db", &[("k", b"new"), ("l", b"")])).unwrap();
    store.put(&put("db", &[("k", b"newer")])).unwrap();
    store.delete(&path("db"), Expect::Any).unwrap();
    let mut store = open(&world);
    assert_eq!(values(&mut store, "db"), None);
    for name in &names[1..] {
        assert_eq!(values(&mut store, name), one("k", name.as_bytes()), "{name}");
    }
}

#[test]
fn scenario_4_values_come_back_byte_for_byte() {
    let world = formatted(Limits::SOFTWARE);
    let cases: Vec<Vec<u8>> = vec![
        vec![1],
        vec![0, 0xff, 0, 0xc3, 0x28],
        vec![],
        noise(1800, 1),
        noise(3_000, 2),
        noise(16_384, 3),
        noise(60_000, 4),
        noise(MAX_RECORD - 7, 5),
    ];
    let mut store = open(&world);
    for (number, value) in cases.iter().enumerate() {
        let request = put(&format!("v/{number}"), &[("tls.crt", value)]);
        assert!(store.put(&request).unwrap().written);
        assert!(!store.put(&request).unwrap().written);
    }
    store.put(&put("keys", &[("tls.crt", b""), (".dockerconfigjson", b"x"), ("data", b"")])).unwrap();
    store.put(&put("nothing", &[])).unwrap();
    let mut described = put("described", &[("k", b"v")]);
    described.content.metadata.description = "Größe".into();
    described.content.metadata.labels.insert("team".into(), "a".into());
    described.content.metadata.attributes.insert("format".into(), String::new());
    store.put(&described).unwrap();
    for (_, value) in world.objects() {
        assert!(value.len() <= Limits::SOFTWARE.object_size);
    }
    let mut store = open(&world);
    for (number, value) in cases.iter().enumerate() {
        let name = format!("v/{number}");
        assert_eq!(values(&mut store, &name), one("tls.crt", value), "{} bytes", value.len());
        assert_eq!(store.index().entries()[&path(&name)].heads[0].size, 7 + value.len());
    }
    assert_eq!(values(&mut store, "keys").unwrap().len(), 3);
    assert_eq!(values(&mut store, "nothing"), Some(vec![]));
    let Presence::Present(record) = store.get(&path("described")).unwrap() else {
        panic!("described is there")
    };
    assert_eq!(record.content.metadata, described.content.metadata);
    let large = store.put(&put("large", &[("k", &noise(MAX_RECORD, 0))])).unwrap_err();
    assert!(matches!(large, StoreError::ValueTooLarge { max: MAX_RECORD, .. }));
    assert_eq!(large.remedy(), Remedy::Request);
}

#[test]
fn large_records_are_replaced_and_deleted_without_remains() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    for (size, objects) in [(16_000, 10), (60_000, 33), (10, 1), (3_000, 3)] {
        let value = noise(size, 9);
        store.put(&put("tls", &[("k", &value)])).unwrap();
        assert_eq!(values(&mut store, "tls"), one("k", &value));
        assert_eq!(sealed(&world).len(), objects, "{size}");
    }
    store.delete(&path("tls"), Expect::Any).unwrap();
    assert_eq!(sealed(&world).len(), 1);
    assert_eq!(store.pending(), 0);
}

#[test]
fn scenario_7_nothing_is_on_the_token_in_clear() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    let canary = b"CANARY-5f1b";
    let big = canary.repeat(1000);
    for value in [canary.to_vec(), big, canary.repeat(3)] {
        store.put(&put("ns/CANARY-5f1b", &[("CANARY-5f1b", &value)])).unwrap();
        world.clock().sleep(Duration::from_secs(2));
        store.settle().unwrap();
    }
    store.delete(&path("ns/CANARY-5f1b"), Expect::Any).unwrap();
    world.clock().sleep(Duration::from_secs(2));
    store.settle().unwrap();
    assert!(store.bytes_replaced() > 11_000);
    for bytes in world.flash() {
        assert!(!bytes.windows(canary.len()).any(|window| window == canary));
    }
}

#[test]
fn scenario_8_looking_a_thousand_times_reads_and_writes_nothing() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    store.put(&put("a", &[("k", b"v")])).unwrap();
    store.put(&put("b", &[("k", &noise(9000, 1))])).unwrap();
    store.delete(&path("a"), Expect::Any).unwrap();
    world.plant("hsm.j5t.io/o/00000000000000aa", b"no object of ours");
    store.refresh().unwrap();
    world.take_calls();
    for _ in 0..1000 {
        assert!(store.refresh().unwrap().is_empty());
    }
    assert_eq!(world.take_calls(), vec![Call::List; 1000]);
}

#[test]
fn a_small_replace_is_five_calls_whatever_lies_beside_it() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    for number in 0..60 {
        store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
    }
    world.take_calls();
    store.put(&put("r/7", &[("k", b"w")])).unwrap();
    let expected = [Call::List, Call::Create, Call::Read, Call::Read, Call::Destroy];
    assert_eq!(world.take_calls(), expected);
    store.put(&put("r/7", &[("k", b"w")])).unwrap();
    assert_eq!(world.take_calls(), [Call::List]);
}

#[test]
fn a_small_replace_on_hardware_lists_nothing_whatever_lies_beside_it() {
    let world = formatted(Limits::SC_HSM);
    for number in 0..30 {
        world.plant(&format!("foreign {number}"), b"not ours");
    }
    let mut store = open(&world);
    for number in 0..60 {
        store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
    }
    world.clock().sleep(Duration::from_secs(5));
    world.take_calls();
    store.put(&put("r/7", &[("k", b"w")])).unwrap();
    assert_eq!(world.take_calls(), [Call::Create, Call::Read]);
    world.clock().sleep(Duration::from_secs(5));
    assert_eq!(store.settle().unwrap(), None);
    assert_eq!(world.take_calls(), [Call::Read, Call::Destroy]);
    assert!(!store.put(&put("r/7", &[("k", b"w")])).unwrap().written);
    assert_eq!(values(&mut store, "r/7"), one("k", b"w"));
    assert_eq!(world.take_calls(), [Call::Read]);
    for _ in 0..100 {
        assert!(store.refresh().unwrap().is_empty());
    }
    assert_eq!(world.take_calls(), vec![Call::Info; 100]);
    store.delete(&path("r/7"), Expect::Any).unwrap();
    assert!(!world.take_calls().contains(&Call::List));
}

#[test]
fn the_expected_version_is_checked_and_the_same_call_again_answers_the_same() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let mut request = put("a", &[("k", b"1")]);
    request.expect = Expect::Absent;
    let first = store.put(&request).unwrap().revision;
    let again = store.put(&request).unwrap();
    assert_eq!((again.revision, again.written), (first.clone(), false));
    let mut second = put("a", &[("k", b"2")]);
    second.expect = Expect::Stamp(first.version.stamp());
    let written = store.put(&second).unwrap().revision;
    let again = store.put(&second).unwrap();
    assert_eq!((again.revision, again.written), (written.clone(), false));
    let mut late = put("a", &[("k", b"3")]);
    late.expect = Expect::Stamp(first.version.stamp());
    let current = Some(Box::new(written.clone()));
    assert_eq!(
        store.put(&late),
        Err(StoreError::VersionMismatch { path: path("a"), current: current.clone() })
    );
    late.expect = Expect::Absent;
    assert_eq!(store.put(&late), Err(StoreError::VersionMismatch { path: path("a"), current }));
    let stale = store.delete(&path("a"), Expect::Stamp(first.version.stamp())).unwrap_err();
    assert_eq!(stale.remedy(), Remedy::ReadAgain);
    late.path = path("b");
    late.expect = Expect::Stamp(first.version.stamp());
    assert_eq!(store.put(&late), Err(StoreError::VersionMismatch { path: path("b"), current: None }));
}

#[test]
fn an_edit_without_a_cluster_begins_an_epoch_and_a_merge_names_its_parents() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let first = store.put(&put("a", &[("k", b"1")])).unwrap().revision;
    let mut local = put("a", &[("k", b"2")]);
    local.begin_epoch = true;
    let second = store.put(&local).unwrap().revision;
    assert_eq!(second.version.to_string(), "2.1");
    let elsewhere = first.version.next(WriterId::from_bytes([9; 8]), &[], false);
    assert_eq!(elsewhere.relation(&second.version), Relation::Diverged);
    // The content is the same, and still something has to be written: the merge.
    local.begin_epoch = false;
    local.parents = vec![elsewhere.clone()];
    let merged = store.put(&local).unwrap();
    assert!(merged.written);
    assert_eq!(merged.revision.version.relation(&elsewhere), Relation::Ahead);
    assert!(!store.put(&local).unwrap().written);
}

#[test]
fn two_programs_see_each_others_writes() {
    let world = formatted(Limits::SOFTWARE);
    let mut agent = open(&world);
    agent.put(&put("a", &[("k", b"1")])).unwrap();
    agent.put(&put("b", &[("k", b"1")])).unwrap();
    let mut cli = open_with(world.connect_beside(), &world);
    cli.put(&put("a", &[("k", b"2")])).unwrap();
    cli.delete(&path("b"), Expect::Any).unwrap();
    cli.put(&put("c", &[("k", &noise(5000, 3))])).unwrap();
    // Without a refresh: handles that went stale are noticed.
    assert_eq!(values(&mut agent, "a"), one("k", b"2"));
    cli.put(&put("a", &[("k", b"3")])).unwrap();
    let again = agent.put(&put("a", &[("k", b"3")])).unwrap();
    assert!(!again.written);
    cli.put(&put("d", &[("k", b"4")])).unwrap();
    assert_eq!(agent.refresh().unwrap(), [path("d")]);
    assert_eq!(values(&mut agent, "b"), None);
    assert_eq!(values(&mut agent, "c"), one("k", &noise(5000, 3)));
    assert!(!agent.is_void());
}

#[test]
fn one_writer_at_a_time_and_a_bounded_wait() {
    let world = formatted(Limits::SOFTWARE);
    let file = std::env::temp_dir().join(format!("hsm-store-lock-{}", std::process::id()));
    let clock = world.clock();
    let lock = WriterLock::acquire(&file, Duration::from_secs(1), &clock).unwrap();
    let mut store = hsm_store::Store::open(world.connect(), world.options(&file)).ok().unwrap();
    let before = clock.now();
    let refused = store.put(&put("a", &[])).unwrap_err();
    assert_eq!(refused, StoreError::LockHeld(Duration::from_secs(10)));
    assert_eq!(refused.remedy(), Remedy::Retry);
    assert!(clock.now() - before >= Duration::from_secs(10));
    assert!(store.get(&path("a")).unwrap().is_absent());
    drop(lock);
    assert!(store.put(&put("a", &[])).unwrap().written);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn three_hundred_secrets() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    for number in 0..300 {
        store.put(&put(&format!("secrets/ns/{number}"), &[("k", &noise(150, 7))])).unwrap();
    }
    let mut store = open(&world);
    assert_eq!(store.index().entries().len(), 300);
    assert_eq!(values(&mut store, "secrets/ns/299"), one("k", &noise(150, 7)));
    for number in 0..300 {
        store.delete(&path(&format!("secrets/ns/{number}")), Expect::Any).unwrap();
    }
    assert_eq!(store.index().tombstones().count(), 300);
    assert!(sealed(&world).len() <= 12, "{} objects of tombstones", sealed(&world).len());
    let longest = format!("secrets/{}", "n".repeat(376));
    let version: Version = store.put(&put(&longest, &[("k", &noise(60_000, 1))])).unwrap().revision.version;
    assert_eq!(version.to_string(), "1.1");
    assert_eq!(values(&mut open(&world), &longest), one("k", &noise(60_000, 1)));
}
