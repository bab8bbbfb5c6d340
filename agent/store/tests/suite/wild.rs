//! Records of the Go operator and records made by hand (TOKEN.md, section 7): read as they are, and made ours.

use std::collections::BTreeMap;
use std::time::Duration;

use hsm_store::testing::{Call, Fault, FaultKind, When, World};
use hsm_store::{
    Clock, Expect, Form, Migration, MigrationOutcome, MigrationReport, Remedy, Replica, Store, StoreError,
};
use hsm_token::{ErrorClass, Limits, Visibility};
use hsm_types::{Metadata, Presence, Relation, Revision, Tombstone};

use crate::common::*;
use crate::faults::losses;

const SETTLE: Duration = Duration::from_secs(2);
const METADATA: &str = r#"{"description":"the db","labels":{"team":"a","sync.version":"3","sync.source":"n1"},"format":"opaque","createdAt":"2025-01-01T00:00:00Z"}"#;
const GO: &str = "hsm-secrets-operator";

/// A secret as the Go operator writes it.
fn go(world: &World, name: &str, pairs: &[(&str, &[u8])], metadata: &str) {
    for (key, value) in pairs {
        let label = if *key == "data" { name.to_owned() } else { format!("{name}/{key}") };
        world.plant_as(&label, value, GO, Visibility::Private);
    }
    if !metadata.is_empty() {
        world.plant_as(&format!("{name}/_metadata"), metadata.as_bytes(), GO, Visibility::Private);
    }
}

#[allow(clippy::unnecessary_wraps)]
fn texts(pairs: &[(&str, &str)]) -> Option<Values> {
    Some(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect())
}

fn world(limits: Limits) -> World {
    let world = formatted(limits);
    world.clock().sleep(SETTLE);
    world
}

fn revision(store: &MemoryStore, name: &str) -> Revision {
    let Presence::Present(entry) = store.index().presence(&path(name)) else { panic!("{name} is not there") };
    entry.head().unwrap().revision.clone()
}

fn form(store: &MemoryStore, name: &str) -> Form {
    store.index().presence(&path(name)).present().unwrap().head().unwrap().form
}

fn metadata(store: &mut MemoryStore, name: &str) -> Metadata {
    let Presence::Present(record) = store.get(&path(name)).unwrap() else { panic!("{name} is not there") };
    record.content.metadata
}

fn listed(store: &MemoryStore) -> Vec<&str> {
    let entries = store.index().entries().iter();
    entries
        .filter(|(_, entry)| !entry.heads.is_empty() || entry.damaged)
        .map(|(path, _)| path.as_str())
        .collect()
}

/// The data objects that are not in a format of ours.
fn foreign(world: &World) -> Vec<String> {
    let mut labels: Vec<String> = world.objects().into_iter().map(|(label, _)| label).collect();
    labels.retain(|label| !label.starts_with("hsm.j5t.io/"));
    labels.sort();
    labels
}

fn outcomes(report: &MigrationReport) -> Vec<(&str, &MigrationOutcome)> {
    report.records.iter().map(|record| (record.path.as_str(), &record.outcome)).collect()
}

#[test]
fn records_of_the_go_operator_are_read_as_they_are() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = world(limits);
        go(&world, "app/db", &[("username", b"admin"), ("password", b"s3cr3t")], METADATA);
        go(&world, "token", &[("data", b"hello")], "{}");
        go(&world, "empty", &[], r#"{"description":"nothing in it"}"#);
        go(
            &world,
            "bin",
            &[("data", &[0, 0xff]), ("tls.crt", &noise(1900, 3)), (".dockerconfigjson", b"{\"a\":\"b\"}")],
            "",
        );
        let before = world.objects();
        let mut store = open(&world);
        assert_eq!(values(&mut store, "app/db"), texts(&[("password", "s3cr3t"), ("username", "admin")]));
        assert_eq!(values(&mut store, "token"), one("data", b"hello"));
        assert_eq!(values(&mut store, "empty"), Some(vec![]));
        let bin = values(&mut store, "bin").unwrap();
        assert_eq!(bin[0], (".dockerconfigjson".to_owned(), b"{\"a\":\"b\"}".to_vec()));
        assert_eq!((&bin[1].1, &bin[2].1), (&vec![0, 0xff], &noise(1900, 3)));
        assert_eq!(listed(&store), ["app/db", "bin", "empty", "token"]);
        let found = metadata(&mut store, "app/db");
        assert_eq!((found.description.as_str(), found.labels.len()), ("the db", 1));
        let kept: Vec<&str> = found.attributes.keys().map(String::as_str).collect();
        assert_eq!(kept, ["createdAt", "format", "sync.source", "sync.version"]);
        // The index has what it has of every record.
        let head = store.index().entries()[&path("app/db")].head().unwrap();
        assert_eq!((head.size, head.keys.len(), head.form), (27, 2, Form::Foreign));
        assert_eq!(head.revision.version.to_string(), "0.1");
        assert_eq!((store.index().counts().foreign, store.pending()), (9, 0));
        assert!(store.index().damaged().is_empty());
        assert_eq!(world.objects(), before);
    }
}

#[test]
fn records_made_by_hand_are_read_as_they_are() {
    let world = world(Limits::SOFTWARE);
    world.plant("secrets/ns/keys/user", b"a");
    world.plant_as("secrets/ns/keys/pass", b"b", "pkcs11-tool", Visibility::Public);
    world.plant("secrets/ns/json", b"{\"user\": \"a\", \"pass\": \"\\u00fc\"}\n");
    world.plant("secrets/ns/text", b"{\"user\": 1}");
    world.plant("secrets/ns/a.b/data", b"x");
    world.plant("bare", b"{\"user\": \"a\"}");
    world.plant("bare2/key", b"v");
    let mut store = open(&world);
    let all = ["bare", "bare2", "secrets/ns/a.b", "secrets/ns/json", "secrets/ns/keys", "secrets/ns/text"];
    assert_eq!(listed(&store), all);
    assert_eq!(values(&mut store, "secrets/ns/keys"), texts(&[("pass", "b"), ("user", "a")]));
    assert_eq!(values(&mut store, "secrets/ns/json"), texts(&[("pass", "ü"), ("user", "a")]));
    assert_eq!(values(&mut store, "secrets/ns/text"), one("data", b"{\"user\": 1}"));
    assert_eq!(values(&mut store, "secrets/ns/a.b"), one("data", b"x"));
    assert_eq!(values(&mut store, "bare"), one("data", b"{\"user\": \"a\"}"));
    assert_eq!(values(&mut store, "bare2"), one("key", b"v"));
}

#[test]
fn the_path_that_is_asked_for_decides_the_reading() {
    let world = world(Limits::SOFTWARE);
    world.plant("x/y/z", b"v");
    let mut store = open(&world);
    assert_eq!(listed(&store), ["x/y"]);
    assert_eq!(values(&mut store, "x/y"), one("z", b"v"));
    assert_eq!(values(&mut store, "x/y/z"), one("data", b"v"));
    assert_eq!(values(&mut store, "x"), None);
    // Who writes to one of them gets it.
    store.put(&put("x/y/z", &[("data", b"w")])).unwrap();
    assert_eq!(foreign(&world), [""; 0]);
    assert_eq!(listed(&store), ["x/y/z"]);
    assert_eq!(values(&mut open(&world), "x/y/z"), one("data", b"w"));
}

#[test]
fn values_are_read_once_an_epoch_and_when_they_are_asked_for() {
    let world = world(Limits::SOFTWARE);
    go(&world, "app/db", &[("username", b"admin"), ("password", b"s3cr3t")], METADATA);
    go(&world, "a/b", &[("data", b"x")], "{}");
    world.take_calls();
    let reads = || world.take_calls().into_iter().filter(|call| *call == Call::Read).count();
    let mut store = open(&world);
    assert_eq!(reads(), 3 + 5);
    for _ in 0..5 {
        assert!(store.refresh().unwrap().is_empty());
    }
    assert_eq!(reads(), 0);
    values(&mut store, "app/db");
    assert_eq!(reads(), 3);
    // What others change shows.
    world.remove("app/db/password");
    world.plant("app/web/k", b"v");
    world.plant("app/db/password", b"new");
    assert_eq!(store.refresh().unwrap(), [path("app/db"), path("app/web")]);
    assert_eq!(values(&mut store, "app/db"), texts(&[("password", "new"), ("username", "admin")]));
    world.remove("app/web/k");
    assert_eq!(store.refresh().unwrap(), [path("app/web")]);
    assert_eq!(values(&mut store, "app/web"), None);
}

#[test]
fn a_value_that_changed_under_its_handle_is_read_again() {
    let world = world(Limits::SOFTWARE);
    go(&world, "db", &[("k", b"old"), ("l", b"x")], "");
    let mut store = open(&world);
    let old = revision(&store, "db");
    world.alter("db/k", |value| *value = b"new".to_vec());
    assert_eq!(values(&mut store, "db"), texts(&[("k", "new"), ("l", "x")]));
    assert_eq!(revision(&store, "db").version.relation(&old.version), Relation::OtherLife);
}

#[test]
fn duplicates_count_once_or_make_the_record_unknown() {
    let world = world(Limits::SOFTWARE);
    go(&world, "same", &[("k", b"v"), ("k", b"v")], "{}");
    go(&world, "differ", &[("k", b"v"), ("k", b"w")], "{}");
    go(&world, "other", &[("k", b"v")], "{}");
    let mut store = open(&world);
    assert_eq!(values(&mut store, "same"), one("k", b"v"));
    assert_eq!(values(&mut store, "other"), one("k", b"v"));
    let Presence::Unknown(why) = store.get(&path("differ")).unwrap() else { panic!("a guess") };
    assert!(why.to_string().contains("differ/k"), "{why}");
    assert!(store.index().entries()[&path("differ")].damaged);
    assert_eq!(store.index().damaged().len(), 1);
    assert!(!store.index().hides_records());
    let before = world.objects();
    for refused in [
        store.put(&put("differ", &[("k", b"x")])).map(drop),
        store.delete(&path("differ"), Expect::Any).map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Person);
        assert!(refused.to_string().contains("differ/k"), "{refused}");
    }
    assert_eq!(world.objects(), before);
    assert_eq!(values(&mut store, "never"), None);
    // All copies of one value go together.
    store.put(&put("same", &[("k", b"x")])).unwrap();
    assert_eq!(values(&mut open(&world), "same"), one("k", b"x"));
    assert!(!foreign(&world).iter().any(|label| label.starts_with("same")));
}

#[test]
fn what_cannot_be_read_makes_its_own_record_unknown_and_no_other() {
    let world = world(Limits::SOFTWARE);
    go(&world, "db", &[("k", b"v"), ("l", b"w")], METADATA);
    go(&world, "web", &[("k", b"v")], METADATA);
    go(&world, "broken", &[("k", b"v")], "no json");
    world.haunt("db/l");
    let mut store = open(&world);
    for (name, label) in [("db", "db/l"), ("broken", "broken/_metadata")] {
        let Presence::Unknown(why) = store.get(&path(name)).unwrap() else { panic!("{name}") };
        assert!(why.to_string().contains(label), "{why}");
    }
    assert_eq!(values(&mut store, "web"), one("k", b"v"));
    assert_eq!(values(&mut store, "never"), None);
    store.put(&put("web", &[("k", b"w")])).unwrap();
    store.put(&put("new", &[("k", b"w")])).unwrap();
    assert!(!store.is_void());
    let report = store.migrate(false).unwrap();
    let unclear = |outcome: &MigrationOutcome| matches!(outcome, MigrationOutcome::Unclear(_));
    assert!(outcomes(&report).iter().all(|(_, outcome)| unclear(outcome)), "{report:?}");
    assert_eq!(foreign(&world).len(), 5);
}

#[test]
fn a_damaged_object_of_ours_may_hide_ours_so_the_foreign_one_is_unknown() {
    let world = world(Limits::SOFTWARE);
    go(&world, "db", &[("k", b"v")], METADATA);
    let mut store = open(&world);
    store.put(&put("a", &[("k", b"v")])).unwrap();
    world.alter(&sealed(&world)[0], |value| value[40] ^= 1);
    let mut store = open(&world);
    assert!(store.get(&path("db")).unwrap().is_unknown());
    assert!(matches!(store.put(&put("db", &[])), Err(StoreError::Damaged { .. })));
    assert!(matches!(store.migrate(false), Err(StoreError::Damaged { .. })));
    assert_eq!(foreign(&world).len(), 2);
}

#[test]
fn a_tombstone_of_the_go_operator_means_not_present() {
    let world = world(Limits::SOFTWARE);
    let deleted = r#"{"labels":{"sync.deleted":"true","sync.version":"9"}}"#;
    go(&world, "gone", &[], deleted);
    go(&world, "half", &[("k", b"v")], deleted);
    let mut store = open(&world);
    assert_eq!((values(&mut store, "gone"), values(&mut store, "half")), (None, None));
    assert_eq!(listed(&store), [""; 0]);
    store.put(&put("gone", &[("k", b"again")])).unwrap();
    assert_eq!(values(&mut store, "gone"), one("k", b"again"));
    let report = store.migrate(false).unwrap();
    assert!(matches!(
        outcomes(&report).as_slice(),
        [("gone", MigrationOutcome::Tombstone), ("half", MigrationOutcome::Conflict(_))]
    ));
    assert_eq!((report.freed, foreign(&world)), (1, vec!["half/_metadata".to_owned(), "half/k".to_owned()]));
    assert_eq!(values(&mut open(&world), "gone"), one("k", b"again"));
}

#[test]
fn the_same_content_is_the_same_version_on_every_token() {
    let (a, b) = (world(Limits::SC_HSM), world(Limits::SOFTWARE));
    let pairs: [(&str, &[u8]); 2] = [("user", b"x"), ("pass", b"y")];
    go(&a, "db", &pairs, METADATA);
    go(&b, "db", &[pairs[1], pairs[0]], METADATA);
    let (mut on_a, mut on_b) = (open(&a), open(&b));
    assert_eq!(revision(&on_a, "db"), revision(&on_b, "db"));
    // Migrated here and not there: still the same.
    on_a.migrate(false).unwrap();
    assert_eq!(form(&on_a, "db"), Form::Sealed);
    assert_eq!(revision(&on_a, "db"), revision(&on_b, "db"));
    // Changed here: there it is behind, and takes the change.
    let old = revision(&on_b, "db");
    let new = on_a.put(&put("db", &[("user", b"z")])).unwrap().revision;
    assert_eq!((new.relation(&old), new.version.to_string()), (Relation::Ahead, "1.1".to_owned()));
    let replica = Replica { path: path("db"), revision: new.clone(), content: content(&[("user", b"z")]) };
    assert!(on_b.replicate(&replica).unwrap().written);
    assert_eq!(foreign(&b), [""; 0]);
    assert_eq!(revision(&open(&b), "db"), new);
    // Edited apart after that: diverged, as ever.
    let lost = old.version.next(on_b.token_id().writer([1; 4]), &[], false);
    assert_eq!(lost.relation(&new.version), Relation::Diverged);
}

#[test]
fn other_content_under_the_same_labels_is_another_life() {
    let world = world(Limits::SC_HSM);
    go(&world, "db", &[("k", b"v")], "");
    let mut store = open(&world);
    let first = revision(&store, "db");
    let gone = store.delete(&path("db"), Expect::Stamp(first.version.stamp())).unwrap();
    assert_eq!(gone.tombstones[0].stamp, first.version.stamp());
    assert_eq!((values(&mut store, "db"), foreign(&world).len()), (None, 0));
    // The same again, from another copy of that token: dead.
    go(&world, "db", &[("k", b"v")], "");
    let mut store = open(&world);
    assert_eq!(values(&mut store, "db"), None);
    assert_eq!(outcomes(&store.migrate(true).unwrap()), [("db", &MigrationOutcome::Deleted)]);
    assert!(matches!(
        store.forget_tombstone(&path("db"), first.version.incarnation),
        Err(StoreError::Invalid(_))
    ));
    // Something new: alive.
    world.remove("db/k");
    go(&world, "db", &[("k", b"w")], "");
    let mut store = open(&world);
    assert_eq!(values(&mut store, "db"), one("k", b"w"));
    assert!(store.forget_tombstone(&path("db"), first.version.incarnation).unwrap());
}

#[test]
fn a_deletion_elsewhere_ends_the_foreign_copy_here() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = world(limits);
        go(&world, "db", &[("k", b"v"), ("l", b"w")], METADATA);
        let mut store = open(&world);
        let stamp = revision(&store, "db").version.stamp();
        let tombstone = Tombstone { path: path("db"), incarnation: stamp.incarnation, stamp };
        assert!(store.bury(std::slice::from_ref(&tombstone)).unwrap());
        assert!(!store.bury(&[tombstone]).unwrap());
        assert_eq!(values(&mut open(&world), "db"), None);
        assert_eq!(foreign(&world), [""; 0]);
    }
}

#[test]
fn scenario_1_what_only_shares_a_prefix_is_never_touched() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = world(limits);
        go(&world, "secrets/ns/db", &[("k", b"v"), ("data", b"x")], METADATA);
        let neighbours: [(&str, &[u8]); 8] = [
            ("secrets/ns/db-prod/k", b"1"),
            ("secrets/ns/db2", b"2"),
            ("secrets/ns/dbx/y/k", b"3"),
            ("secrets/ns/d", b"4"),
            ("secrets/ns/db/", b"5"),
            ("secrets/ns/db k", b"6"),
            ("secrets/ns/DB/k", b"7"),
            ("db/k", b"8"),
        ];
        for (label, value) in neighbours {
            world.plant(label, value);
        }
        let theirs = |world: &World| {
            let mut kept = world.objects();
            kept.retain(|(label, _)| neighbours.iter().any(|(own, _)| own == label));
            kept
        };
        let before = theirs(&world);
        let mut store = open(&world);
        store.put(&put("secrets/ns/db", &[("k", b"new")])).unwrap();
        store.put(&put("secrets/ns/db", &[])).unwrap();
        store.delete(&path("secrets/ns/db"), Expect::Any).unwrap();
        world.clock().sleep(SETTLE);
        store.settle().unwrap();
        assert_eq!(theirs(&world), before);
        assert_eq!(foreign(&world).len(), 8);
        assert_eq!(values(&mut open(&world), "secrets/ns/db"), None);
    }
}

#[test]
fn what_somebody_wrote_beside_a_record_of_ours_is_never_destroyed() {
    let world = world(Limits::SOFTWARE);
    let mut store = open(&world);
    store.put(&put("secrets/ns/db", &[("k", b"v"), ("data", b"d")])).unwrap();
    go(&world, "imported", &[("k", b"v"), ("l", b"w")], METADATA);
    store.migrate(false).unwrap();
    // Beside a record that was never theirs, and beside one that was; the same values and others.
    let beside: [(&str, &[u8]); 5] = [
        ("secrets/ns/db/k", b"v"),
        ("secrets/ns/db/new", b"x"),
        ("secrets/ns/db", b"d"),
        ("imported/k", b"other"),
        ("imported/more", b"y"),
    ];
    for (label, value) in beside {
        world.plant(label, value);
    }
    let mut store = open(&world);
    assert_eq!(values(&mut store, "secrets/ns/db"), texts(&[("data", "d"), ("k", "v")]));
    assert_eq!(values(&mut store, "imported"), texts(&[("k", "v"), ("l", "w")]));
    for name in ["secrets/ns/db", "imported"] {
        store.put(&put(name, &[("k", b"changed")])).unwrap();
    }
    let report = store.migrate(false).unwrap();
    assert!(report.records.iter().all(|record| matches!(record.outcome, MigrationOutcome::Conflict(_))));
    assert_eq!((report.records.len(), report.freed, foreign(&world).len()), (2, 0, 5));
    // It says something else, so it is another life when ours ends.
    store.delete(&path("imported"), Expect::Any).unwrap();
    assert_eq!(values(&mut open(&world), "imported"), texts(&[("k", "other"), ("more", "y")]));
    assert_eq!(foreign(&world).len(), 5);
}

#[test]
fn an_object_that_two_records_need_is_not_destroyed_for_the_sake_of_one() {
    let world = world(Limits::SOFTWARE);
    go(&world, "a", &[("b", b"1"), ("x", b"2")], METADATA);
    go(&world, "a/b", &[("y", b"3")], METADATA);
    let before = world.objects();
    let mut store = open(&world);
    assert_eq!(values(&mut store, "a"), texts(&[("b", "1"), ("x", "2")]));
    assert_eq!(values(&mut store, "a/b"), texts(&[("data", "1"), ("y", "3")]));
    for name in ["a", "a/b"] {
        let refused =
            [store.put(&put(name, &[])).map(drop), store.delete(&path(name), Expect::Any).map(drop)];
        for refused in refused {
            let Err(StoreError::Contested { label, .. }) = refused else { panic!("{refused:?}") };
            assert_eq!(label, "a/b");
        }
    }
    let report = store.migrate(false).unwrap();
    assert!(report.records.iter().all(|record| matches!(record.outcome, MigrationOutcome::Conflict(_))));
    assert_eq!((report.records.len(), world.objects()), (2, before));
    // When it is clear whose it is, both can go on.
    for label in ["a/b/_metadata", "a/b/y"] {
        world.remove(label);
    }
    store.put(&put("a", &[("b", b"new")])).unwrap();
    assert_eq!((foreign(&world).len(), values(&mut store, "a")), (0, one("b", b"new")));
}

#[test]
fn an_import_keeps_content_metadata_and_life() {
    let world = world(Limits::SC_HSM);
    go(&world, "app/db", &[("username", b"admin"), ("password", &[0, 0xff, b'"'])], METADATA);
    let mut store = open(&world);
    let (was, old) = (metadata(&mut store, "app/db"), revision(&store, "app/db"));
    // The same again is no write.
    let mut same = put("app/db", &[("username", b"admin"), ("password", &[0, 0xff, b'"'])]);
    same.content.metadata = was.clone();
    assert!(!store.put(&same).unwrap().written);
    assert_eq!(foreign(&world).len(), 3);
    // A wrong expectation changes nothing.
    let before = world.objects();
    let mut wrong = put("app/db", &[]);
    wrong.expect = Expect::Absent;
    assert!(matches!(store.put(&wrong), Err(StoreError::VersionMismatch { .. })));
    assert_eq!(world.objects(), before);
    let report = store.migrate(false).unwrap();
    assert_eq!(
        report.records,
        [Migration {
            path: path("app/db"),
            keys: ["password", "username"].map(|key| hsm_types::Key::new(key).unwrap()).to_vec(),
            objects: 3,
            outcome: MigrationOutcome::Migrated,
        }]
    );
    assert_eq!((report.freed, foreign(&world).len()), (3, 0));
    let mut store = open(&world);
    assert_eq!((metadata(&mut store, "app/db"), revision(&store, "app/db")), (was, old.clone()));
    assert_eq!(values(&mut store, "app/db").unwrap()[0].1, [0, 0xff, b'"']);
    let mut next = put("app/db", &[("username", b"root")]);
    next.expect = Expect::Stamp(old.version.stamp());
    let new = store.put(&next).unwrap().revision;
    assert_eq!((new.version.to_string(), new.relation(&old)), ("1.1".to_owned(), Relation::Ahead));
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_be() {
    let world = world(Limits::SC_HSM);
    go(&world, "db", &[("k", b"v"), ("l", b"w"), ("m", b"x")], METADATA);
    go(&world, "gone", &[], r#"{"labels":{"sync.deleted":"true"}}"#);
    world.plant("somebody", b"else's, perhaps");
    world.plant("secrets/ns/hand", b"{\"k\":\"v\"}");
    let before = world.objects();
    let mut store = open(&world);
    world.take_calls();
    let plan = store.migrate(true).unwrap();
    assert!(world.take_calls().iter().all(|call| matches!(call, Call::List | Call::Read)));
    assert_eq!(world.objects(), before);
    let expected = [
        ("db", &MigrationOutcome::Migrated),
        ("gone", &MigrationOutcome::Tombstone),
        ("secrets/ns/hand", &MigrationOutcome::Migrated),
        ("somebody", &MigrationOutcome::Unsure),
    ];
    assert_eq!((outcomes(&plan), plan.freed, plan.dry_run), (expected.to_vec(), 6, true));
    let done = store.migrate(false).unwrap();
    assert_eq!((&done.records, done.freed, done.dry_run), (&plan.records, 6, false));
    assert_eq!(foreign(&world), ["somebody"]);
    let again = store.migrate(false).unwrap();
    assert_eq!((outcomes(&again), again.freed), (vec![("somebody", &MigrationOutcome::Unsure)], 0));
    // It is a record for who says so.
    store.put(&put("somebody", &[("k", b"v")])).unwrap();
    assert_eq!((values(&mut store, "somebody"), foreign(&world).len()), (one("k", b"v"), 0));
}

#[test]
fn a_migration_works_on_a_full_token() {
    let world = world(Limits::SC_HSM);
    // 116 objects: 5 of the store, 27 records of 4, and 3 that stay.
    for number in 0..27 {
        let value = noise(150, number);
        go(&world, &format!("s/{number}"), &[("a", &value), ("b", &value), ("c", &value)], METADATA);
    }
    for number in 0..3 {
        world.plant(&format!("not a record {number}"), b"x");
    }
    let mut store = open(&world);
    assert_eq!(store.index().counts().total(), 116);
    let plan = store.migrate(true).unwrap();
    let done = store.migrate(false).unwrap();
    assert_eq!((plan.freed, done.freed, done.records.len()), (108, 108, 27));
    assert_eq!(plan.records, done.records);
    let mut store = open(&world);
    assert_eq!(store.index().counts().foreign, 3);
    assert!(store.index().counts().total() <= 5 + 27 + 3);
    for number in 0..27 {
        let value = noise(150, number);
        let expected = ["a", "b", "c"].map(|key| (key.to_owned(), value.clone())).to_vec();
        assert_eq!(values(&mut store, &format!("s/{number}")), Some(expected));
    }
}

#[test]
fn a_single_put_and_a_delete_work_on_a_full_token() {
    for delete in [false, true] {
        let world = world(Limits::SC_HSM);
        go(&world, "db", &[("a", b"1"), ("b", b"2"), ("c", b"3")], METADATA);
        for number in 0..107 {
            world.plant(&format!("not a record {number}"), b"x");
        }
        let mut store = open(&world);
        assert_eq!(store.index().counts().total(), 116);
        if delete {
            store.delete(&path("db"), Expect::Any).unwrap();
        } else {
            store.put(&put("db", &[("a", b"new")])).unwrap();
        }
        assert!(world.objects().len() + 2 <= 122);
        assert_eq!(values(&mut open(&world), "db"), if delete { None } else { one("a", b"new") });
    }
}

#[test]
fn what_does_not_fit_is_left_and_the_rest_is_migrated() {
    let world = world(Limits::SC_HSM);
    let big = noise(4_000, 1);
    go(&world, "big", &[("k", &big)], "");
    go(&world, "secrets/ns/small", &[("k", b"v")], "");
    // Ours would need three objects for one, at rest; the small one frees none.
    for number in 0..108 {
        world.plant(&format!("not a record {number}"), b"x");
    }
    world.plant("big/l", &big);
    let mut store = open(&world);
    assert_eq!(store.index().counts().total(), 116);
    let before = world.objects();
    let plan = store.migrate(true).unwrap();
    assert_eq!(world.objects(), before);
    let done = store.migrate(false).unwrap();
    assert_eq!(plan.records, done.records);
    assert_eq!(
        outcomes(&done),
        [("big", &MigrationOutcome::NoRoom), ("secrets/ns/small", &MigrationOutcome::Migrated)]
    );
    assert_eq!(
        values(&mut open(&world), "big"),
        Some(vec![("k".to_owned(), big.clone()), ("l".to_owned(), big)])
    );
    // Room was made: it goes on.
    for number in 0..20 {
        world.remove(&format!("not a record {number}"));
    }
    let mut store = open(&world);
    assert_eq!(outcomes(&store.migrate(false).unwrap()), [("big", &MigrationOutcome::Migrated)]);
    assert_eq!(values(&mut open(&world), "big").unwrap().len(), 2);
}

#[test]
fn objects_of_other_applications_are_left_alone() {
    let world = world(Limits::SOFTWARE);
    world.plant_as("login", b"theirs", "a browser", Visibility::Private);
    world.plant_as("secrets/ns/db/k", b"ours by its name", "a browser", Visibility::Private);
    world.plant_as("go", b"the operator's", "hsm-secrets-operator\u{1}garbage", Visibility::Private);
    let mut store = open(&world);
    assert_eq!(listed(&store), ["go", "secrets/ns/db"]);
    assert_eq!(values(&mut store, "login"), None);
    store.put(&put("login", &[("k", b"v")])).unwrap();
    store.migrate(false).unwrap();
    store.delete(&path("login"), Expect::Any).unwrap();
    assert_eq!(foreign(&world), ["login"]);
}

#[test]
fn a_leftover_is_pending_and_goes_with_the_next_write_or_settle() {
    for settle in [false, true] {
        let base = world(Limits::SC_HSM);
        go(&base, "db", &[("k", b"v"), ("l", b"w")], METADATA);
        let mut store = open(&base);
        base.script(Fault {
            function: Some(Call::Destroy),
            number: 2,
            when: When::Before,
            kind: FaultKind::Crash,
        });
        store.migrate(false).unwrap_err();
        let mut store = open(&base);
        assert_eq!((store.pending(), store.index().counts().pending, foreign(&base).len()), (2, 2, 2));
        assert_eq!(values(&mut store, "db"), texts(&[("k", "v"), ("l", "w")]));
        let due = store.settle().unwrap().unwrap();
        assert!(due <= Limits::SC_HSM.settle);
        assert_eq!(foreign(&base).len(), 2);
        base.clock().sleep(due);
        if settle {
            assert_eq!(store.settle().unwrap(), None);
        } else {
            store.put(&put("another", &[("k", b"v")])).unwrap();
        }
        assert_eq!((store.pending(), foreign(&base).len()), (0, 0));
        assert_eq!(values(&mut open(&base), "db"), texts(&[("k", "v"), ("l", "w")]));
    }
}

// ---- A fault at every call. ----

const SUBJECT: &str = "app/db";
const KINDS: [FaultKind; 3] =
    [FaultKind::Crash, FaultKind::Fail(ErrorClass::Busy), FaultKind::Fail(ErrorClass::Module)];

type Operation = fn(&mut MemoryStore) -> Result<(), StoreError>;

fn old() -> Option<Values> {
    texts(&[("data", "whole"), ("password", "s3cr3t"), ("username", "admin")])
}

fn prepare(limits: Limits) -> World {
    let world = formatted(limits);
    go(&world, SUBJECT, &[("username", b"admin"), ("password", b"s3cr3t"), ("data", b"whole")], METADATA);
    go(&world, "app/db-prod", &[("username", b"x")], METADATA);
    world.plant("not a record", b"theirs");
    let mut store = open(&world);
    store.put(&put("app/d", &[("k", b"ours")])).unwrap();
    world.clock().sleep(SETTLE);
    store.settle().unwrap();
    world.clock().sleep(SETTLE);
    assert_eq!((store.pending(), world.unflushed()), (0, 0));
    world
}

/// The record is wholly the old or the new one, its neighbours are as they were, and the operation can be done again.
fn check(world: &World, operation: Operation, new: &Option<Values>, accepted: bool, what: &str) {
    let mut store = open(world);
    assert!(store.index().damaged().is_empty(), "{what}");
    let found = values(&mut store, SUBJECT);
    assert!(found == *new || (found == old() && !accepted), "{what}: neither old nor new: {found:?}");
    if found == old() {
        assert_eq!(metadata(&mut store, SUBJECT).description, "the db", "{what}");
    }
    neighbours(&mut store, what);
    operation(&mut store).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    finish(world, &mut store, new, what);
    let mut store = open(world);
    assert_eq!(values(&mut store, SUBJECT), *new, "{what}");
    // And it stays so when something new is written.
    store.put(&put(SUBJECT, &[("next", b"v")])).unwrap();
    finish(world, &mut store, &one("next", b"v"), what);
}

fn neighbours(store: &mut MemoryStore, what: &str) {
    assert_eq!(values(store, "app/db-prod"), one("username", b"x"), "{what}");
    assert_eq!(values(store, "app/d"), one("k", b"ours"), "{what}");
}

fn finish(world: &World, store: &mut MemoryStore, new: &Option<Values>, what: &str) {
    for _ in 0..3 {
        world.clock().sleep(SETTLE);
        store.settle().unwrap();
    }
    assert_eq!(store.pending(), 0, "{what}");
    assert_eq!(values(store, SUBJECT), *new, "{what}");
    neighbours(store, what);
    let mut theirs = foreign(world);
    theirs.retain(|label| !label.starts_with("app/db-prod"));
    assert_eq!(theirs, ["not a record"], "{what}");
}

fn enumerate(limits: Limits, operation: Operation, new: &Option<Values>) {
    let base = prepare(limits);
    let world = base.fork();
    let mut store = open(&world);
    assert_eq!(values(&mut store, SUBJECT), old());
    world.take_calls();
    operation(&mut store).unwrap();
    let calls = world.take_calls().len();
    check(&world, operation, new, true, "no fault");
    let mut worlds = 0;
    // Once more than there are calls: nothing fails, and then the power goes.
    for number in 1..=calls + 1 {
        for when in [When::Before, When::After] {
            for kind in KINDS {
                let world = base.fork();
                let mut store = open(&world);
                world.script(Fault { function: None, number, when, kind });
                let outcome = operation(&mut store);
                let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}");
                check(&world.fork(), operation, new, outcome.is_ok(), &format!("{what}, same flash"));
                let unflushed = world.unflushed();
                let kept =
                    if kind == FaultKind::Crash { losses(unflushed) } else { vec![vec![false; unflushed]] };
                for keep in kept {
                    let world = world.fork();
                    world.power_loss(|write| keep[write]);
                    // What was answered may be lost until it has settled, never mixed.
                    check(&world, operation, new, false, &format!("{what}, kept {keep:?}"));
                    worlds += 1;
                }
                world.clear_script();
                if store.refresh().is_ok() {
                    operation(&mut store).unwrap_or_else(|error| panic!("{what}, same store: {error}"));
                    finish(&world, &mut store, new, &format!("{what}, same store"));
                }
            }
        }
    }
    assert!(worlds > 100, "{worlds}");
}

fn both(operation: Operation, new: &Option<Values>) {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        enumerate(limits, operation, new);
    }
}

#[test]
fn scenario_3_a_foreign_record_replaced() {
    both(|store| store.put(&put(SUBJECT, &[("username", b"root")])).map(drop), &one("username", b"root"));
}

#[test]
fn scenario_3_a_foreign_record_deleted() {
    both(|store| store.delete(&path(SUBJECT), Expect::Any).map(drop), &None);
}

#[test]
fn scenario_3_a_foreign_record_migrated() {
    // The neighbour is migrated too; finish() leaves it out.
    both(|store| store.migrate(false).map(drop), &old());
}

#[test]
fn formatting_a_token_with_foreign_records_touches_none() {
    let world = World::new(Limits::SC_HSM);
    go(&world, SUBJECT, &[("k", b"v")], METADATA);
    let before: BTreeMap<String, Vec<u8>> = world.objects().into_iter().collect();
    Store::format(&mut world.connect(), None, &mut world.options(lock_file())).unwrap();
    for (label, value) in before {
        assert!(world.objects().contains(&(label, value)));
    }
    assert_eq!(values(&mut open(&world), SUBJECT), one("k", b"v"));
}
