//! SCENARIO 3 where records share objects: a fault at every call of packing, of batches, of history and of a
//! compaction, with every loss of unflushed writes. Each record is wholly as before or wholly as after.

use std::collections::BTreeMap;
use std::time::Duration;

use hsm_store::testing::{Fault, FaultKind, When, World};
use hsm_store::{Clock, Expect, PutRequest, Replica, Store, StoreError};
use hsm_token::{ErrorClass, Limits};
use hsm_types::{Presence, TokenId, Tombstone};

use crate::common::*;
use crate::faults::losses;
use crate::packing::idle;

const SETTLE: Duration = Duration::from_secs(2);
const ALL: &[FaultKind] = &[
    FaultKind::Crash,
    FaultKind::Fail(ErrorClass::Busy),
    FaultKind::Fail(ErrorClass::NoSuchObject),
    FaultKind::Fail(ErrorClass::Full),
];
const FEW: &[FaultKind] = &[FaultKind::Crash, FaultKind::Fail(ErrorClass::Busy)];

/// A token on which objects are short after a few records.
const SMALL: Limits = Limits { objects_at_rest: Some(20), objects_in_passing: Some(26), ..Limits::SC_HSM };

type Snapshot = BTreeMap<String, Option<Values>>;
type Operation = fn(&World, &mut MemoryStore) -> Result<(), StoreError>;

struct Case {
    limits: Limits,
    kinds: &'static [FaultKind],
    setup: fn(&World, &mut MemoryStore),
    operation: Operation,
}

fn wait(world: &World, store: &mut MemoryStore) {
    world.clock().sleep(SETTLE);
    store.settle().unwrap();
    world.clock().sleep(SETTLE);
}

/// Every path that is known, with its values; every earlier value that is listed can be read.
fn snapshot(store: &mut MemoryStore, what: &str) -> Snapshot {
    assert!(store.index().damaged().is_empty(), "{what}");
    let entries: Vec<_> = store.index().entries().iter().map(|(p, e)| (p.clone(), e.clone())).collect();
    let mut snapshot = Snapshot::new();
    for (path, entry) in entries {
        let found = values(store, path.as_str());
        for head in &entry.history {
            let stamp = head.revision.version.stamp();
            let Presence::Present(record) = store.history_value(&path, stamp).unwrap() else {
                panic!("{what}: history of {path}")
            };
            assert_eq!(record.revision, head.revision, "{what}");
            assert!(entry.heads.iter().all(|current| current.revision.version.includes(&stamp)), "{what}");
        }
        snapshot.insert(path.as_str().to_owned(), found);
    }
    snapshot
}

/// Each record is one of the two, and what the operation does not touch is as it was.
fn compare(before: &Snapshot, after: &Snapshot, found: &Snapshot, accepted: bool, what: &str) {
    let paths = before.keys().chain(after.keys()).chain(found.keys());
    for path in paths {
        let of = |snapshot: &Snapshot| snapshot.get(path).cloned().flatten();
        let now = of(found);
        assert!(
            now == of(after) || (now == of(before) && !accepted),
            "{what}: {path} is neither old nor new"
        );
    }
}

struct Run<'a> {
    case: &'a Case,
    before: Snapshot,
    after: Snapshot,
}

impl Run<'_> {
    fn check(&self, world: &World, accepted: bool, what: &str) {
        let mut store = open(world);
        self.go_on(world, &mut store, accepted, what);
    }

    /// What is there, and the next writes.
    fn go_on(&self, world: &World, store: &mut MemoryStore, accepted: bool, what: &str) {
        let found = snapshot(store, what);
        compare(&self.before, &self.after, &found, accepted, what);
        let next = noise(30, 77);
        store.put(&put("next", &[("k", &next)])).unwrap_or_else(|error| panic!("{what}: {error}"));
        // The remains of an interrupted write go with the next write to their path.
        let incomplete = store.index().entries().iter().filter(|(_, entry)| entry.incomplete);
        let mut written: Vec<String> = incomplete.map(|(path, _)| path.as_str().to_owned()).collect();
        written.extend(["r/2".to_owned(), "next".to_owned()]);
        for name in &written {
            store
                .put(&put(name, &[("k", b"newer")]))
                .unwrap_or_else(|error| panic!("{what}, {name}: {error}"));
        }
        wait(world, store);
        idle(world, store);
        world.clock().sleep(SETTLE);
        assert_eq!(store.pending(), 0, "{what}");
        let mut store = open(world);
        let mut settled = snapshot(&mut store, what);
        let mut found = found;
        for name in &written {
            assert_eq!(settled.remove(name).flatten(), one("k", b"newer"), "{what}");
            found.remove(name);
        }
        assert_eq!(settled, found, "{what}");
        let clean = |entry: &hsm_store::Entry| entry.heads.len() <= 1 && !entry.incomplete;
        assert!(store.index().entries().values().all(clean), "{what}");
        assert_eq!(store.pending(), 0, "{what}");
    }
}

fn enumerate(case: &Case) -> usize {
    let base = formatted(case.limits);
    let mut store = open(&base);
    (case.setup)(&base, &mut store);
    wait(&base, &mut store);
    assert_eq!((store.pending(), base.unflushed()), (0, 0));
    let before = snapshot(&mut open(&base), "before");

    let world = base.fork();
    let mut store = open(&world);
    world.clock().sleep(SETTLE);
    world.take_calls();
    (case.operation)(&world, &mut store).unwrap();
    world.clock().sleep(SETTLE);
    store.settle().unwrap();
    let calls = world.take_calls().len();
    let after = snapshot(&mut store, "after");
    let run = Run { case, before, after };
    run.check(&world, true, "no fault");

    let mut worlds = 0;
    for number in 1..=calls + 1 {
        for when in [When::Before, When::After] {
            for kind in run.case.kinds {
                for settle in [false, true] {
                    let world = base.fork();
                    let mut store = open(&world);
                    world.clock().sleep(SETTLE);
                    world.script(Fault { function: None, number, when, kind: *kind });
                    let outcome = (case.operation)(&world, &mut store);
                    if settle && outcome.is_ok() {
                        world.clock().sleep(SETTLE);
                        let _ = store.settle();
                    }
                    let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {settle}, {outcome:?}");
                    run.check(&world.fork(), outcome.is_ok(), &format!("{what}, same flash"));
                    let unflushed = world.unflushed();
                    let kept = if *kind == FaultKind::Crash {
                        losses(unflushed)
                    } else {
                        vec![vec![false; unflushed]]
                    };
                    for keep in kept {
                        let world = world.fork();
                        world.power_loss(|write| keep[write]);
                        run.check(&world, outcome.is_ok() && settle, &format!("{what}, kept {keep:?}"));
                        worlds += 1;
                    }
                    world.clear_script();
                    if store.refresh().is_ok() {
                        run.go_on(&world, &mut store, outcome.is_ok(), &format!("{what}, same store"));
                    }
                }
            }
        }
    }
    worlds
}

fn fill(store: &mut MemoryStore, from: usize, to: usize) {
    for number in from..to {
        let value = noise(250, u8::try_from(number).unwrap());
        store.put(&put(&format!("r/{number}"), &[("k", &value)])).unwrap();
    }
}

/// One page of five, some own objects, and a record that was deleted.
fn paged(world: &World, store: &mut MemoryStore) {
    store.put(&put("gone", &[("k", b"x")])).unwrap();
    fill(store, 0, 10);
    store.delete(&path("gone"), Expect::Any).unwrap();
    wait(world, store);
    while store.repack().unwrap() {}
    wait(world, store);
    assert!(sealed(world).len() < 10, "{}", sealed(world).len());
}

#[test]
fn a_record_leaves_its_page() {
    let case = Case {
        limits: SMALL,
        kinds: ALL,
        setup: paged,
        operation: |_, store| store.put(&put("r/1", &[("k", b"new")])).map(drop),
    };
    assert!(enumerate(&case) > 20);
}

#[test]
fn own_objects_are_packed() {
    let case = Case {
        limits: SMALL,
        kinds: ALL,
        setup: |_, store| fill(store, 0, 10),
        operation: |_, store| store.repack().map(drop),
    };
    assert!(enumerate(&case) > 100);
}

#[test]
fn a_page_is_replaced_and_replaced_again() {
    let case = Case {
        limits: SMALL,
        kinds: FEW,
        setup: |world, store| {
            paged(world, store);
            // Two holes, and enough own objects that filling them is the best that can be done.
            for name in ["r/0", "r/1"] {
                store.put(&put(name, &[("k", &noise(250, 200))])).unwrap();
            }
            wait(world, store);
            fill(store, 10, 12);
            wait(world, store);
        },
        operation: |world, store| {
            for pair in [["r/3", "r/4"], ["r/5", "r/6"]] {
                for name in pair {
                    store.put(&put(name, &[("k", &noise(250, 100))]))?;
                }
                world.clock().sleep(SETTLE);
                store.settle()?;
                while store.repack()? {}
            }
            Ok(())
        },
    };
    assert!(enumerate(&case) > 100);
}

#[test]
fn puts_that_share_a_page() {
    let case = Case {
        limits: SMALL,
        kinds: ALL,
        setup: |_, store| fill(store, 0, 8),
        operation: |_, store| {
            let requests: Vec<PutRequest> =
                (0..6u8).map(|n| put(&format!("new/{n}"), &[("k", &noise(200, n))])).collect();
            store.put_all(&requests).into_iter().try_for_each(|outcome| outcome.map(drop))
        },
    };
    assert!(enumerate(&case) > 50);
}

#[test]
fn a_new_record_for_which_others_are_packed() {
    let case = Case {
        limits: SMALL,
        kinds: FEW,
        setup: |_, store| fill(store, 0, 15),
        operation: |_, store| store.put(&put("new", &[("k", &noise(3_000, 9))])).map(drop),
    };
    assert!(enumerate(&case) > 100);
}

/// A token that is full to the last hole.
fn brimful(world: &World, store: &mut MemoryStore) {
    let mut number = 0;
    while store.put(&put(&format!("r/{number}"), &[("k", &noise(250, number))])).is_ok() {
        wait(world, store);
        number += 1;
    }
    assert!(number > 20, "{number}");
}

#[test]
fn a_replacement_that_goes_back_to_its_page() {
    let limits = Limits { objects_at_rest: Some(10), objects_in_passing: Some(13), ..Limits::SC_HSM };
    let base = formatted(limits);
    let mut store = open(&base);
    brimful(&base, &mut store);
    let before = snapshot(&mut open(&base), "before");
    let world = base.fork();
    let operation = |store: &mut MemoryStore| store.put(&put("r/2", &[("k", &noise(250, 99))])).map(drop);
    let mut store = open(&world);
    world.take_calls();
    operation(&mut store).unwrap();
    let calls = world.take_calls().len();
    let after = snapshot(&mut store, "after");
    for number in 1..=calls + 1 {
        for when in [When::Before, When::After] {
            for kind in ALL {
                let world = base.fork();
                let mut store = open(&world);
                world.script(Fault { function: None, number, when, kind: *kind });
                let outcome = operation(&mut store);
                for keep in losses(world.unflushed()) {
                    let world = world.fork();
                    world.power_loss(|write| keep[write]);
                    let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}, {keep:?}");
                    let mut store = open(&world);
                    compare(&before, &after, &snapshot(&mut store, &what), false, &what);
                    // However full it is, each of them can be replaced again.
                    for name in before.keys() {
                        store
                            .put(&put(name, &[("k", &noise(250, 98))]))
                            .unwrap_or_else(|error| panic!("{what}, {name}: {error}"));
                        assert!(world.objects().len() + 2 <= 13, "{what}");
                    }
                    let mut store = open(&world);
                    for name in before.keys() {
                        assert_eq!(values(&mut store, name), one("k", &noise(250, 98)), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn history_beside_a_record_and_apart() {
    for (limits, size) in
        [(Limits::SC_HSM, 40), (Limits::SC_HSM, 1_200), (Limits::SC_HSM, 2_500), (Limits::SOFTWARE, 2_500)]
    {
        for operation in [
            (|size, store: &mut MemoryStore| {
                let mut request = put("r/1", &[("k", &noise(size, 3))]);
                request.keep_history = 2;
                store.put(&request).map(drop)
            }) as fn(usize, &mut MemoryStore) -> Result<(), StoreError>,
            |_, store| {
                let Presence::Present(history) = store.history(&path("r/1")) else { return Ok(()) };
                store.restore(&path("r/1"), history[0].version.stamp(), Expect::Any).map(drop)
            },
        ] {
            history_case(limits, size, operation);
        }
    }
}

/// As `enumerate`, with a size that a function pointer cannot hold.
fn history_case(
    limits: Limits,
    size: usize,
    operation: fn(usize, &mut MemoryStore) -> Result<(), StoreError>,
) {
    let base = formatted(limits);
    let mut store = open(&base);
    store.put(&put("r/2", &[("k", b"beside")])).unwrap();
    for round in 1..3 {
        let mut request = put("r/1", &[("k", &noise(size, round))]);
        request.keep_history = 2;
        store.put(&request).unwrap();
        wait(&base, &mut store);
    }
    let before = snapshot(&mut open(&base), "before");
    let world = base.fork();
    let mut store = open(&world);
    world.take_calls();
    operation(size, &mut store).unwrap();
    let calls = world.take_calls().len();
    let after = snapshot(&mut store, "after");
    assert_ne!(before, after);
    let case = Case { limits, kinds: FEW, setup: |_, _| {}, operation: |_, _| Ok(()) };
    let run = Run { case: &case, before, after };
    for number in 1..=calls + 1 {
        for when in [When::Before, When::After] {
            for kind in FEW {
                let world = base.fork();
                let mut store = open(&world);
                world.script(Fault { function: None, number, when, kind: *kind });
                let outcome = operation(size, &mut store);
                let what = format!("{size}, call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}");
                run.check(&world.fork(), outcome.is_ok(), &what);
                for keep in losses(world.unflushed()) {
                    let world = world.fork();
                    world.power_loss(|write| keep[write]);
                    run.check(&world, false, &format!("{what}, kept {keep:?}"));
                }
            }
        }
    }
}

#[test]
fn a_tombstone_is_forgotten_with_its_page_rewritten() {
    let case = Case {
        limits: SMALL,
        kinds: FEW,
        setup: |world, store| {
            paged(world, store);
            store.delete(&path("r/1"), Expect::Any).unwrap();
            store.delete(&path("r/3"), Expect::Any).unwrap();
        },
        operation: |_, store| {
            let tombstones: Vec<Tombstone> = store.index().tombstones().cloned().collect();
            for tombstone in tombstones {
                store.forget_tombstone(&tombstone.path, tombstone.incarnation)?;
            }
            Ok(())
        },
    };
    assert!(enumerate(&case) > 100);
}

/// Everything on a token, as a mirror or an export has it.
struct Copy {
    replicas: Vec<Replica>,
    tombstones: Vec<Tombstone>,
}

fn copy(world: &World) -> Copy {
    let mut store = open(world);
    let paths: Vec<_> = store.index().entries().keys().cloned().collect();
    let mut replicas = Vec::new();
    for path in paths {
        if let Presence::Present(record) = store.get(&path).unwrap() {
            replicas.push(Replica { path, revision: record.revision, content: record.content });
        }
    }
    Copy { replicas, tombstones: store.index().tombstones().cloned().collect() }
}

fn compact(store: &mut MemoryStore, copy: &Copy) -> Result<(), StoreError> {
    store.begin_compaction()?;
    store.empty()?;
    store.bury(&copy.tombstones)?;
    for replica in &copy.replicas {
        store.refill(replica)?;
    }
    store.end_compaction()
}

#[test]
fn a_compaction_is_finished_wherever_it_stopped() {
    let base = formatted(SMALL);
    let mut store = open(&base);
    paged(&base, &mut store);
    store.put(&put("big", &[("k", &noise(3_000, 4))])).unwrap();
    wait(&base, &mut store);
    let kept = copy(&base);
    let before = snapshot(&mut open(&base), "before");
    let world = base.fork();
    let mut store = open(&world);
    assert!(matches!(store.empty(), Err(StoreError::Invalid(_))));
    assert!(matches!(store.refill(&kept.replicas[0]), Err(StoreError::Invalid(_))));
    world.take_calls();
    compact(&mut store, &kept).unwrap();
    let calls = world.take_calls().len();
    assert_eq!(snapshot(&mut open(&world), "after"), before);
    for number in 1..=calls {
        for when in [When::Before, When::After] {
            for kind in FEW {
                let world = base.fork();
                let mut store = open(&world);
                world.script(Fault { function: None, number, when, kind: *kind });
                let outcome = compact(&mut store, &kept);
                for keep in losses(world.unflushed().min(5)) {
                    let world = world.fork();
                    world.power_loss(|write| keep.get(write).copied().unwrap_or(true));
                    let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}, {keep:?}");
                    let mut store = open(&world);
                    if store.is_compacting() {
                        assert!(store.get(&path("r/1")).unwrap().is_unknown(), "{what}");
                        assert_eq!(store.put(&put("r/1", &[])), Err(StoreError::Compacting), "{what}");
                    } else {
                        // Not begun yet, or done.
                        assert_eq!(snapshot(&mut store, &what), before, "{what}");
                    }
                    compact(&mut store, &kept).unwrap_or_else(|error| panic!("{what}: {error}"));
                    let mut store = open(&world);
                    assert_eq!(snapshot(&mut store, &what), before, "{what}");
                    assert_eq!(store.index().tombstones().count(), kept.tombstones.len(), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_store_is_dismantled_and_made_anew_with_the_same_id() {
    let id = TokenId::from_random([7; 16]);
    let base = World::new(SMALL);
    Store::format(&mut base.connect(), Some(id), &mut base.options(lock_file())).unwrap();
    base.plant("no record of ours", b"not ours");
    let mut store = open(&base);
    paged(&base, &mut store);
    wait(&base, &mut store);
    let before = snapshot(&mut open(&base), "before");
    let world = base.fork();
    let mut token = world.connect();
    Store::dismantle(&mut token, &mut world.options(lock_file())).unwrap();
    assert_eq!(world.objects(), [("no record of ours".to_owned(), b"not ours".to_vec())]);
    let calls = world.take_calls().len();
    for number in 1..=calls {
        for when in [When::Before, When::After] {
            for kind in FEW {
                let world = base.fork();
                let mut token = world.connect();
                world.script(Fault { function: None, number, when, kind: *kind });
                let outcome = Store::dismantle(&mut token, &mut world.options(lock_file()));
                for keep in losses(world.unflushed().min(5)) {
                    let world = world.fork();
                    world.power_loss(|write| keep.get(write).copied().unwrap_or(true));
                    let what = format!("call {number} of {calls}, {when:?}, {kind:?}, {outcome:?}, {keep:?}");
                    match Store::open(world.connect(), world.options(lock_file())) {
                        // What is left is what was there; nothing that was deleted is back.
                        Ok(mut store) => {
                            for (path, found) in snapshot(&mut store, &what) {
                                assert!(
                                    found.is_none() || before.get(&path) == Some(&found),
                                    "{what}: {path}"
                                );
                            }
                        }
                        Err((_, error)) => assert_eq!(error, StoreError::NoIdentity, "{what}"),
                    }
                    let mut token = world.connect();
                    Store::dismantle(&mut token, &mut world.options(lock_file()))
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    let made = Store::format(&mut token, Some(id), &mut world.options(lock_file()));
                    assert_eq!(made.unwrap_or_else(|error| panic!("{what}: {error}")).token_id, id);
                    let mut store = open(&world);
                    assert!(store.index().entries().is_empty(), "{what}");
                    store.put(&put("a", &[("k", b"v")])).unwrap();
                    assert_eq!(values(&mut open(&world), "a"), one("k", b"v"), "{what}");
                }
            }
        }
    }
}
