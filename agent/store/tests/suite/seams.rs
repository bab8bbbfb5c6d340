//! Where the parts of the store meet: records of others, plain records, packing, compaction, tombstones.

use std::time::Duration;

use hsm_store::testing::{Call, Fault, FaultKind, When, World};
use hsm_store::{Clock, Encryption, Expect, Form, Options, Replica, Store, StoreError};
use hsm_token::{ErrorClass, Limits, Visibility};
use hsm_types::{Presence, Relation};

use crate::common::*;
use crate::faults::losses;

const SETTLE: Duration = Duration::from_secs(2);

fn world(limits: Limits) -> World {
    let world = formatted(limits);
    world.clock().sleep(SETTLE);
    world
}

/// A store that writes in clear.
fn plain(world: &World) -> MemoryStore {
    let options = Options { encryption: Encryption::None, ..world.options(lock_file()) };
    Store::open(world.connect(), options).map_err(|(_, error)| error).unwrap()
}

fn labels(world: &World) -> Vec<String> {
    let mut labels: Vec<String> = world.objects().into_iter().map(|(label, _)| label).collect();
    labels.retain(|label| !label.starts_with("hsm.j5t.io/"));
    labels.sort();
    labels
}

#[test]
fn a_record_of_the_default_form_is_not_taken_as_the_key_of_a_namespace_or_as_a_path_of_its_own() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = world(limits);
        for label in ["secrets/n/a", "secrets/n/b", "secrets/m/db/user"] {
            world.plant(label, b"v");
        }
        let before = world.objects();
        let mut store = open(&world);
        for other in ["secrets/n", "secrets/m/db/user"] {
            let refused =
                [store.put(&put(other, &[])).map(drop), store.delete(&path(other), Expect::Any).map(drop)];
            for refused in refused {
                assert!(matches!(refused, Err(StoreError::Contested { .. })), "{other}: {refused:?}");
            }
        }
        assert_eq!(world.objects(), before);
        for name in ["secrets/n/a", "secrets/n/b"] {
            store.put(&put(name, &[("data", b"new")])).unwrap();
        }
        store.delete(&path("secrets/m/db"), Expect::Any).unwrap();
        let mut store = open(&world);
        for name in ["secrets/n/a", "secrets/n/b"] {
            assert_eq!(values(&mut store, name), one("data", b"new"));
        }
        assert_eq!(values(&mut store, "secrets/m/db"), None);
    }
}

#[test]
fn a_foreign_record_that_fits_no_plain_one_can_be_replaced_and_deleted_all_the_same() {
    for delete in [false, true] {
        let world = world(Limits::SC_HSM);
        world.plant("secrets/n/big", &noise(3000, 1));
        let mut store = plain(&world);
        if delete {
            store.delete(&path("secrets/n/big"), Expect::Any).unwrap();
        } else {
            store.put(&put("secrets/n/big", &[("k", b"short")])).unwrap();
        }
        world.clock().sleep(SETTLE);
        store.settle().unwrap();
        let mut store = plain(&world);
        assert_eq!(values(&mut store, "secrets/n/big"), if delete { None } else { one("k", b"short") });
        assert_eq!(labels(&world).len(), usize::from(!delete));
    }
}

#[test]
fn a_large_foreign_record_on_a_full_token_can_be_deleted() {
    let world = world(Limits::SC_HSM);
    world.plant("secrets/n/big", &noise(4000, 1));
    let mut number = 0;
    while open(&world).index().counts().total() < 116 {
        world.plant(&format!("not a record {number}"), b"x");
        number += 1;
    }
    let mut store = open(&world);
    store.delete(&path("secrets/n/big"), Expect::Any).unwrap();
    assert!(world.objects().len() + 2 <= 122);
    assert_eq!(values(&mut open(&world), "secrets/n/big"), None);
}

#[test]
fn a_compaction_refills_a_record_whose_foreign_objects_are_still_there() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        // The mirror took it over and went on.
        let mirror = world(limits);
        mirror.plant("app/db/k", b"old");
        let mut other = open(&mirror);
        other.put(&put("app/db", &[("k", b"new")])).unwrap();
        let Presence::Present(record) = other.get(&path("app/db")).unwrap() else { panic!("gone") };

        let world = world(limits);
        world.plant("app/db/k", b"old");
        let mut store = open(&world);
        store.begin_compaction().unwrap();
        store.empty().unwrap();
        let replica = Replica { path: path("app/db"), revision: record.revision, content: record.content };
        store.refill(&replica).unwrap();
        // The same again, and a newer one over it.
        store.refill(&replica).unwrap();
        other.put(&put("app/db", &[("k", b"newer")])).unwrap();
        let Presence::Present(record) = other.get(&path("app/db")).unwrap() else { panic!("gone") };
        let replica = Replica { path: path("app/db"), revision: record.revision, content: record.content };
        store.refill(&replica).unwrap();
        store.end_compaction().unwrap();
        let mut store = open(&world);
        assert_eq!(values(&mut store, "app/db"), one("k", b"newer"));
        assert_eq!(labels(&world), [""; 0]);
    }
}

#[test]
fn a_tombstone_stays_while_a_foreign_copy_cannot_be_read() {
    let world = world(Limits::SOFTWARE);
    world.plant("app/db/k", b"v");
    let copy = world.fork();
    let mut store = open(&world);
    let tombstones = store.delete(&path("app/db"), Expect::Any).unwrap().tombstones;

    // The other token has the foreign copy, and cannot read it for now.
    copy.haunt("app/db/k");
    let mut store = open(&copy);
    assert!(store.get(&path("app/db")).unwrap().is_unknown());
    store.bury(&tombstones).unwrap();
    let forgotten = store.forget_tombstone(&path("app/db"), tombstones[0].incarnation);
    assert!(matches!(forgotten, Err(StoreError::Damaged { .. })), "{forgotten:?}");
}

#[test]
fn a_key_that_looks_like_a_broken_plain_record_is_missing_from_no_record() {
    let world = world(Limits::SOFTWARE);
    for (label, value) in [("app/db/user", &b"admin"[..]), ("app/db/cfg", br#"{"_hsm":{"format":9}}"#)] {
        world.plant_as(label, value, "hsm-secrets-operator", Visibility::Private);
    }
    world.plant_as("app/db/_metadata", b"{}", "hsm-secrets-operator", Visibility::Private);
    let mut store = open(&world);
    assert!(store.get(&path("app/db")).unwrap().is_unknown());
    assert!(matches!(store.put(&put("app/db", &[("user", b"x")])), Err(StoreError::Damaged { .. })));
    assert_eq!(labels(&world).len(), 3);
}

#[test]
fn a_leftover_that_changed_is_not_waited_for_for_ever() {
    let base = world(Limits::SC_HSM);
    base.plant_as("app/db/k", b"v", "hsm-secrets-operator", Visibility::Private);
    base.plant_as("app/db/l", b"w", "hsm-secrets-operator", Visibility::Private);
    let mut store = open(&base);
    base.script(Fault {
        function: Some(Call::Destroy),
        number: 1,
        when: When::Before,
        kind: FaultKind::Crash,
    });
    store.migrate(false).unwrap_err();
    let mut store = open(&base);
    assert_eq!(store.pending(), 2);
    for label in ["app/db/k", "app/db/l"] {
        base.alter(label, |value| value[0] ^= 1);
    }
    base.clock().sleep(SETTLE);
    assert_eq!(store.settle().unwrap(), None);
    assert_eq!((store.pending(), labels(&base).len()), (0, 2));
}

#[test]
fn emptying_takes_an_edit_before_what_it_is_an_edit_of() {
    let base = world(Limits::SC_HSM);
    let mut store = plain(&base);
    store.put(&put("app/db", &[("k", b"1")])).unwrap();
    // Which of the two comes first by its name depends on the value.
    for edit in ["2", "3", "4", "5"] {
        let world = base.fork();
        world.plant("app/db", format!("{{\"k\":\"{edit}\"}}").as_bytes());
        world.clock().sleep(SETTLE);
        let mut store = plain(&world);
        assert_eq!(values(&mut store, "app/db"), one("k", edit.as_bytes()));
        store.begin_compaction().unwrap();
        world.script(Fault {
            function: Some(Call::Destroy),
            number: 2,
            when: When::Before,
            kind: FaultKind::Crash,
        });
        store.empty().unwrap_err();
        world.clear_script();
        world.clock().sleep(SETTLE);
        let mut store = plain(&world);
        store.empty().unwrap();
        store.end_compaction().unwrap();
        assert_eq!(labels(&world), [""; 0], "{edit}");
    }
}

#[test]
fn puts_together_take_foreign_and_new_records() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = world(limits);
        world.plant("app/db/k", b"old");
        world.plant("x/y/z", b"old");
        let mut number = 0;
        while limits.objects_at_rest.is_some() && open(&world).index().counts().total() < 112 {
            world.plant(&format!("not a record {number}"), b"x");
            number += 1;
        }
        let mut store = open(&world);
        let outcomes = store.put_all(&[
            put("new/a", &[("k", b"1")]),
            put("app/db", &[("k", b"2")]),
            put("new/b", &[("k", b"3")]),
            put("x/y", &[("z", b"4")]),
            put("new/c", &[("k", b"5")]),
            put("new/a", &[("k", b"6")]),
        ]);
        for outcome in outcomes {
            outcome.unwrap();
        }
        world.clock().sleep(SETTLE);
        let mut store = open(&world);
        let expected: [(&str, &str, &[u8]); 5] = [
            ("new/a", "k", b"6"),
            ("app/db", "k", b"2"),
            ("new/b", "k", b"3"),
            ("x/y", "z", b"4"),
            ("new/c", "k", b"5"),
        ];
        for (name, key, value) in expected {
            assert_eq!(values(&mut store, name), one(key, value), "{name}");
            assert!(store.index().entries()[&path(name)].heads.iter().all(|head| head.form == Form::Sealed));
        }
    }
}

#[test]
fn puts_together_never_give_a_number_again_after_one_of_them_failed() {
    for (limits, foreign) in
        [(Limits::SOFTWARE, false), (Limits::SOFTWARE, true), (Limits::SC_HSM, false), (Limits::SC_HSM, true)]
    {
        let base = world(limits);
        if foreign {
            base.plant("app/db/k", b"0");
        } else {
            open(&base).put(&put("app/db", &[("k", b"0")])).unwrap();
            base.clock().sleep(SETTLE);
        }
        for (when, class) in [
            (When::Before, ErrorClass::Busy),
            (When::After, ErrorClass::Busy),
            (When::After, ErrorClass::Module),
        ] {
            for number in 1.. {
                let world = base.fork();
                let mut store = open(&world);
                world.script(Fault { function: None, number, when, kind: FaultKind::Fail(class) });
                let outcomes = store.put_all(&[put("app/db", &[("k", b"1")]), put("app/db", &[("k", b"2")])]);
                let done = outcomes.iter().all(Result::is_ok) && number > 40;
                world.clear_script();
                world.clock().sleep(SETTLE);
                let mut store = open(&world);
                let what = format!("{limits:?} {foreign} {when:?} {class:?} {number}");
                let expected: &[&[u8]] = match (&outcomes[0], &outcomes[1]) {
                    (_, Ok(_)) => &[b"2"],
                    (Ok(_), Err(_)) => &[b"1", b"2"],
                    (Err(_), Err(_)) => &[b"0", b"1", b"2"],
                };
                let found = values(&mut store, "app/db");
                assert!(expected.iter().any(|value| found == one("k", value)), "{what}: {found:?}");
                if done {
                    break;
                }
            }
        }
    }
}

#[test]
fn the_number_of_a_plain_version_that_cannot_be_read_is_not_given_again() {
    let world = world(Limits::SC_HSM);
    let first = open(&world).put(&put("app/db", &[("k", b"1")])).unwrap();
    world.clock().sleep(SETTLE);
    let lost = plain(&world).put(&put("app/db", &[("k", b"2")])).unwrap();
    assert_eq!((first.revision.version.counter, lost.revision.version.counter), (1, 2));
    // The sealed one is still there when the plain one becomes a ghost.
    world.haunt("app/db");
    let mut store = open(&world);
    assert_eq!(values(&mut store, "app/db"), one("k", b"1"));
    let again = store.put(&put("app/db", &[("k", b"3")])).unwrap();
    assert_eq!(again.revision.relation(&lost.revision), Relation::Diverged);
    assert_eq!(again.revision.version.epoch.number, 2);
}

// ---- A store that writes in clear, over records of others: a fault at every call. ----

const SUBJECT: &str = "secrets/n/db";

type Operation = fn(&mut MemoryStore) -> Result<(), StoreError>;

fn by_hand(world: &World) {
    world.plant(SUBJECT, br#"{"user":"admin","pass":"s3cr3t"}"#);
}

fn of_go(world: &World) {
    let go = |label: &str, value: &[u8]| {
        world.plant_as(label, value, "hsm-secrets-operator", Visibility::Private);
    };
    go("secrets/n/db/user", b"admin");
    go("secrets/n/db/pass", b"s3cr3t");
    go("secrets/n/db/_metadata", br#"{"description":"the db"}"#);
}

fn too_large(world: &World) {
    world.plant("secrets/n/db/big", &noise(2500, 3));
}

fn check(world: &World, operation: Operation, states: (&Option<Values>, &Option<Values>), what: &str) {
    let (old, new) = states;
    let mut store = plain(world);
    assert!(store.index().damaged().is_empty(), "{what}");
    let found = values(&mut store, SUBJECT);
    assert!(found == *new || found == *old, "{what}: neither old nor new: {found:?}");
    operation(&mut store).unwrap_or_else(|error| panic!("{what}: again: {error}"));
    finish(world, &mut store, new, what);
    let mut store = plain(world);
    assert_eq!(values(&mut store, SUBJECT), *new, "{what}");
    store.put(&put(SUBJECT, &[("next", b"v")])).unwrap();
    finish(world, &mut store, &one("next", b"v"), what);
    store.delete(&path(SUBJECT), Expect::Any).unwrap();
    finish(world, &mut store, &None, what);
    assert_eq!(labels(world), [""; 0], "{what}");
}

fn finish(world: &World, store: &mut MemoryStore, new: &Option<Values>, what: &str) {
    for _ in 0..4 {
        world.clock().sleep(SETTLE);
        store.settle().unwrap();
    }
    assert_eq!((store.pending(), values(store, SUBJECT)), (0, new.clone()), "{what}");
}

fn enumerate(limits: Limits, setup: fn(&World), operation: Operation, new: &Option<Values>) {
    let base = world(limits);
    setup(&base);
    let world = base.fork();
    let mut store = plain(&world);
    let old = values(&mut store, SUBJECT);
    assert!(old.is_some());
    world.take_calls();
    operation(&mut store).unwrap();
    let calls = world.take_calls().len();
    let states = (&old, new);
    for number in 1..=calls + 1 {
        for (when, kind) in [
            (When::Before, FaultKind::Crash),
            (When::After, FaultKind::Crash),
            (When::Before, FaultKind::Fail(ErrorClass::Busy)),
            (When::After, FaultKind::Fail(ErrorClass::Module)),
        ] {
            let world = base.fork();
            let mut store = plain(&world);
            world.script(Fault { function: None, number, when, kind });
            let outcome = operation(&mut store);
            let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}");
            check(&world.fork(), operation, states, &format!("{what}, same flash"));
            let unflushed = world.unflushed();
            let kept =
                if kind == FaultKind::Crash { losses(unflushed) } else { vec![vec![false; unflushed]] };
            for keep in kept {
                let world = world.fork();
                world.power_loss(|write| keep[write]);
                check(&world, operation, states, &format!("{what}, kept {keep:?}"));
            }
        }
    }
}

fn everywhere(operation: Operation, new: &Option<Values>) {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        for setup in [by_hand, of_go, too_large] {
            enumerate(limits, setup, operation, new);
        }
    }
}

#[test]
fn scenario_3_a_foreign_record_replaced_by_a_plain_one() {
    everywhere(|store| store.put(&put(SUBJECT, &[("user", b"new")])).map(drop), &one("user", b"new"));
}

#[test]
fn scenario_3_a_foreign_record_deleted_where_records_are_plain() {
    everywhere(|store| store.delete(&path(SUBJECT), Expect::Any).map(drop), &None);
}
