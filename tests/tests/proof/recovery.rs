//! SCENARIOS 26 and 34 as far as they concern one token by itself: the card is pulled out and comes back in another
//! reader, pcscd is restarted, the module hangs or crashes, somebody starts on the card, another card is in the reader.
//! Each time the next epoch of the same [`WorkerToken`] works, and no PIN is given away.

use std::time::{Duration, Instant};

use faulty_pkcs11::{Action, CardOptions, Fault, Keep, OpenSc, When};
use hsm_store::{Remedy, Store, StoreError, identify};
use hsm_token::pkcs11::TokenSelector;
use hsm_token::{ErrorClass, Token as _, TokenError};
use hsm_types::Presence;

use crate::bed::*;
use crate::narrow::Narrow;

const OTHER: &str = "Pol Henarejos Pico Key [CCID Interface] (E6614C4) 01 00";

fn class<T>(result: &Result<T, TokenError>) -> Option<ErrorClass> {
    result.as_ref().err().map(|error| error.class)
}

/// The next epoch of the same worker token, once it can be had.
fn again(world: &World, mut token: Narrow) -> ProofStore {
    let end = Instant::now() + Duration::from_mins(2);
    while let Err(error) = token.worker.reopen() {
        assert!(error.class == ErrorClass::Busy && Instant::now() < end, "{error}");
        std::thread::sleep(Duration::from_millis(20));
    }
    token.login(&pin()).unwrap();
    store(Store::open(token, world.options()))
}

/// What was written before is there, and a write works.
fn works(store: &mut ProofStore, round: u32) {
    if let Some(last) = round.checked_sub(1) {
        assert_eq!(values(store, &path("a")).unwrap(), one("k", &last.to_be_bytes()), "{round}");
    }
    store.put(&put("a", &[("k", &round.to_be_bytes())])).unwrap();
}

fn unplug_and_replug(times: u32) {
    let world = World::formatted();
    let mut opened = world.open();
    let mut reader = READER;
    for round in 0..times {
        works(&mut opened, round);
        let card = world.machine.unplug(reader).unwrap();
        // Whatever is asked first notices; nothing is answered from memory, nothing is called absent.
        let noticed = match round % 4 {
            0 => opened.refresh().map(drop),
            1 => opened.put(&put("b", &[("k", &round.to_be_bytes())])).map(drop),
            2 => opened.token().list().map(drop).map_err(StoreError::from),
            _ => opened.token().still_there().map_err(StoreError::from),
        };
        match noticed {
            Err(error) => assert_eq!(error.remedy(), Remedy::Reopen, "{round}: {error}"),
            // OpenSC lists from its memory; the next question to the card is the poll.
            Ok(()) => assert_eq!((round % 4, opened.refresh().is_err()), (2, true), "{round}"),
        }
        let mut token = opened.into_token();
        assert_eq!(class(&token.worker.reopen()), Some(ErrorClass::TokenAbsent), "{round}");
        reader = if reader == READER { OTHER } else { READER };
        world.machine.plug(reader, &card).unwrap();
        token.worker.set_selector(TokenSelector::Reader(reader.to_owned()));
        opened = again(&world, token);
        assert!(opened.index().damaged().is_empty(), "{round}");
    }
    works(&mut opened, times);
    assert_eq!(opened.token().worker.restarts(), u64::from(times) * 2);
    assert_eq!(world.machine.pin_tries(reader).unwrap(), 3);
}

#[test]
fn a_card_comes_back_in_another_reader_fifty_times() {
    unplug_and_replug(50);
}

#[test]
#[ignore = "the same 500 times: ./hack/test --long"]
fn a_card_comes_back_in_another_reader_five_hundred_times() {
    unplug_and_replug(500);
}

#[test]
fn pcscd_is_restarted_and_the_card_loses_power() {
    let world = World::formatted();
    let mut opened = world.open();
    for round in 0..6 {
        works(&mut opened, round);
        world.sleep();
        if round % 2 == 0 {
            world.machine.restart_pcscd().unwrap();
        } else {
            world.machine.power_loss(READER, &Keep::Nothing).unwrap();
        }
        let error = opened.refresh().unwrap_err();
        assert_eq!(error.remedy(), Remedy::Reopen, "{error}");
        assert_eq!(opened.get(&path("a")).err(), Some(StoreError::Void));
        opened = again(&world, opened.into_token());
    }
    works(&mut opened, 6);
}

#[test]
fn a_module_that_hangs_or_crashes_costs_an_epoch() {
    let mut world = World::formatted();
    let short = Duration::from_secs(1);
    world.deadlines.read = short;
    world.deadlines.write = short;
    world.deadlines.grace = Duration::from_millis(100);
    let mut opened = world.open();
    let faults = [
        ("C_GetSessionInfo", Action::Hang(None)),
        ("C_CreateObject", Action::Hang(None)),
        ("C_GetSessionInfo", Action::Crash),
        ("C_CreateObject", Action::Crash),
    ];
    for (round, (function, action)) in (0..).zip(faults) {
        works(&mut opened, round);
        world.machine.script(Fault::at(function, 1, When::Before, action.clone())).unwrap();
        let error = match function {
            "C_GetSessionInfo" => opened.refresh().unwrap_err(),
            _ => opened.put(&put("b", &[("k", b"v")])).unwrap_err(),
        };
        let unreachable = matches!(&error, StoreError::Token(e) if e.class == ErrorClass::Unreachable);
        assert!(unreachable && error.remedy() == Remedy::Reopen, "{action:?}: {error}");
        world.machine.clear_script().unwrap();
        let epoch = opened.token().epoch();
        opened = again(&world, opened.into_token());
        assert!(opened.token().epoch() > epoch);
    }
    works(&mut opened, 4);
    // Nobody is left behind: the worker is the only one that holds the card.
    drop(opened);
    works(&mut world.open(), 5);
}

/// Its login is gone with the first C_Initialize of somebody else.
#[test]
fn somebody_starts_on_the_card() {
    for opensc in [OpenSc::V0_23, OpenSc::V0_27] {
        let mut world = World::formatted();
        world.exclusive = false;
        world.machine.set(|settings| settings.opensc = opensc).unwrap();
        let mut opened = world.open();
        works(&mut opened, 0);
        let mut somebody = world.closed();
        somebody.worker.reopen().unwrap();
        let error = opened.refresh().unwrap_err();
        let lost = matches!(&error, StoreError::Token(e) if e.class == ErrorClass::SessionLost);
        assert!(lost, "{opensc:?}: {error}");
        drop(somebody);
        works(&mut again(&world, opened.into_token()), 1);
    }
}

/// SCENARIO 34: another card is in our reader. Its identity is read before a PIN is given, and none is.
#[test]
fn the_card_was_swapped_for_another() {
    let world = World::formatted();
    let mut opened = world.open();
    works(&mut opened, 0);
    let ours = opened.token_id();
    let card = world.machine.unplug(READER).unwrap();
    assert!(opened.refresh().is_err());
    let mut token = opened.into_token();

    // Another store's card, then one that nobody has initialised, then one without a store.
    let stranger = World::formatted();
    let theirs = stranger.open().token_id();
    copy_card(&stranger, &world);
    token.worker.reopen().unwrap();
    let before = world.machine.counters(READER).unwrap().logins;
    assert_eq!(identify(&mut token).unwrap(), Presence::Present(theirs));
    assert!(theirs != ours);
    assert_eq!(world.machine.counters(READER).unwrap().logins, before, "no PIN was given to it");
    let theirs = world.machine.unplug(READER).unwrap();

    for options in [CardOptions::blank(), CardOptions::with_pin("another-pin")] {
        world.machine.add_card(READER, &options).unwrap();
        match token.worker.reopen() {
            Ok(()) => assert_eq!(identify(&mut token).unwrap(), Presence::Absent),
            Err(error) => {
                let said = error.message.contains("a token that is not initialised");
                assert!(options.pin.is_none() && said, "{error}");
                assert_eq!(error.class, ErrorClass::TokenAbsent, "{error}");
            }
        }
        assert_eq!(world.machine.counters(READER).unwrap().logins, 0, "no PIN was given to it");
        world.machine.unplug(READER).unwrap();
    }

    assert_ne!(theirs, card);
    world.machine.plug(READER, &card).unwrap();
    let mut opened = again(&world, token);
    assert_eq!(opened.token_id(), ours);
    works(&mut opened, 1);
}

/// Puts a copy of the card of one machine into the reader of another.
fn copy_card(from: &World, to: &World) {
    let place = |world: &World| world.machine.dir().join("readers").join(READER);
    std::fs::create_dir(place(to)).unwrap();
    for entry in std::fs::read_dir(place(from)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place(to).join(entry.file_name())).unwrap();
    }
    std::fs::write(place(to).join("name"), "card-of-another-machine").unwrap();
}
