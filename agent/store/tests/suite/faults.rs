//! SCENARIO 3: a fault at every call, before and after, with every loss of unflushed writes: wholly old or wholly
//! new, other records as they were, and the next write works.

use std::time::Duration;

use hsm_store::testing::{Fault, FaultKind, When, World};
use hsm_store::{Clock, Expect, Store, StoreError};
use hsm_token::{ErrorClass, Limits};
use hsm_types::TokenId;

use crate::common::*;

const SUBJECT: &str = "secrets/a/db";
const SETTLE: Duration = Duration::from_secs(2);
/// The other classes that end an epoch differ in nothing from a crash.
const KINDS: [FaultKind; 5] = [
    FaultKind::Crash,
    FaultKind::Fail(ErrorClass::Busy),
    FaultKind::Fail(ErrorClass::NoSuchObject),
    FaultKind::Fail(ErrorClass::Module),
    FaultKind::Fail(ErrorClass::Full),
];

struct Case {
    limits: Limits,
    setup: fn(&mut MemoryStore),
    operation: fn(&mut MemoryStore) -> Result<(), StoreError>,
    old: Option<Values>,
    new: Option<Values>,
}

fn bystanders() -> Vec<(&'static str, Vec<u8>)> {
    vec![("secrets/a/db-prod", noise(40, 1)), ("secrets/a/d", noise(2_000, 2)), ("secrets/a/db/x", vec![])]
}

/// Every subset of few writes; of many, what is lost at an end or alone.
pub fn losses(writes: usize) -> Vec<Vec<bool>> {
    if writes <= 4 {
        let all = 1usize << writes;
        return (0..all).map(|mask| (0..writes).map(|bit| mask >> bit & 1 == 1).collect()).collect();
    }
    let mut kept: Vec<Vec<bool>> = Vec::new();
    for cut in 0..=writes {
        kept.push((0..writes).map(|write| write < cut).collect());
        kept.push((0..writes).map(|write| write >= cut).collect());
        kept.push((0..writes).map(|write| write != cut).collect());
    }
    kept.sort();
    kept.dedup();
    kept
}

fn prepare(case: &Case) -> World {
    let world = formatted(case.limits);
    let mut store = open(&world);
    for (name, value) in bystanders() {
        store.put(&put(name, &[("k", &value)])).unwrap();
    }
    store.put(&put("gone", &[("k", b"x")])).unwrap();
    store.delete(&path("gone"), Expect::Any).unwrap();
    (case.setup)(&mut store);
    world.clock().sleep(SETTLE);
    store.settle().unwrap();
    world.clock().sleep(SETTLE);
    assert_eq!((store.pending(), world.unflushed()), (0, 0));
    world
}

/// The operation, and if asked for the time that the flash needs and the destruction of what it superseded.
fn run(case: &Case, world: &World, store: &mut MemoryStore, settle: bool) -> Result<(), StoreError> {
    (case.operation)(store)?;
    if settle {
        world.clock().sleep(SETTLE);
        let _ = store.settle();
    }
    Ok(())
}

fn check_bystanders(store: &mut MemoryStore) {
    for (name, value) in bystanders() {
        assert_eq!(values(store, name), one("k", &value), "{name}");
    }
    assert_eq!(values(store, "gone"), None);
}

fn check(case: &Case, world: &World, accepted: bool, what: &str) {
    let mut store = open(world);
    assert!(store.index().damaged().is_empty(), "{what}");
    check_bystanders(&mut store);
    let found = values(&mut store, SUBJECT);
    assert!(found == case.new || (found == case.old && !accepted), "{what}: neither old nor new");
    settle_next(world, &mut store, what);
}

/// The next write works, and when it has settled nothing is left over.
fn settle_next(world: &World, store: &mut MemoryStore, what: &str) {
    let next = noise(77, 77);
    store.put(&put(SUBJECT, &[("next", &next)])).unwrap_or_else(|error| panic!("{what}: {error}"));
    world.clock().sleep(SETTLE);
    store.settle().unwrap();
    assert_eq!(store.pending(), 0, "{what}");
    assert_eq!(store.index().entries()[&path(SUBJECT)].heads.len(), 1, "{what}");
    world.clock().sleep(SETTLE);
    let mut store = open(world);
    assert_eq!(values(&mut store, SUBJECT), one("next", &next), "{what}");
    check_bystanders(&mut store);
    assert!(!store.index().entries()[&path(SUBJECT)].incomplete, "{what}");
    // The subject, two small bystanders, one of two chunks and their head; the rest are tombstones.
    let tombstones = sealed(world).len() - 1 - 2 - 3;
    assert!(tombstones == 1, "{what}: {tombstones} objects too many");
}

fn enumerate(case: &Case) -> usize {
    let base = prepare(case);
    let world = base.fork();
    let mut store = open(&world);
    assert_eq!(values(&mut store, SUBJECT), case.old);
    world.take_calls();
    run(case, &world, &mut store, true).unwrap();
    let calls = world.take_calls().len();
    assert_eq!(values(&mut store, SUBJECT), case.new);
    check(case, &world, true, "no fault");

    let mut worlds = 0;
    // Once more than there are calls: nothing fails, and then the power goes.
    for number in 1..=calls + 1 {
        for when in [When::Before, When::After] {
            for kind in KINDS {
                for settle in [false, true] {
                    let world = base.fork();
                    let mut store = open(&world);
                    world.script(Fault { function: None, number, when, kind });
                    let outcome = run(case, &world, &mut store, settle);
                    let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {settle}, {outcome:?}");
                    let all = kind == FaultKind::Crash;
                    worlds += aftermath(case, &world, &mut store, (outcome.is_ok(), settle, all), &what);
                }
            }
        }
    }
    worlds
}

/// Whatever may come after: the same flash in a new session, every loss of what is not in the flash yet, and the
/// same store going on.
fn aftermath(
    case: &Case,
    world: &World,
    store: &mut MemoryStore,
    (accepted, settled, all): (bool, bool, bool),
    what: &str,
) -> usize {
    let mut worlds = 1;
    check(case, &world.fork(), accepted, &format!("{what}, same flash"));
    // Every subset where the session crashed; else all of it, which is the most that can go.
    let unflushed = world.unflushed();
    let kept = if all { losses(unflushed) } else { vec![vec![false; unflushed]] };
    for keep in kept {
        let world = world.fork();
        world.power_loss(|write| keep[write]);
        // What was answered and has settled is there for good.
        check(case, &world, accepted && settled, &format!("{what}, kept {keep:?}"));
        worlds += 1;
    }
    world.clear_script();
    // Unless it says that it cannot: a session that crashed is noticed by the next call at the latest.
    if store.refresh().is_ok() {
        settle_next(world, store, &format!("{what}, same store"));
        worlds += 1;
    }
    worlds
}

fn both(
    setup: fn(&mut MemoryStore),
    operation: fn(&mut MemoryStore) -> Result<(), StoreError>,
    old: &Option<Values>,
    new: &Option<Values>,
) {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let case = Case { limits, setup, operation, old: old.clone(), new: new.clone() };
        let worlds = enumerate(&case);
        assert!(worlds > 100, "{worlds}");
    }
}

fn write(store: &mut MemoryStore, value: &[u8]) -> Result<(), StoreError> {
    store.put(&put(SUBJECT, &[("k", value)])).map(drop)
}

#[test]
fn a_new_record() {
    both(|_| {}, |store| write(store, b"new"), &None, &one("k", b"new"));
}

#[test]
fn a_small_record_replaced() {
    both(
        |store| write(store, b"old").unwrap(),
        |store| write(store, b"new"),
        &one("k", b"old"),
        &one("k", b"new"),
    );
}

#[test]
fn a_new_record_in_chunks() {
    both(|_| {}, |store| write(store, &noise(5_000, 5)), &None, &one("k", &noise(5_000, 5)));
}

#[test]
fn a_record_in_chunks_replaced_by_one() {
    both(
        |store| write(store, &noise(5_000, 4)).unwrap(),
        |store| write(store, &noise(3_000, 5)),
        &one("k", &noise(5_000, 4)),
        &one("k", &noise(3_000, 5)),
    );
}

#[test]
fn a_record_in_chunks_replaced_by_a_small_one() {
    both(
        |store| write(store, &noise(5_000, 4)).unwrap(),
        |store| write(store, b"new"),
        &one("k", &noise(5_000, 4)),
        &one("k", b"new"),
    );
}

#[test]
fn a_record_deleted_and_its_tombstone_packed() {
    both(
        |store| write(store, b"old").unwrap(),
        |store| store.delete(&path(SUBJECT), Expect::Any).map(drop),
        &one("k", b"old"),
        &None,
    );
}

#[test]
fn a_record_in_chunks_deleted() {
    both(
        |store| write(store, &noise(5_000, 4)).unwrap(),
        |store| store.delete(&path(SUBJECT), Expect::Any).map(drop),
        &one("k", &noise(5_000, 4)),
        &None,
    );
}

#[test]
fn formatting() {
    let id = TokenId::from_random([7; 16]);
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let base = World::new(limits);
        base.plant("someone else's", b"value");
        let world = base.fork();
        let mut token = world.connect();
        Store::format(&mut token, Some(id), &mut world.options(lock_file())).unwrap();
        let calls = world.take_calls().len();
        for number in 1..=calls {
            for when in [When::Before, When::After] {
                for kind in KINDS {
                    let world = base.fork();
                    let mut token = world.connect();
                    world.script(Fault { function: None, number, when, kind });
                    let outcome = Store::format(&mut token, Some(id), &mut world.options(lock_file()));
                    for keep in losses(world.unflushed()) {
                        let world = world.fork();
                        world.power_loss(|write| keep[write]);
                        let what =
                            format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}, {keep:?}");
                        check_format(&world, id, outcome.is_ok(), &what);
                    }
                }
            }
        }
    }
}

fn check_format(world: &World, id: TokenId, accepted: bool, what: &str) {
    let done = Store::open(world.connect(), world.options(lock_file()));
    assert!(done.is_ok() || !accepted, "{what}");
    if let Err((mut token, error)) = done {
        assert_eq!(error, StoreError::NoIdentity, "{what}");
        Store::format(&mut token, Some(id), &mut world.options(lock_file()))
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let mut store = open(world);
    assert_eq!(store.token_id(), id, "{what}");
    assert!(store.index().damaged().is_empty(), "{what}");
    store.put(&put("a", &[("k", b"v")])).unwrap();
    assert_eq!(values(&mut open(world), "a"), one("k", b"v"), "{what}");
    assert_eq!(world.objects().len(), 5, "{what}");
    let again = Store::format(&mut world.connect(), None, &mut world.options(lock_file()));
    assert!(matches!(again, Err(StoreError::NotBlank(_))), "{what}");
}
