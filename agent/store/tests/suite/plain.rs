//! Plain records (`encryption: None`): one readable JSON object, written crash-safe, edited by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use hsm_store::testing::{Fault, FaultKind, MemoryToken, When, World};
use hsm_store::{
    Clock, Encryption, Expect, Form, MigrationOutcome, Options, Remedy, Replica, Store, StoreError,
};
use hsm_token::{ErrorClass, Limits};
use hsm_types::{Metadata, Origin, Presence, Relation, Revision};

use crate::common::*;
use crate::faults::losses;

const SETTLE: Duration = Duration::from_secs(2);
const DB: &str = "secrets/ns/db";

/// A store that writes in clear.
fn plain(world: &World) -> MemoryStore {
    plain_with(world.connect(), world)
}

fn plain_with(token: MemoryToken, world: &World) -> MemoryStore {
    let options = Options { encryption: Encryption::None, ..world.options(lock_file()) };
    Store::open(token, options).map_err(|(_, error)| error).unwrap()
}

fn value(world: &World, label: &str) -> Vec<serde_json::Value> {
    let objects = world.objects().into_iter().filter(|(own, _)| own == label);
    objects.map(|(_, value)| serde_json::from_slice(&value).unwrap()).collect()
}

fn revision(store: &MemoryStore, name: &str) -> Revision {
    let Presence::Present(entry) = store.index().presence(&path(name)) else { panic!("{name} is not there") };
    entry.head().unwrap().revision.clone()
}

fn form(store: &MemoryStore, name: &str) -> Form {
    store.index().presence(&path(name)).present().unwrap().head().unwrap().form
}

/// Lets the flash settle and destroys what is superseded.
fn settled(world: &World, store: &mut MemoryStore) {
    for _ in 0..3 {
        world.clock().sleep(SETTLE);
        store.settle().unwrap();
    }
    assert_eq!(store.pending(), 0);
}

#[test]
fn a_plain_record_is_one_object_that_a_plain_tool_can_read() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = formatted(limits);
        let mut store = plain(&world);
        let mut request = put(DB, &[("user", b"admin"), ("blob", &[0, 0xff]), ("empty", b"")]);
        request.content.metadata = Metadata {
            description: "the db".into(),
            labels: BTreeMap::from([("team".into(), "a".into())]),
            attributes: BTreeMap::from([("format".into(), "opaque".into())]),
        };
        let written = store.put(&request).unwrap().revision;
        let objects = value(&world, DB);
        assert_eq!(objects.len(), 1);
        assert_eq!(
            (&objects[0]["user"], &objects[0]["blob"], &objects[0]["empty"]),
            (&"admin".into(), &"AP8=".into(), &"".into())
        );
        assert_eq!(objects[0]["_hsm"]["base64"][0], "blob");
        assert!(sealed(&world).is_empty());
        // Whatever is asked for, what is there is read.
        for open in [plain, open] {
            let mut store = open(&world);
            assert_eq!(values(&mut store, DB).unwrap().len(), 3);
            let Presence::Present(record) = store.get(&path(DB)).unwrap() else { panic!("not there") };
            assert_eq!(record.content.data.get("blob").unwrap().expose(), [0, 0xff]);
            assert_eq!(record.content.metadata, request.content.metadata);
            assert_eq!((record.revision, form(&store, DB)), (written.clone(), Form::Plain));
            let counts = store.index().counts();
            assert_eq!((counts.ours, counts.foreign, counts.others), (4, 0, 2));
            assert!(!store.put(&request).unwrap().written);
            assert!(store.migrate(false).unwrap().records.is_empty());
        }
    }
}

#[test]
fn a_replace_makes_the_new_one_first_and_a_delete_leaves_a_sealed_tombstone() {
    let world = formatted(Limits::SC_HSM);
    let mut store = plain(&world);
    store.put(&put(DB, &[("k", b"1")])).unwrap();
    settled(&world, &mut store);
    let second = store.put(&put(DB, &[("k", b"2")])).unwrap().revision;
    assert_eq!((second.version.to_string(), store.pending()), ("1.2".to_owned(), 1));
    assert_eq!(value(&world, DB).len(), 2);
    assert_eq!(values(&mut plain(&world), DB), one("k", b"2"));
    let mut store = plain(&world);
    settled(&world, &mut store);
    assert_eq!(value(&world, DB).len(), 1);
    let gone = store.delete(&path(DB), Expect::Stamp(second.version.stamp())).unwrap();
    assert_eq!(gone.tombstones[0].incarnation, second.version.incarnation);
    let mut store = plain(&world);
    assert_eq!(values(&mut store, DB), None);
    assert!(store.forget_tombstone(&path(DB), second.version.incarnation).unwrap());
    assert!(value(&world, DB).is_empty());
    assert_eq!(values(&mut plain(&world), DB), None);
    assert!(sealed(&world).is_empty());
}

#[test]
fn an_old_object_put_back_loses_to_the_newer_one_and_to_a_tombstone() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = plain(&world);
    store.put(&put(DB, &[("k", b"1")])).unwrap();
    let old = world.objects().pop().unwrap();
    store.put(&put(DB, &[("k", b"2")])).unwrap();
    world.plant(&old.0, &old.1);
    store.refresh().unwrap();
    assert_eq!((values(&mut store, DB), store.pending()), (one("k", b"2"), 1));
    store.delete(&path(DB), Expect::Any).unwrap();
    world.plant(&old.0, &old.1);
    let mut store = plain(&world);
    assert_eq!(values(&mut store, DB), None);
    store.put(&put("other", &[])).unwrap();
    assert!(value(&world, DB).is_empty());
}

#[test]
fn both_forms_live_on_one_token_and_a_record_moves_with_its_next_write() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    let first = store.put(&put(DB, &[("k", b"1")])).unwrap().revision;
    store.put(&put("sealed", &[("k", &noise(9_000, 1))])).unwrap();
    let mut store = plain(&world);
    let second = store.put(&put(DB, &[("k", b"2")])).unwrap().revision;
    assert_eq!((second.relation(&first), form(&store, DB)), (Relation::Ahead, Form::Plain));
    assert_eq!(store.pending(), 0);
    let mut store = open(&world);
    assert_eq!(form(&store, "sealed"), Form::Sealed);
    let third = store.put(&put(DB, &[("k", b"3")])).unwrap().revision;
    assert_eq!((third.version.to_string(), form(&store, DB)), ("1.3".to_owned(), Form::Sealed));
    assert!(value(&world, DB).is_empty());
    assert_eq!(values(&mut plain(&world), DB), one("k", b"3"));
    // A copy of another token is written as the option says, in its own version.
    let other = formatted(Limits::SC_HSM);
    let mut mirror = plain(&other);
    let replica = || Replica { path: path(DB), revision: third.clone(), content: content(&[("k", b"3")]) };
    assert!(mirror.replicate(&replica()).unwrap().written);
    assert!(!mirror.replicate(&replica()).unwrap().written);
    assert_eq!((revision(&plain(&other), DB), value(&other, DB).len()), (third, 1));
}

#[test]
fn what_does_not_fit_is_refused_and_nothing_is_changed() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = plain(&world);
    store.put(&put(DB, &[("k", b"1")])).unwrap();
    let before = world.objects();
    let long = format!("secrets/ns/{}", "n".repeat(190));
    let refused = [
        put(DB, &[("k", &noise(1_500, 1))]),
        put(DB, &[("k", &[b'"'; 1_000])]),
        put(DB, &[("_hsm", b"x")]),
        put(&long, &[("k", b"v")]),
    ];
    for request in refused {
        let refused = store.put(&request).unwrap_err();
        assert!(matches!(refused, StoreError::NotPlain { .. }), "{refused}");
        assert_eq!(refused.remedy(), Remedy::Request);
        assert!(refused.to_string().contains("encryption: Envelope"), "{refused}");
    }
    assert_eq!(world.objects(), before);
    store.put(&put(DB, &[("k", &[b'x'; 1_500])])).unwrap();
    // Sealed, all of it works.
    let mut store = open(&world);
    store.put(&put(&long, &[("_hsm", &noise(3_000, 1))])).unwrap();
    assert_eq!(values(&mut plain(&world), &long).unwrap().len(), 1);
}

/// Replaces the object of a record as somebody does with a plain tool: writes another, and removes the old one.
fn edit(world: &World, label: &str, change: impl Fn(&mut serde_json::Value)) {
    let mut edited = value(world, label).pop().unwrap();
    change(&mut edited);
    let labels = world.objects().len();
    world.plant(label, serde_json::to_string_pretty(&edited).unwrap().as_bytes());
    world.remove(label);
    assert!(world.objects().len() < labels);
    world.plant(label, serde_json::to_string_pretty(&edited).unwrap().as_bytes());
}

#[test]
fn an_edit_by_hand_is_a_newer_version_the_same_for_every_reader() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let base = formatted(limits);
        let mut store = plain(&base);
        let mut request = put(DB, &[("k", b"1"), ("l", b"x")]);
        request.origin = hsm_store::PutOrigin::Secret;
        let first = store.put(&request).unwrap().revision;
        settled(&base, &mut store);
        edit(&base, DB, |record| {
            record["k"] = "2".into();
            record.as_object_mut().unwrap().remove("l");
        });
        let mut store = plain(&base);
        let edited = revision(&store, DB);
        assert_eq!(
            (edited.relation(&first), edited.version.to_string()),
            (Relation::Ahead, "2.1".to_owned())
        );
        assert!(store.index().damaged().is_empty());
        assert_eq!(values(&mut store, DB), one("k", b"2"));
        assert_eq!(revision(&open(&base.fork()), DB), edited);
        // What the Secret was is the base of a merge.
        let Origin::Token { mark: Some(mark) } = &edited.origin else { panic!("no mark") };
        assert_eq!((mark.stamp, mark.keys.len()), (first.version.stamp(), 2));
        // The next write continues from there, in either form.
        for open in [plain, open] {
            let mut store = open(&base.fork());
            let mut next = put(DB, &[("k", b"3")]);
            next.expect = Expect::Stamp(edited.version.stamp());
            let next = store.put(&next).unwrap().revision;
            assert_eq!((next.relation(&edited), next.relation(&first)), (Relation::Ahead, Relation::Ahead));
            store.delete(&path(DB), Expect::Any).unwrap();
            assert_eq!(values(&mut store, DB), None);
        }
        // Two edits that know nothing of each other have diverged, and nothing of them is lost.
        let world = base.fork();
        let mut other = value(&world, DB).pop().unwrap();
        other["k"] = "other".into();
        world.plant(DB, other.to_string().as_bytes());
        let mut store = plain(&world);
        assert!(matches!(store.get(&path(DB)), Err(StoreError::Diverged { heads, .. }) if heads.len() == 2));
        assert_eq!(value(&world, DB).len(), 2);
    }
}

#[test]
fn an_edit_without_hsm_is_one_of_the_plain_record_beside_it() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = formatted(limits);
        let mut store = plain(&world);
        let mut request = put("bare/name", &[("k", b"1")]);
        request.content.metadata.description = "kept".into();
        let first = store.put(&request).unwrap().revision;
        world.plant("bare/name", b"{\"k\": \"2\", \"new\": \"x\"}");
        world.clock().sleep(SETTLE);
        let mut store = plain(&world);
        let edited = revision(&store, "bare/name");
        assert_eq!((edited.relation(&first), store.pending()), (Relation::Ahead, 0));
        let Presence::Present(record) = store.get(&path("bare/name")).unwrap() else { panic!("not there") };
        assert_eq!((record.content.data.len(), record.content.metadata.description.as_str()), (2, "kept"));
        // What it is an edit of stays as long as it is needed to tell.
        settled(&world, &mut store);
        assert_eq!(value(&world, "bare/name").len(), 2);
        assert_eq!(revision(&plain(&world), "bare/name"), edited);
        assert!(store.migrate(false).is_err() || plain(&world).migrate(false).unwrap().records.is_empty());
        // Then both are superseded, the edit goes first, and it never comes back as an edit of its successor.
        let mut store = plain(&world);
        let next = store.put(&put("bare/name", &[("k", b"3")])).unwrap().revision;
        assert_eq!(next.relation(&edited), Relation::Ahead);
        for _ in 0..4 {
            let mut store = plain(&world);
            assert_eq!(values(&mut store, "bare/name"), one("k", b"3"));
            assert_eq!(revision(&store, "bare/name"), next);
            world.clock().sleep(SETTLE);
            store.settle().unwrap();
        }
        assert_eq!(value(&world, "bare/name").len(), 1);
    }
}

#[test]
fn without_a_plain_record_beside_it_json_is_a_foreign_record() {
    let world = formatted(Limits::SC_HSM);
    world.plant(DB, b"{\"k\": \"1\", \"l\": \"2\"}");
    world.clock().sleep(SETTLE);
    let mut store = plain(&world);
    let found = revision(&store, DB);
    assert_eq!((form(&store, DB), found.version.to_string()), (Form::Foreign, "0.1".to_owned()));
    // Imported under its own label: what is left of it is no edit.
    let report = store.migrate(false).unwrap();
    assert_eq!((report.records[0].outcome.clone(), report.freed), (MigrationOutcome::Migrated, 1));
    assert_eq!((form(&store, DB), revision(&store, DB)), (Form::Plain, found.clone()));
    let next = store.put(&put(DB, &[("k", b"3")])).unwrap().revision;
    assert_eq!(next.relation(&found), Relation::Ahead);
    settled(&world, &mut store);
    assert_eq!(value(&world, DB).len(), 1);
    assert_eq!(values(&mut plain(&world), DB), one("k", b"3"));
}

#[test]
fn somebody_elses_object_under_the_label_is_never_passed_for_an_edit() {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    store.put(&put(DB, &[("k", b"ours")])).unwrap();
    world.plant(DB, b"{\"k\": \"theirs\"}");
    let before = world.objects();
    let mut store = plain(&world);
    assert_eq!(values(&mut store, DB), one("k", b"ours"));
    assert!(matches!(store.put(&put(DB, &[("k", b"new")])), Err(StoreError::NotPlain { .. })));
    assert_eq!(world.objects(), before);
}

#[test]
fn what_is_not_understood_is_unknown_and_hides_nothing_else() {
    let base = formatted(Limits::SOFTWARE);
    let mut store = plain(&base);
    store.put(&put(DB, &[("k", b"1")])).unwrap();
    store.put(&put("other", &[("k", b"1")])).unwrap();
    let changes: [fn(&mut serde_json::Value); 4] = [
        |record| record["_hsm"]["format"] = 2.into(),
        |record| record["_hsm"]["path"] = "elsewhere".into(),
        |record| record["_hsm"]["version"] = "1.1".into(),
        |record| record["k"] = 1.into(),
    ];
    for change in changes {
        let world = base.fork();
        edit(&world, DB, change);
        let before = world.objects();
        let mut store = plain(&world);
        let Presence::Unknown(why) = store.get(&path(DB)).unwrap() else { panic!("it is read") };
        assert!(why.to_string().contains(DB), "{why}");
        assert!(matches!(store.put(&put(DB, &[])), Err(StoreError::Damaged { .. })));
        assert!(matches!(store.delete(&path(DB), Expect::Any), Err(StoreError::Damaged { .. })));
        assert_eq!(values(&mut store, "other"), one("k", b"1"));
        assert_eq!(values(&mut store, "never"), None);
        store.migrate(false).unwrap();
        assert_eq!(world.objects(), before);
    }
}

#[test]
fn a_stale_handle_is_noticed_and_destroys_nothing() {
    let world = formatted(Limits::SC_HSM);
    let mut store = plain(&world);
    for name in ["a", "b"] {
        store.put(&put(name, &[("k", name.as_bytes())])).unwrap();
    }
    settled(&world, &mut store);
    let mut token = world.connect();
    token.freeze();
    let mut frozen = plain_with(token, &world);
    // Somebody removes a and makes another object, which gets its handle.
    world.remove("a");
    world.plant("theirs", b"{\"k\":\"theirs\"}");
    assert!(frozen.get(&path("a")).is_err() || frozen.is_void());
    let _ = frozen.put(&put("a", &[("k", b"new")]));
    world.clock().sleep(SETTLE);
    let _ = frozen.settle();
    assert!(world.objects().iter().any(|(label, _)| label == "theirs"));
    assert_eq!(values(&mut plain(&world), "b"), one("k", b"b"));
}

#[test]
fn the_limit_counts_plain_records_and_a_full_token_can_be_emptied() {
    let world = formatted(Limits::SC_HSM);
    let mut store = plain(&world);
    for number in 0..111 {
        store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
    }
    assert_eq!(
        store.put(&put("r/new", &[])).unwrap_err(),
        StoreError::TokenFull { objects: 116, needed: 1, limit: 116 }
    );
    for number in 0..111 {
        store.put(&put(&format!("r/{number}"), &[("k", b"w")])).unwrap();
        assert!(world.objects().len() + 2 <= 122);
    }
    for number in 0..111 {
        store.delete(&path(&format!("r/{number}")), Expect::Any).unwrap();
        assert!(world.objects().len() + 2 <= 122);
    }
    settled(&world, &mut store);
    assert!(world.objects().len() < 10);
}

#[test]
fn compacting_empties_and_refills_plain_records_and_dismantling_takes_them_off() {
    let world = formatted(Limits::SC_HSM);
    let mut store = plain(&world);
    store.put(&put(DB, &[("k", b"1")])).unwrap();
    world.plant("app/db/k", b"theirs");
    world.plant("app/db/k", b"and theirs");
    world.clock().sleep(SETTLE);
    let mut store = plain(&world);
    let revision = revision(&store, DB);
    // What others have, even if it cannot be read as a record, keeps nobody from it.
    store.begin_compaction().unwrap();
    assert!(store.get(&path(DB)).unwrap().is_unknown());
    assert!(matches!(store.migrate(true), Err(StoreError::Compacting)));
    store.empty().unwrap();
    assert!(value(&world, DB).is_empty());
    let content = content(&[("k", b"1")]);
    store.refill(&Replica { path: path(DB), revision: revision.clone(), content }).unwrap();
    store.end_compaction().unwrap();
    let mut store = plain(&world);
    assert_eq!((values(&mut store, DB), form(&store, DB)), (one("k", b"1"), Form::Plain));
    Store::dismantle(&mut world.connect(), &mut world.options(lock_file())).unwrap();
    let left: Vec<String> = world.objects().into_iter().map(|(label, _)| label).collect();
    assert_eq!(left, ["app/db/k", "app/db/k"]);
}

#[test]
fn plain_records_keep_no_history_and_sealed_ones_keep_theirs() {
    let world = formatted(Limits::SOFTWARE);
    let kept = |value: &[u8]| hsm_store::PutRequest { keep_history: 3, ..put(DB, &[("k", value)]) };
    let mut store = plain(&world);
    store.put(&kept(b"1")).unwrap();
    store.put(&kept(b"2")).unwrap();
    assert_eq!(store.history(&path(DB)), Presence::Present(Vec::new()));
    let mut store = open(&world);
    store.put(&kept(b"3")).unwrap();
    let fourth = store.put(&kept(b"4")).unwrap().revision;
    let Presence::Present(history) = store.history(&path(DB)) else { panic!("not there") };
    assert_eq!(history.len(), 1);
    assert_eq!((values(&mut open(&world), DB), fourth.version.counter), (one("k", b"4"), 4));
}

// ---- A fault at every call. ----

type Operation = fn(&mut MemoryStore) -> Result<(), StoreError>;

fn prepare(limits: Limits, setup: fn(&World)) -> World {
    let world = formatted(limits);
    let mut store = plain(&world);
    store.put(&put(DB, &[("k", b"old")])).unwrap();
    store.put(&put("secrets/ns/db-prod", &[("k", b"prod")])).unwrap();
    world.clock().sleep(SETTLE);
    setup(&world);
    let mut store = plain(&world);
    settled(&world, &mut store);
    world.clock().sleep(SETTLE);
    world
}

fn check(world: &World, store: &mut MemoryStore, old: &Option<Values>, new: &Option<Values>, what: &str) {
    assert!(store.index().damaged().is_empty(), "{what}");
    let found = values(store, DB);
    assert!(found == *new || found == *old, "{what}: neither old nor new: {found:?}");
    assert_eq!(values(store, "secrets/ns/db-prod"), one("k", b"prod"), "{what}");
    store.put(&put(DB, &[("next", b"v")])).unwrap_or_else(|error| panic!("{what}: {error}"));
    settled(world, store);
    settled(world, store);
    let mut store = plain(world);
    assert_eq!(values(&mut store, DB), one("next", b"v"), "{what}");
    assert_eq!((value(world, DB).len(), store.pending()), (1, 0), "{what}");
}

fn enumerate(setup: fn(&World), old: &Option<Values>, operation: Operation, new: &Option<Values>) {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let base = prepare(limits, setup);
        let world = base.fork();
        let mut store = plain(&world);
        assert_eq!(values(&mut store, DB), *old);
        world.take_calls();
        operation(&mut store).unwrap();
        world.clock().sleep(SETTLE);
        store.settle().unwrap();
        let calls = world.take_calls().len();
        assert_eq!(values(&mut store, DB), *new);
        let mut worlds = 0;
        for number in 1..=calls + 1 {
            for when in [When::Before, When::After] {
                for kind in
                    [FaultKind::Crash, FaultKind::Fail(ErrorClass::Busy), FaultKind::Fail(ErrorClass::Module)]
                {
                    let world = base.fork();
                    let mut store = plain(&world);
                    world.script(Fault { function: None, number, when, kind });
                    let outcome = operation(&mut store);
                    if outcome.is_ok() {
                        world.clock().sleep(SETTLE);
                        let _ = store.settle();
                    }
                    let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}");
                    let accepted = if outcome.is_ok() { new } else { old };
                    let same = world.fork();
                    check(&same, &mut plain(&same), accepted, new, &format!("{what}, same flash"));
                    for keep in losses(world.unflushed()) {
                        let world = world.fork();
                        world.power_loss(|write| keep[write]);
                        check(&world, &mut plain(&world), accepted, new, &format!("{what}, kept {keep:?}"));
                        worlds += 1;
                    }
                    world.clear_script();
                    if store.refresh().is_ok() {
                        check(&world, &mut store, accepted, new, &format!("{what}, same store"));
                    }
                }
            }
        }
        assert!(worlds > 30, "{worlds}");
    }
}

#[test]
fn scenario_3_a_plain_record_replaced() {
    enumerate(
        |_| {},
        &one("k", b"old"),
        |store| store.put(&put(DB, &[("k", b"new")])).map(drop),
        &one("k", b"new"),
    );
}

#[test]
fn scenario_3_a_plain_record_deleted() {
    enumerate(|_| {}, &one("k", b"old"), |store| store.delete(&path(DB), Expect::Any).map(drop), &None);
}

#[test]
fn scenario_3_an_edit_without_hsm_replaced() {
    enumerate(
        |world| world.plant(DB, b"{\"k\":\"edited\"}"),
        &one("k", b"edited"),
        |store| store.put(&put(DB, &[("k", b"new")])).map(drop),
        &one("k", b"new"),
    );
}

#[test]
fn scenario_3_a_sealed_record_replaced_by_a_plain_one() {
    enumerate(
        |world| {
            open(world).put(&put(DB, &[("k", b"sealed")])).unwrap();
        },
        &one("k", b"sealed"),
        |store| store.put(&put(DB, &[("k", b"new")])).map(drop),
        &one("k", b"new"),
    );
}
