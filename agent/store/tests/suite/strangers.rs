//! SCENARIOS 5 and 6: objects that are damaged, swapped, stale, or not ours.

use std::time::Duration;

use hsm_store::format::Damage;
use hsm_store::testing::{Call, Fault, FaultKind, When, World};
use hsm_store::{Clock, Expect, Remedy, Store, StoreError, identify};
use hsm_token::{ErrorClass, Limits, Token, Visibility};
use hsm_types::Presence;

use crate::common::*;

fn three() -> (World, Vec<String>) {
    let world = formatted(Limits::SOFTWARE);
    let mut store = open(&world);
    for name in ["a", "b", "c"] {
        store.put(&put(name, &[("k", name.as_bytes())])).unwrap();
    }
    let labels = sealed(&world);
    (world, labels)
}

/// `a` cannot be read: it is unknown, as is everything that was not found; the others go on.
fn a_is_hidden(store: &mut MemoryStore) {
    assert_eq!(store.index().damaged().len(), 1);
    for name in ["a", "never"] {
        assert!(store.get(&path(name)).unwrap().is_unknown(), "{name}");
        assert!(matches!(store.put(&put(name, &[("k", b"new")])), Err(StoreError::Damaged { .. })));
        let refused = store.delete(&path(name), Expect::Any).unwrap_err();
        assert_eq!(refused.remedy(), Remedy::Person);
    }
    assert_eq!(values(store, "b"), one("k", b"b"));
    // What is found can still be changed; its number is not one that may have been given before.
    let replaced = store.put(&put("c", &[("k", b"cc")])).unwrap().revision;
    assert_eq!(replaced.version.to_string(), "2.1");
    assert_eq!(values(store, "c"), one("k", b"cc"));
    store.delete(&path("c"), Expect::Any).unwrap();
    assert!(store.get(&path("c")).unwrap().is_unknown());
}

#[test]
fn scenario_5_an_altered_object_hides_its_record_and_nothing_else() {
    let (base, labels) = three();
    let change: [fn(&mut Vec<u8>); 6] = [
        |value| value[0] ^= 1,
        |value| value[2] += 1,
        |value| value[5] ^= 1,
        |value| value[40] ^= 1,
        |value| value.truncate(60),
        Vec::clear,
    ];
    for change in change {
        let world = base.fork();
        world.alter(&labels[0], change);
        a_is_hidden(&mut open(&world));
        assert!(sealed(&world).contains(&labels[0]));
    }
}

#[test]
fn scenario_5_an_object_that_cannot_be_read_hides_its_record_and_nothing_else() {
    let (base, labels) = three();
    let world = base.fork();
    world.haunt(&labels[0]);
    let mut store = open(&world);
    assert!(matches!(store.index().damaged()[0].damage, Damage::Unreadable(_)));
    a_is_hidden(&mut store);
    assert!(!store.is_void());
}

#[test]
fn a_hiccup_while_reading_is_not_damage() {
    let (base, _) = three();
    for number in 4..=6 {
        let world = base.fork();
        let token = world.connect();
        world.script(Fault {
            function: Some(Call::Read),
            number,
            when: When::Before,
            kind: FaultKind::Fail(ErrorClass::Module),
        });
        let mut store = open_with(token, &world);
        assert!(store.index().damaged().is_empty());
        assert_eq!(values(&mut store, "a"), one("k", b"a"));
    }
}

#[test]
fn scenario_6_swapped_copied_and_foreign_objects_are_not_believed() {
    let (base, labels) = three();
    let value = |world: &World, label: &str| {
        let found = world.objects().into_iter().find(|(l, _)| l == label);
        found.unwrap().1
    };
    // The value of b under the label of a.
    let world = base.fork();
    let b = value(&world, &labels[1]);
    world.alter(&labels[0], |value| value.clone_from(&b));
    a_is_hidden(&mut open(&world));
    // Two objects with one label.
    let world = base.fork();
    let a = value(&world, &labels[0]);
    world.plant(&labels[0], &a);
    a_is_hidden(&mut open(&world));
    // An object of another token's store.
    let (other, others) = three();
    let world = base.fork();
    world.remove(&labels[0]);
    world.plant(&others[0], &value(&other, &others[0]));
    a_is_hidden(&mut open(&world));
    // A name of a newer format.
    let world = base.fork();
    world.remove(&labels[0]);
    world.plant("hsm.j5t.io/p/1", b"from the future");
    a_is_hidden(&mut open(&world));
}

#[test]
fn scenario_6_a_stale_handle_is_noticed_and_destroys_nothing() {
    let (world, _) = three();
    let mut token = world.connect();
    token.freeze();
    let mut frozen = open_with(token, &world);
    let mut other = open_with(world.connect_beside(), &world);
    // The object of `a` goes, and its handle is given to another one.
    other.put(&put("a", &[("k", b"aa")])).unwrap();
    other.put(&put("d", &[("k", b"d")])).unwrap();
    assert_eq!(frozen.get(&path("a")).err(), Some(StoreError::ReadBack));
    assert!(frozen.is_void());
    assert_eq!(frozen.refresh(), Err(StoreError::Void));

    let mut token = world.connect();
    token.freeze();
    let mut frozen = open_with(token, &world);
    let mut other = open_with(world.connect_beside(), &world);
    other.put(&put("b", &[("k", b"bb")])).unwrap();
    other.put(&put("e", &[("k", b"e")])).unwrap();
    let _ = frozen.put(&put("b", &[("k", b"mine")]));
    let mut store = open(&world);
    for (name, value) in [("a", &b"aa"[..]), ("d", b"d"), ("e", b"e"), ("c", b"c")] {
        assert_eq!(values(&mut store, name), one("k", value), "{name}");
    }
    // b was edited apart, and nothing of it is lost.
    let Presence::Present(heads) = store.heads(&path("b")).unwrap() else { panic!("b is there") };
    assert!(heads.len() == 2 || heads.len() == 1);
}

#[test]
fn an_old_object_put_back_loses_to_the_newer_one() {
    let (world, labels) = three();
    let old = world.objects().into_iter().find(|(label, _)| *label == labels[0]).unwrap();
    let mut store = open(&world);
    store.put(&put("a", &[("k", b"new")])).unwrap();
    world.plant(&old.0, &old.1);
    store.refresh().unwrap();
    assert_eq!(values(&mut store, "a"), one("k", b"new"));
    store.delete(&path("a"), Expect::Any).unwrap();
    world.plant(&old.0, &old.1);
    let mut store = open(&world);
    assert_eq!(values(&mut store, "a"), None);
    store.settle().unwrap();
    assert!(!sealed(&world).contains(&old.0));
}

#[test]
fn what_is_not_ours_is_counted_and_never_read_or_touched() {
    let (world, _) = three();
    // No record's labels, and a label that could be one's on the object of another application.
    for label in ["secrets/a/", "a b", "x//hsm.j5t.io/token"] {
        world.plant(label, b"theirs");
    }
    world.plant_as("a", b"theirs", "a browser", Visibility::Public);
    let before = world.objects();
    world.take_calls();
    let mut store = open(&world);
    let reads = world.take_calls().into_iter().filter(|call| *call == Call::Read).count();
    assert_eq!(reads, 6);
    assert_eq!(store.index().counts().foreign, 4);
    for name in ["a", "b", "c"] {
        store.delete(&path(name), Expect::Any).unwrap();
    }
    let theirs = |objects: Vec<(String, Vec<u8>)>| -> Vec<_> {
        objects.into_iter().filter(|(_, value)| value == b"theirs").collect()
    };
    assert_eq!(theirs(world.objects()), theirs(before));
}

#[test]
fn one_copy_of_the_store_key_is_enough_and_none_is_never_made_anew() {
    let (base, _) = three();
    let fingerprint = open(&base).fingerprint();
    for copy in ["hsm.j5t.io/key/0", "hsm.j5t.io/key/1"] {
        let damaged: [fn(&World, &str); 3] = [
            |world, label| world.remove(label),
            |world, label| world.alter(label, |value| value[180] ^= 4),
            |world, label| world.alter(label, |value| value[100] ^= 4),
        ];
        for damage in damaged {
            let world = base.fork();
            damage(&world, copy);
            let mut store = open(&world);
            assert_eq!(store.fingerprint(), fingerprint);
            assert_eq!(store.index().damaged()[0].label, copy);
            assert_eq!(values(&mut store, "a"), one("k", b"a"));
            assert_eq!(values(&mut store, "never"), None);
        }
    }
    let ruin: [fn(&World); 4] = [
        |world| {
            for label in ["hsm.j5t.io/key/0", "hsm.j5t.io/key/1"] {
                world.remove(label);
            }
        },
        |world| {
            for label in ["hsm.j5t.io/key/0", "hsm.j5t.io/key/1"] {
                world.alter(label, |value| value[201] ^= 1);
            }
        },
        |world| world.connect().destroy_key_pair("hsm.j5t.io/store-key").unwrap(),
        |world| {
            let mut token = world.connect();
            token.destroy_key_pair("hsm.j5t.io/store-key").unwrap();
            token.generate_key_pair("hsm.j5t.io/store-key").unwrap();
        },
    ];
    for ruin in ruin {
        let world = base.fork();
        ruin(&world);
        let before = world.objects();
        let Err((mut token, error)) = Store::open(world.connect(), world.options(lock_file())) else {
            panic!("it cannot be opened")
        };
        assert!(matches!(error, StoreError::StoreKeyMissing(_)), "{error}");
        assert_eq!(error.remedy(), Remedy::Person);
        let again = Store::format(&mut token, None, &mut world.options(lock_file()));
        assert!(matches!(again, Err(StoreError::NotBlank(_))));
        assert_eq!(world.objects(), before);
    }
}

#[test]
fn the_identity_is_read_without_login_and_its_loss_loses_no_record() {
    let blank = World::new(Limits::SOFTWARE);
    assert!(identify(&mut blank.connect()).unwrap().is_absent());
    let opened = Store::open(blank.connect(), blank.options(lock_file()));
    assert_eq!(opened.err().unwrap().1, StoreError::NoIdentity);
    let (base, _) = three();
    let id = open(&base).token_id();
    assert_eq!(identify(&mut base.connect()).unwrap(), Presence::Present(id));
    let ruin: [fn(&World); 3] = [
        |world| world.remove("hsm.j5t.io/token"),
        |world| world.alter("hsm.j5t.io/token", |value| value[9] ^= 1),
        |world| world.plant("hsm.j5t.io/token", b"\xf5H\x01\x01"),
    ];
    for (number, ruin) in ruin.iter().enumerate() {
        let world = base.fork();
        ruin(&world);
        let identity = identify(&mut world.connect()).unwrap();
        assert_eq!(identity.is_absent(), number == 0);
        assert_eq!(identity.is_unknown(), number > 0);
        let mut store = open(&world);
        assert_eq!(store.token_id(), id);
        assert_eq!(values(&mut store, "a"), one("k", b"a"));
        assert_eq!(store.index().damaged().len(), 1);
        let again = Store::format(&mut world.connect(), None, &mut world.options(lock_file()));
        assert!(matches!(again, Err(StoreError::NotBlank(_))));
    }
}

#[test]
fn a_token_that_lost_objects_lost_records_and_deleted_none() {
    let (world, labels) = three();
    let mut store = open(&world);
    store.put(&put("big", &[("k", &noise(9_000, 1))])).unwrap();
    let chunks: Vec<String> = sealed(&world).into_iter().filter(|label| !labels.contains(label)).collect();
    world.remove(&labels[0]);
    world.remove(&chunks[2]);
    let mut changed = store.refresh().unwrap();
    changed.sort();
    assert_eq!(changed, [path("a"), path("big")]);
    assert_eq!(store.index().tombstones().count(), 0);
    assert_eq!(values(&mut store, "a"), None);
    assert_eq!(values(&mut store, "big"), None);
    assert!(store.index().entries()[&path("big")].incomplete);
    // The remains stay until something newer is there.
    store.put(&put("d", &[("k", b"d")])).unwrap();
    assert_eq!(store.pending(), 0);
    assert!(sealed(&world).contains(&chunks[1]));
    store.put(&put("big", &[("k", b"healed")])).unwrap();
    assert_eq!(sealed(&world).len(), 4);
}

#[test]
fn a_ghost_on_hardware_costs_one_more_look_in_an_epoch() {
    let world = formatted(Limits::SC_HSM);
    open(&world).put(&put("a", &[("k", b"a")])).unwrap();
    let ghost = sealed(&world);
    open(&world).put(&put("b", &[("k", b"b")])).unwrap();
    world.haunt(&ghost[0]);
    let mut store = open(&world);
    world.take_calls();
    for value in [b"1", b"2", b"3"] {
        store.put(&put("b", &[("k", value)])).unwrap();
    }
    let lists = world.take_calls().into_iter().filter(|call| *call == Call::List).count();
    // A listing is repeated while what it shows cannot be read.
    assert!((1..=4).contains(&lists), "{lists}");
    assert!(store.get(&path("a")).unwrap().is_unknown());
}

#[test]
fn on_hardware_a_write_of_unknown_outcome_ends_the_epoch() {
    for function in [Call::Create, Call::Destroy] {
        for when in [When::Before, When::After] {
            let world = formatted(Limits::SC_HSM);
            let mut store = open(&world);
            store.put(&put("a", &[("k", b"1")])).unwrap();
            let kind = FaultKind::Fail(ErrorClass::Busy);
            world.script(Fault { function: Some(function), number: 1, when, kind });
            let put_it = store.put(&put("a", &[("k", b"2")]));
            assert_eq!(put_it.is_err(), function == Call::Create);
            world.clock().sleep(Duration::from_secs(5));
            let _ = store.settle();
            assert!(store.is_void());
            // With a new view the next write gets a number of its own.
            let mut store = open(&world);
            store.put(&put("a", &[("k", b"3")])).unwrap();
            assert_eq!(values(&mut open(&world), "a"), one("k", b"3"));
        }
    }
}

#[test]
fn a_session_that_ended_is_not_used_again() {
    let (world, _) = three();
    let mut store = open(&world);
    let _successor = world.connect();
    let lost = store.refresh().unwrap_err();
    assert_eq!(lost.remedy(), Remedy::Reopen);
    assert!(store.is_void());
    assert_eq!(store.put(&put("a", &[])), Err(StoreError::Void));
    assert!(matches!(store.get(&path("a")), Err(StoreError::Void)));
}

/// SCENARIO 6, on a shared reader: what others did since the epoch began does not show, so nothing is destroyed then.
#[test]
fn a_shared_token_is_only_destroyed_from_in_a_young_epoch() {
    let world = formatted(Limits::SC_HSM);
    world.share();
    let mut store = open(&world);
    store.put(&put("a", &[("k", b"1")])).unwrap();
    world.clock().sleep(Duration::from_mins(1));
    world.take_calls();
    store.put(&put("a", &[("k", b"2")])).unwrap();
    store.put(&put("b", &[("k", b"1")])).unwrap();
    world.clock().sleep(Duration::from_mins(1));
    assert_eq!((store.settle().unwrap(), store.pending()), (None, 1));
    assert!(!store.repack().unwrap());
    assert!(!world.take_calls().contains(&Call::Destroy));
    assert_eq!(values(&mut store, "a"), one("k", b"2"));

    // The next epoch clears up, as soon as the flash has settled.
    let mut store = open(&world);
    let due = store.settle().unwrap().unwrap();
    world.clock().sleep(due);
    assert_eq!((store.settle().unwrap(), store.pending()), (None, 0));
    assert_eq!(sealed(&world).len(), 2);
    assert_eq!(values(&mut store, "a"), one("k", b"2"));
}

/// Where room is needed that only a destruction makes, the epoch ends, and the next one has it.
#[test]
fn a_full_shared_token_goes_on_in_the_next_epoch() {
    let world = formatted(Limits::SC_HSM);
    world.share();
    let mut store = open(&world);
    world.clock().sleep(Duration::from_mins(1));
    let mut epochs = 0;
    for number in 0..400u32 {
        let edit = put(&format!("r/{}", number % 40), &[("k", &number.to_be_bytes())]);
        match store.put(&edit) {
            Ok(outcome) => assert!(outcome.written),
            Err(error) => {
                assert_eq!(error.remedy(), Remedy::Reopen, "{error}");
                epochs += 1;
                store = open(&world);
                store.put(&edit).unwrap();
                world.clock().sleep(Duration::from_mins(1));
            }
        }
        assert!(world.objects().len() + 2 <= 122);
    }
    assert!((2..40).contains(&epochs), "{epochs} epochs");
    for number in 360..400u32 {
        let name = format!("r/{}", number % 40);
        assert_eq!(values(&mut store, &name), one("k", &number.to_be_bytes()), "{name}");
    }
}
