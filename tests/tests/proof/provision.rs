//! SCENARIO 3 and 29 where no store is open yet: a fault at every PKCS#11 call of provisioning (`Store::format` on a card
//! without a store), of a change of the PIN, and of opening itself (C_Initialize, login, and reading the index).

use std::time::Duration;

use faulty_pkcs11::{Action, Fault, Keep, ObjectKind, When};
use hsm_store::{Store, StoreError};
use hsm_token::{ErrorClass, Pin, Token as _, TokenError};
use hsm_types::TokenId;

use crate::bed::*;

const CKRS: [&str; 3] = ["CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_DEVICE_REMOVED"];
const WHENS: [When; 3] = [When::Before, When::Between, When::After];

/// What happens at this call in the ordinary run: a failure, a crash, a removal.
fn actions(number: usize) -> [Action; 3] {
    [Action::Fail(CKRS[number % CKRS.len()].to_owned()), Action::Crash, Action::Remove]
}

fn id() -> TokenId {
    TokenId::from_random([7; 16])
}

fn format(world: &World, token: &mut crate::narrow::Narrow) -> Result<(), StoreError> {
    Store::format(token, Some(id()), &mut world.options()).map(drop)
}

/// Whatever an attempt has left, the next one makes the store that was asked for, or it is there.
fn check_formatted(world: &World, accepted: bool, what: &str) {
    let ghosts = world.count(ObjectKind::Ghost);
    if ghosts > 0 {
        // Of ours or not, nobody can say: it is refused, and `doctor --repair` removes it.
        assert!(!accepted, "{what}");
        let mut token = world.logged_in();
        let refused = format(world, &mut token);
        assert!(matches!(refused, Err(StoreError::NotBlank(_))), "{what}: {refused:?}");
        drop(token);
        assert_eq!(world.machine.remove_ghosts(READER).unwrap(), ghosts);
    }
    match Store::open(world.logged_in(), world.options()) {
        Ok(_) => {}
        Err((mut token, error)) => {
            assert!(!accepted, "{what}: {error}");
            assert_eq!(error, StoreError::NoIdentity, "{what}");
            format(world, &mut token).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    let mut store = world.open();
    assert!(store.token_id() == id() && store.index().damaged().is_empty(), "{what}");
    store.put(&put("a", &[("k", b"v")])).unwrap();
    drop(store);
    let mut store = world.open();
    assert_eq!(values(&mut store, &path("a")).unwrap(), one("k", b"v"), "{what}");
    // The identity, the store key twice, its key pair, the record.
    assert_eq!(world.objects(), 6, "{what}");
    let again = Store::format(store.token(), None, &mut world.options());
    assert!(matches!(again, Err(StoreError::NotBlank(_))), "{what}");
}

#[test]
fn provisioning() {
    let base = World::new();
    let world = base.fork();
    let mut token = world.logged_in();
    world.machine.clear_log().unwrap();
    format(&world, &mut token).unwrap();
    drop(token);
    // Its last calls leave the card: C_Logout, C_CloseSession, C_Finalize.
    let calls: Vec<String> = world.machine.log().unwrap().into_iter().map(|call| call.function).collect();
    check_formatted(&world, true, "undisturbed");
    let mut worlds = 0;
    for number in 1..=calls.len() + 1 {
        for when in WHENS {
            let function = calls.get(number - 1).map_or("none", String::as_str);
            if when == When::Between && function != "C_CreateObject" {
                continue;
            }
            for action in actions(number) {
                let world = base.fork();
                let mut token = world.logged_in();
                world.machine.script(Fault::at_call(number as u64, when, action.clone())).unwrap();
                let outcome = format(&world, &mut token);
                drop(token);
                let what = format!("call {number} ({function}), {when:?}, {action:?}, {outcome:?}");
                world.machine.clear_script().unwrap();
                if matches!(action, Action::Crash) {
                    let some = if number.is_multiple_of(2) { vec![0, 2, 5] } else { vec![1, 3, 4] };
                    for keep in [Keep::Nothing, Keep::These(some)] {
                        let world = world.fork();
                        world.power_loss(&keep);
                        check_formatted(&world, outcome.is_ok(), &format!("{what}, kept {keep:?}"));
                        worlds += 1;
                    }
                }
                world.put_back();
                check_formatted(&world, outcome.is_ok(), &what);
                worlds += 1;
            }
        }
    }
    eprintln!("provisioning: {} calls, {worlds} worlds", calls.len());
    assert!(worlds > 100);
}

fn next_pin() -> Pin {
    Pin::exactly("canary-pin-next".to_owned())
}

fn class<T>(result: &Result<T, TokenError>) -> Option<ErrorClass> {
    result.as_ref().err().map(|error| error.class)
}

/// SCENARIO 27: after a change that was cut short one of the two values opens the card, at most one try is spent on the
/// other, and the records are what they were.
#[test]
fn a_change_of_the_pin() {
    let base = World::formatted();
    base.open().put(&put("a", &[("k", b"v")])).unwrap();
    let world = base.fork();
    let mut token = world.logged_in();
    world.machine.clear_log().unwrap();
    token.worker.change_pin(&pin(), &next_pin()).unwrap();
    let calls = world.machine.log().unwrap().len();
    let (mut worlds, mut olds, mut news) = (0, 0, 0);
    for number in 1..=calls {
        for when in [When::Before, When::After] {
            for action in actions(number).into_iter().chain([Action::Hang(None)]) {
                let mut world = base.fork();
                let mut token = world.logged_in();
                if matches!(action, Action::Hang(_)) {
                    drop(token);
                    world.deadlines.write = Duration::from_secs(1);
                    world.deadlines.grace = Duration::from_millis(100);
                    token = world.logged_in();
                }
                world.machine.script(Fault::at_call(number as u64, when, action.clone())).unwrap();
                let outcome = token.worker.change_pin(&pin(), &next_pin());
                let what = format!("call {number} of {calls}, {when:?}, {action:?}, {outcome:?}");
                if matches!(action, Action::Hang(_)) {
                    assert_eq!(class(&outcome), Some(ErrorClass::Unreachable), "{what}");
                }
                drop(token);
                world.machine.clear_script().unwrap();
                world.put_back();

                // The new value first, then the old one: what a rotation does that is taken up again.
                let mut token = world.closed();
                let mut tried = token.login(&next_pin());
                let new = tried.is_ok();
                if !new {
                    assert_eq!(class(&tried), Some(ErrorClass::PinIncorrect), "{what}: {tried:?}");
                    assert!(outcome.is_err(), "{what}: the change was answered and is not there");
                    tried = token.login(&pin());
                }
                tried.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(token.worker.logins() <= 2, "{what}");
                assert_eq!(world.machine.pin_tries(READER).unwrap(), 3, "{what}");
                let mut store = store(Store::open(token, world.options()));
                assert_eq!(values(&mut store, &path("a")).unwrap(), one("k", b"v"), "{what}");
                (olds, news) = (olds + usize::from(!new), news + usize::from(new));
                worlds += 1;
            }
        }
    }
    eprintln!("a change of the PIN: {calls} calls, {worlds} worlds, {olds} old, {news} new");
    assert!(olds > 0 && news > 0);
}

/// An epoch that fails while it begins has changed nothing, and the next one finds everything.
#[test]
fn opening() {
    let base = World::formatted();
    let mut store = base.open();
    for (name, size) in [("a", 10), ("b", 2_500)] {
        store.put(&put(name, &[("k", &noise(size, 1))])).unwrap();
    }
    base.settle(&mut store);
    drop(store);
    base.machine.clear_log().unwrap();
    let world = base.fork();
    let before = world.machine.objects(READER).unwrap();
    let opened = world.open();
    let calls: Vec<String> = world.machine.log().unwrap().into_iter().map(|call| call.function).collect();
    drop(opened);
    let mut worlds = 0;
    for (at, function) in calls.iter().enumerate() {
        for when in [When::Before, When::After] {
            for action in actions(at) {
                let world = base.fork();
                world.machine.script(Fault::at_call(at as u64 + 1, when, action.clone())).unwrap();
                let what = format!("call {} ({function}), {when:?}, {:?}", at + 1, action);
                let mut token = world.closed();
                let begun = token.worker.reopen().and_then(|()| token.login(&pin()));
                // Only what the token says itself may be taken for a wrong PIN.
                assert!(
                    !matches!(class(&begun), Some(ErrorClass::PinIncorrect | ErrorClass::PinLocked)),
                    "{what}: {begun:?}"
                );
                let refused = match begun {
                    Ok(()) => Store::open(token, world.options()).err().map(|(token, error)| {
                        drop(token);
                        error
                    }),
                    Err(error) => Some(error.into()),
                };
                // A token that could not be read is never taken for a blank one.
                assert!(refused != Some(StoreError::NoIdentity), "{what}");
                world.machine.clear_script().unwrap();
                world.put_back();
                assert!(world.machine.objects(READER).unwrap() == before, "{what}");
                let mut store = world.open();
                assert_eq!(values(&mut store, &path("a")).unwrap(), one("k", &noise(10, 1)), "{what}");
                assert_eq!(values(&mut store, &path("b")).unwrap(), one("k", &noise(2_500, 1)), "{what}");
                worlds += 1;
            }
        }
    }
    eprintln!("opening: {} calls, {worlds} worlds", calls.len());
    assert!(worlds > 100);
}
