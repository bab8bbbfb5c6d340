//! SCENARIO 6 where the connection is not exclusive: another process destroys and creates objects beside us, so that our
//! handles name other objects than they did. What they give is never returned, and nothing is destroyed on their word.
//!
//! Within an epoch a module answers from its memory, whatever others have done since (TOKEN.md, section 4): there the
//! store cannot know, which is why the connection is exclusive unless somebody asks for another, and why a shared one
//! destroys only when an epoch is young.

use std::time::Duration;

use faulty_pkcs11::{Action, Fault, When};
use hsm_store::{Expect, Remedy, Store, StoreError};
use hsm_token::{ErrorClass, ObjectHandle, Token as _, Visibility};

use crate::bed::*;
use crate::narrow::Narrow;

/// A card that several processes reach at once, with two records on it.
fn shared() -> World {
    let mut world = World::formatted();
    world.exclusive = false;
    let mut store = world.open();
    store.put(&put("a", &[("k", b"old")])).unwrap();
    store.put(&put("b", &[("k", &noise(2_500, 1))])).unwrap();
    world.settle(&mut store);
    world
}

/// Labels of the sealed objects, oldest first.
fn sealed(world: &World) -> Vec<String> {
    let objects = world.machine.objects(READER).unwrap().into_iter();
    objects.map(|object| object.label).filter(|label| label.starts_with("hsm.j5t.io/o/")).collect()
}

fn handle_of(token: &mut Narrow, label: &str) -> ObjectHandle {
    token.list().unwrap().data.iter().find(|object| object.label == label).unwrap().handle
}

/// A process beside ours destroys these, and makes objects of its own that get their ids.
fn replace(theirs: &mut Narrow, labels: &[String]) {
    for label in labels {
        let handle = handle_of(theirs, label);
        theirs.destroy(handle).unwrap();
    }
    for number in 0..8 {
        theirs.create(&format!("theirs/{number}"), Visibility::Private, &noise(300, number)).unwrap();
    }
}

/// Their start takes the login that all share: nothing is answered from before it.
#[test]
fn somebody_started_beside_us() {
    let world = shared();
    let mut store = world.open();
    store.refresh().unwrap();
    let mut theirs = world.closed();
    theirs.worker.reopen().unwrap();
    let error = store.refresh().unwrap_err();
    assert!(matches!(&error, StoreError::Token(error) if error.class == ErrorClass::SessionLost), "{error}");
    assert!(error.remedy() == Remedy::Reopen && store.is_void());
    assert_eq!(store.get(&path("a")).err(), Some(StoreError::Void));
    assert_eq!(store.put(&put("a", &[])).err(), Some(StoreError::Void));
    drop((theirs, store));
    let mut store = world.open();
    assert_eq!(values(&mut store, &path("a")).unwrap(), one("k", b"old"));
}

/// While we open the token, after it was listed and before a record is read, all our records' objects go and theirs
/// take the ids: the card gives us their values under our labels, with CKR_OK.
#[test]
fn ids_that_are_given_again_while_we_read() {
    // Long enough for them on a slow machine, too.
    let in_time = [2_000, 8_000, 32_000].into_iter().any(read_while_others_write);
    assert!(in_time);
}

/// Whether they were done before we went on.
fn read_while_others_write(millis: u64) -> bool {
    let world = shared();
    let labels = sealed(&world);
    let (ours, options) = (world.logged_in(), world.options());
    let wait = Fault::at("C_FindObjectsFinal", 1, When::After, Action::Hang(Some(millis)));
    world.machine.script(wait).unwrap();
    let opening = std::thread::spawn(move || store(Store::open(ours, options)));
    while world.machine.struck().unwrap() == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut theirs = world.logged_in();
    replace(&mut theirs, &labels);
    let there = world.machine.objects(READER).unwrap();
    if opening.is_finished() {
        return false;
    }
    let mut ours = opening.join().unwrap();
    assert_eq!(ours.index().damaged().len(), labels.len(), "each of them is told");
    for name in ["a", "b", "never"] {
        assert!(ours.get(&path(name)).unwrap().is_unknown(), "{name}");
        for refused in [
            ours.put(&put(name, &[("k", b"new")])).map(drop),
            ours.delete(&path(name), Expect::Any).map(drop),
        ] {
            assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{name}: {refused:?}");
        }
    }
    world.sleep();
    ours.settle().unwrap();
    let _ = ours.repack();
    drop((ours, theirs));
    assert!(world.machine.objects(READER).unwrap() == there, "something was destroyed or written");
    true
}

/// What we superseded was destroyed by another process, which logged in and made an object that has its place now: our
/// handle reads as ours, from memory, and means theirs. It is not destroyed, and the next epoch sees what there is.
#[test]
fn what_got_the_place_of_ours_is_not_destroyed_in_its_stead() {
    let world = shared();
    let before = sealed(&world);
    let mut store = world.open();
    world.minute();
    store.put(&put("a", &[("k", b"new")])).unwrap();
    assert_eq!(store.pending(), 1);
    let mut theirs = world.logged_in();
    replace(&mut theirs, &before[..1]);
    world.minute();
    assert_eq!(store.settle().unwrap(), None);
    assert!(!store.repack().unwrap());
    drop(store);
    let there = world.machine.objects(READER).unwrap();
    assert_eq!(there.iter().filter(|object| object.label.starts_with("theirs/")).count(), 8);
    drop(theirs);
    let mut store = world.open();
    world.settle(&mut store);
    assert_eq!(values(&mut store, &path("a")).unwrap(), one("k", b"new"));
    assert!(world.machine.objects(READER).unwrap() == there, "nothing of theirs goes, and nothing of ours");
}

/// One object takes another's place, under its label: sealed for another name, it does not open.
#[test]
fn a_swapped_object_is_damage_and_never_another_record() {
    let world = shared();
    let mut theirs = world.logged_in();
    let labels = sealed(&world);
    let read = |label: &String, theirs: &mut Narrow| {
        let handle = handle_of(theirs, label);
        theirs.read(handle).unwrap().to_vec()
    };
    let all: Vec<Vec<u8>> = labels.iter().map(|label| read(label, &mut theirs)).collect();
    for label in &labels {
        let handle = handle_of(&mut theirs, label);
        theirs.destroy(handle).unwrap();
    }
    for (at, label) in labels.iter().enumerate() {
        theirs.create(label, Visibility::Private, &all[(at + 1) % labels.len()]).unwrap();
    }
    drop(theirs);
    let there = world.machine.objects(READER).unwrap();
    let mut store = world.open();
    assert_eq!(store.index().damaged().len(), labels.len());
    for name in ["a", "b", "never"] {
        assert!(store.get(&path(name)).unwrap().is_unknown(), "{name}");
        let refused = store.put(&put(name, &[("k", b"new")]));
        assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{name}: {refused:?}");
    }
    drop(store);
    assert!(world.machine.objects(READER).unwrap() == there, "nothing is rewritten");
}

/// A record was replaced, and before the old object was destroyed our process ended; somebody else destroyed it, and
/// theirs has its id. The next epoch leaves theirs alone.
#[test]
fn a_superseded_object_whose_id_was_given_again_is_left_alone() {
    let world = shared();
    let old = sealed(&world).into_iter().next().unwrap();
    let mut ours = world.open();
    ours.put(&put("a", &[("k", b"new")])).unwrap();
    assert_eq!(ours.pending(), 1);
    drop(ours);
    let mut theirs = world.logged_in();
    replace(&mut theirs, &[old]);
    drop(theirs);
    let mut ours = world.open();
    world.settle(&mut ours);
    assert_eq!(values(&mut ours, &path("a")).unwrap(), one("k", b"new"));
    let there = world.machine.objects(READER).unwrap();
    assert_eq!(there.iter().filter(|object| object.label.starts_with("theirs/")).count(), 8);
}
