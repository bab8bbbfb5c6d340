//! DESIGN.md, "Frugal": own objects while they last, pages when they run short.

use std::collections::BTreeMap;
use std::time::Duration;

use hsm_store::testing::{Call, World};
use hsm_store::{Clock, Expect, PutOrigin, PutRequest, Remedy, StoreError};
use hsm_token::Limits;
use hsm_types::{Key, KeyDigest, Version, WriterId};

use crate::common::*;

const AT_REST: usize = 116;
const IN_PASSING: usize = 122;

/// All that the token lists, the two halves of the key pair among it.
pub fn listed(world: &World) -> usize {
    world.objects().len() + 2
}

/// A record as after a sync: one key, one earlier epoch, and the memory of the Secret.
fn synced(number: usize, value: &[u8]) -> PutRequest {
    let name = format!("secrets/namespace-x/secret-name-{number:03}");
    let mut request = put(&name, &[("password", value)]);
    let life = hsm_types::Incarnation::from_bytes([1; 8]);
    let digest = KeyDigest::of(life, &Key::new("password").unwrap(), &hsm_types::Value::new(value.to_vec()));
    request.origin = PutOrigin::Merged(vec![(Key::new("password").unwrap(), digest)]);
    request.parents = vec![Version::first(life, WriterId::from_bytes([3; 8]))];
    request
}

/// What the owner does when there is nothing else to do.
pub fn idle(world: &World, store: &mut MemoryStore) {
    loop {
        if let Some(due) = store.settle().unwrap() {
            world.clock().sleep(due);
            continue;
        }
        if !store.repack().unwrap() && store.pending() == 0 {
            return;
        }
    }
}

/// Numbers that look random and are the same each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }
}

fn seeded(number: usize, round: usize) -> Vec<u8> {
    let mut dice = Dice((number * 7 + round) as u64);
    (0..150).map(|_| u8::try_from(dice.below(256)).unwrap()).collect()
}

#[test]
fn five_hundred_secrets_and_a_bundle_fit_and_each_is_replaced() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    let mut largest = 0;
    for number in 0..500 {
        store.put(&synced(number, &seeded(number, 0))).unwrap();
        largest = largest.max(listed(&world));
        world.clock().sleep(Duration::from_secs(2));
        if number % 3 == 0 {
            idle(&world, &mut store);
        }
    }
    let (certificate, key) = (noise(13_000, 1), noise(3_000, 2));
    store.put(&put("secrets/namespace-x/tls", &[("tls.crt", &certificate), ("tls.key", &key)])).unwrap();
    idle(&world, &mut store);
    assert!(listed(&world) <= AT_REST, "{}", listed(&world));
    assert!(largest <= IN_PASSING, "{largest}");
    let check = |world: &World, round: &dyn Fn(usize) -> usize| {
        let mut store = open(world);
        assert!(store.index().damaged().is_empty());
        assert_eq!(store.index().entries().len(), 501);
        for number in 0..500 {
            let name = format!("secrets/namespace-x/secret-name-{number:03}");
            assert_eq!(values(&mut store, &name), one("password", &seeded(number, round(number))), "{name}");
        }
        let bundle = values(&mut store, "secrets/namespace-x/tls").unwrap();
        assert_eq!(
            bundle,
            [("tls.crt".to_owned(), certificate.clone()), ("tls.key".to_owned(), key.clone())]
        );
    };
    check(&world, &|_| 0);

    let mut order: Vec<usize> = (0..500).collect();
    Dice(4).shuffle(&mut order);
    let mut store = open(&world);
    world.clock().sleep(Duration::from_secs(2));
    for number in order {
        world.take_calls();
        store.put(&synced(number, &seeded(number, 1))).unwrap();
        let calls = world.take_calls();
        let count = |wanted: Call| calls.iter().filter(|call| **call == wanted).count();
        assert!(count(Call::Create) <= 1 && count(Call::Destroy) <= 1, "{calls:?}");
        assert_eq!(count(Call::List), 0);
        assert!(listed(&world) <= IN_PASSING);
        world.clock().sleep(Duration::from_secs(2));
        idle(&world, &mut store);
        assert!(listed(&world) <= AT_REST, "{}", listed(&world));
    }
    check(&world, &|_| 1);
}

#[test]
fn nothing_is_packed_while_objects_last() {
    for (limits, count) in [(Limits::SC_HSM, 103), (Limits::SOFTWARE, 150)] {
        let world = formatted(limits);
        let mut store = open(&world);
        for number in 0..count {
            store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
        }
        assert_eq!(sealed(&world).len(), count);
        world.take_calls();
        assert!(!store.repack().unwrap());
        assert!(world.take_calls().is_empty());
    }
}

#[test]
fn the_coldest_are_packed_and_what_is_hot_is_left() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    for number in 0..106 {
        store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
    }
    let hot = sealed(&world).split_off(98);
    world.clock().sleep(Duration::from_secs(2));
    idle(&world, &mut store);
    assert!(hot.iter().all(|label| sealed(&world).contains(label)));
    assert!(listed(&world) <= AT_REST - 8);
    let mut store = open(&world);
    for number in 0..106 {
        assert_eq!(values(&mut store, &format!("r/{number}")), one("k", b"v"));
    }
    // A record leaves its page with one create, and nothing is destroyed for it.
    world.clock().sleep(Duration::from_secs(5));
    world.take_calls();
    store.put(&put("r/0", &[("k", b"w")])).unwrap();
    assert_eq!(world.take_calls(), [Call::Create, Call::Read]);
    assert_eq!((store.pending(), values(&mut store, "r/0")), (0, one("k", b"w")));
}

/// Fills the token until a new record is refused, and says with how many.
fn fill(world: &World, store: &mut MemoryStore, dice: &mut Dice) -> BTreeMap<String, Vec<u8>> {
    let mut model = BTreeMap::new();
    let mut refused = 0;
    while refused < 3 {
        let name = format!("r/{}", model.len());
        let value = noise(dice.below(700), u8::try_from(model.len() % 250).unwrap());
        let before = world.objects();
        match store.put(&put(&name, &[("k", &value)])) {
            Ok(_) => {
                model.insert(name, value);
                assert!(listed(world) - store.pending() <= AT_REST);
            }
            Err(error) => {
                assert_eq!(error.remedy(), Remedy::Space, "{error}");
                let after = world.objects();
                assert!(before.iter().all(|object| after.contains(object)), "something was destroyed");
                refused += 1;
            }
        }
        assert!(listed(world) <= IN_PASSING);
    }
    model
}

#[test]
fn a_full_token_refuses_what_is_new_takes_replacements_and_can_be_emptied() {
    for seed in 1..=2 {
        let world = formatted(Limits::SC_HSM);
        let mut store = open(&world);
        let mut dice = Dice(seed);
        let mut model = fill(&world, &mut store, &mut dice);
        assert!(model.len() > 200, "seed {seed}: {}", model.len());
        let mut names: Vec<String> = model.keys().cloned().collect();
        dice.shuffle(&mut names);
        for name in &names {
            let value = noise(model[name].len(), 251);
            store
                .put(&put(name, &[("k", &value)]))
                .unwrap_or_else(|error| panic!("seed {seed}, {name}: {error}"));
            model.insert(name.clone(), value);
            assert!(listed(&world) <= IN_PASSING);
        }
        let mut store = open(&world);
        for (name, value) in &model {
            assert_eq!(values(&mut store, name), one("k", value), "seed {seed}");
        }
        dice.shuffle(&mut names);
        for name in &names {
            store
                .delete(&path(name), Expect::Any)
                .unwrap_or_else(|error| panic!("seed {seed}, {name}: {error}"));
            assert!(listed(&world) <= IN_PASSING);
        }
        let mut store = open(&world);
        idle(&world, &mut store);
        assert_eq!(store.index().tombstones().count(), model.len());
        assert!(names.iter().all(|name| values(&mut store, name).is_none()));
    }
}

#[test]
fn puts_that_arrive_together_share_pages_and_mean_what_they_mean_alone() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    let requests: Vec<PutRequest> = (0..300).map(|number| synced(number, &seeded(number, 0))).collect();
    world.take_calls();
    for outcome in store.put_all(&requests) {
        assert!(outcome.unwrap().written);
    }
    let creates = world.take_calls().into_iter().filter(|call| *call == Call::Create).count();
    // The first share pages, and the last have objects of their own again, as far as they last.
    assert!(creates < 120, "{creates}");
    assert!(listed(&world) <= AT_REST);
    for (outcome, request) in store.put_all(&requests).into_iter().zip(&requests) {
        let outcome = outcome.unwrap();
        assert!(!outcome.written);
        assert_eq!(store.index().entries()[&request.path].head().unwrap().revision, outcome.revision);
    }
    let mut store = open(&world);
    for number in 0..300 {
        let name = format!("secrets/namespace-x/secret-name-{number:03}");
        assert_eq!(values(&mut store, &name), one("password", &seeded(number, 0)));
    }
}

#[test]
fn a_batch_may_name_a_record_twice_and_refuse_some() {
    for limits in [Limits::SC_HSM, Limits::SOFTWARE] {
        let world = formatted(limits);
        let mut store = open(&world);
        for number in 0..105 {
            store.put(&put(&format!("r/{number}"), &[("k", b"v")])).unwrap();
        }
        let mut absent = put("new/1", &[("k", b"second")]);
        absent.expect = Expect::Absent;
        let requests = [
            put("new/0", &[("k", b"0")]),
            put("new/1", &[("k", b"first")]),
            absent,
            put("new/2", &[("k", b"2")]),
            put("new/1", &[("k", b"third")]),
            put("r/7", &[("k", b"w")]),
            put("new/3", &[("k", &noise(hsm_store::MAX_RECORD, 1))]),
            put("new/2", &[("k", b"2")]),
        ];
        let outcomes = store.put_all(&requests);
        let written: Vec<Option<bool>> =
            outcomes.iter().map(|outcome| outcome.as_ref().ok().map(|outcome| outcome.written)).collect();
        let expected = [Some(true), Some(true), None, Some(true), Some(true), Some(true), None, Some(false)];
        assert_eq!(written, expected);
        assert!(matches!(outcomes[2], Err(StoreError::VersionMismatch { .. })));
        assert!(matches!(outcomes[6], Err(StoreError::ValueTooLarge { .. })));
        let mut store = open(&world);
        assert_eq!(values(&mut store, "new/0"), one("k", b"0"));
        assert_eq!(values(&mut store, "new/1"), one("k", b"third"));
        assert_eq!(values(&mut store, "new/2"), one("k", b"2"));
        assert_eq!(values(&mut store, "r/7"), one("k", b"w"));
        assert_eq!(values(&mut store, "new/3"), None);
    }
}

#[test]
fn a_tombstone_is_forgotten_although_its_record_or_itself_lies_in_a_page() {
    let world = formatted(Limits::SC_HSM);
    let mut store = open(&world);
    let count = 140;
    for number in 0..count {
        store.put(&put(&format!("r/{number}"), &[("k", &noise(60, 1))])).unwrap();
        world.clock().sleep(Duration::from_secs(2));
        idle(&world, &mut store);
    }
    for number in [0, 1, 50, 139] {
        let name = format!("r/{number}");
        store.delete(&path(&name), Expect::Any).unwrap();
        let tombstone = store.index().tombstones().next().unwrap().clone();
        assert!(store.forget_tombstone(&tombstone.path, tombstone.incarnation).unwrap(), "{name}");
        for keep in [true, false] {
            let lossy = world.fork();
            lossy.power_loss(|_| keep);
            let mut store = open(&lossy);
            assert_eq!(values(&mut store, &name), None);
            assert_eq!(values(&mut store, "r/2"), one("k", &noise(60, 1)));
        }
    }
    assert_eq!(store.index().tombstones().count(), 0);
    let mut store = open(&world);
    assert_eq!(store.index().entries().len(), count - 4);
    assert!(!values(&mut store, "r/138").unwrap().is_empty());
}
