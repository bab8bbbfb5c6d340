//! The SmartCard-HSM's own commands, against a card in memory and through a worker without PC/SC.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use hsm_token::sc_hsm::{PinState, Repaired, ScHsm};
use hsm_token::{ErrorClass, Pin, PinMemory, TokenError};

mod card;
mod worker;

use card::FakeCard;

const SO_PIN: &str = "3537363231383830";
const PIN: &str = "648219";

fn pin(text: &str) -> Pin {
    Pin::exactly(text.to_owned())
}

fn initialize(card: &mut FakeCard) -> Result<(), TokenError> {
    ScHsm::select(card, "test")?.initialize(&pin(SO_PIN), &pin(PIN), "test").map(drop)
}

fn repair(card: &mut FakeCard, with: &str, memory: &mut PinMemory) -> Result<Repaired, TokenError> {
    ScHsm::select(card, "test")?.remove_ghosts(&pin(with), memory, "test")
}

#[test]
fn a_blank_card_is_initialised_and_left_logged_out() {
    let mut card = FakeCard::blank();
    let status = ScHsm::select(&mut card, "test").unwrap().status("test").unwrap();
    assert!(status.is_blank(), "{status:?}");
    assert_eq!(status.version, (6, 6));
    let after =
        ScHsm::select(&mut card, "test").unwrap().initialize(&pin(SO_PIN), &pin(PIN), "test").unwrap();
    assert_eq!((after.user_pin, after.is_blank()), (PinState::TriesLeft(3), false));
    assert_eq!(card.pin.as_deref(), Some(PIN.as_bytes()));
    assert_eq!(card.so_pin.as_deref(), Some(&[0x35, 0x37, 0x36, 0x32, 0x31, 0x38, 0x38, 0x30][..]));
    assert!(!card.logged_in);
    assert_eq!(card.sent("50"), 1);
    let second = initialize(&mut card).unwrap_err();
    assert_eq!(second.class, ErrorClass::Invalid);
    assert_eq!(card.sent("50"), 1, "it was not even sent");
}

/// Whatever is not positively blank is never sent the command that wipes.
#[test]
fn a_card_that_may_hold_something_is_never_wiped() {
    let owned = FakeCard::with_pin("secret-pin");
    let mut with_file = FakeCard::blank();
    with_file.put(1, true);
    let mut with_key = FakeCard::blank();
    with_key.files.insert([0xCC, 1]);
    let only_so = FakeCard { so_pin: Some(vec![1; 8]), ..FakeCard::blank() };
    let locked = FakeCard { tries: 0, ..owned.clone() };
    let mut cards = vec![owned, with_file, with_key, only_so, locked];
    for (ins, status) in
        [(0x20, 0x6F00), (0x20, 0x6985), (0x20, 0x6984), (0x20, 0x9000), (0x58, 0x6F00), (0x58, 0x6982)]
    {
        cards.push(FakeCard { instead: Some((ins, status)), ..FakeCard::blank() });
    }
    for (number, card) in cards.iter_mut().enumerate() {
        let (before_pin, before_files) = (card.pin.clone(), card.files.clone());
        assert!(initialize(card).is_err(), "card {number}");
        assert_eq!(card.sent("50"), 0, "card {number}");
        assert_eq!((&card.pin, &card.files), (&before_pin, &before_files));
    }
    // Nor is a PIN of a wrong length, or another card.
    let mut card = FakeCard::blank();
    let short = ScHsm::select(&mut card, "test").unwrap().initialize(&pin(SO_PIN), &pin("123"), "test");
    assert_eq!(short.unwrap_err().class, ErrorClass::PinLength);
    assert_eq!(card.sent("50"), 0);
    let mut other = FakeCard { sc_hsm: false, ..FakeCard::blank() };
    assert_eq!(initialize(&mut other).unwrap_err().class, ErrorClass::Invalid);
    assert_eq!(other.sent("50"), 0);
}

#[test]
fn a_refused_initialisation_is_an_error() {
    let mut card = FakeCard { instead: Some((0x50, 0x6A84)), ..FakeCard::blank() };
    let error = initialize(&mut card).unwrap_err();
    assert_eq!((error.class, error.code.as_deref()), (ErrorClass::Module, Some("SW 6A84")));
    assert!(!error.message.contains(PIN) && !error.message.contains(SO_PIN));
}

fn haunted() -> FakeCard {
    let mut card = FakeCard::with_pin(PIN);
    for id in 1..=20 {
        card.put(id, id % 2 == 0);
    }
    // A destroy that was cut short.
    card.files.remove(&[0xCD, 4]);
    card.files.remove(&[0xCF, 7]);
    // A create that was cut short is no ghost: nobody lists it.
    card.files.insert([0xCD, 30]);
    card
}

#[test]
fn ghosts_are_found_without_a_login_and_removed_with_one() {
    for extended in [true, false] {
        let mut card = FakeCard { extended, ..haunted() };
        let before = card.files.clone();
        assert_eq!(ScHsm::select(&mut card, "test").unwrap().ghosts("test").unwrap(), [4, 7]);
        assert_eq!((card.sent("20"), card.sent("E4")), (0, 0));
        let mut memory = PinMemory::ephemeral().unwrap();
        let repaired = repair(&mut card, PIN, &mut memory).unwrap();
        assert_eq!(repaired, Repaired { removed: vec![4, 7], left: vec![] });
        assert!(!card.logged_in, "left logged out");
        let gone: Vec<_> = before.difference(&card.files).copied().collect();
        assert_eq!(gone, [[0xC9, 4], [0xC9, 7]], "nothing else");
        assert_eq!(card.sent("20 0081 [] with data"), 1);
        // Without a ghost there is no login.
        assert_eq!(repair(&mut card, PIN, &mut memory).unwrap(), Repaired::default());
        assert_eq!(card.sent("20 0081 [] with data"), 1);
    }
}

#[test]
fn what_the_card_does_not_say_clearly_is_no_ghost() {
    // The last one is a card that finds no file at all.
    for status in [0x6F00, 0x6982, 0x6A86, 0x9000, 0x6A82] {
        let mut card = FakeCard { instead: Some((0xA4, status)), ..haunted() };
        assert_eq!(ScHsm::select(&mut card, "test").unwrap().ghosts("test").unwrap(), [0; 0], "{status:04X}");
    }
}

/// Without a login every private object of such a card looks like a ghost. None of them is removed.
#[test]
fn what_shows_after_the_login_is_no_ghost() {
    let mut card = FakeCard { shy: true, ..haunted() };
    let before = card.files.len();
    assert!(ScHsm::select(&mut card, "test").unwrap().ghosts("test").unwrap().len() > 2);
    let repaired = repair(&mut card, PIN, &mut PinMemory::ephemeral().unwrap()).unwrap();
    assert_eq!(repaired, Repaired { removed: vec![4, 7], left: vec![] });
    assert_eq!(card.files.len(), before - 2);
}

#[test]
fn a_stubborn_ghost_is_reported_and_the_others_go() {
    let mut card = haunted();
    card.stubborn.insert([0xC9, 4]);
    let mut memory = PinMemory::ephemeral().unwrap();
    let repaired = repair(&mut card, PIN, &mut memory).unwrap();
    assert_eq!(repaired, Repaired { removed: vec![7], left: vec![4] });
    assert!(!card.logged_in);
}

#[test]
fn the_guard_stands_before_this_login_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pins");
    let mut card = haunted();
    let class = |result: Result<Repaired, TokenError>| result.err().map(|e| e.class);
    let wrong = repair(&mut card, "wrong-pin", &mut PinMemory::open(&path).unwrap());
    assert_eq!(class(wrong), Some(ErrorClass::PinIncorrect));
    assert_eq!(card.tries, 2);
    let again = repair(&mut card, "wrong-pin", &mut PinMemory::open(&path).unwrap());
    assert_eq!(class(again), Some(ErrorClass::PinIncorrect));
    assert_eq!(card.tries, 2, "one value is tried once");
    let other = repair(&mut card, "other-pin", &mut PinMemory::open(&path).unwrap());
    assert_eq!(class(other), Some(ErrorClass::PinIncorrect));
    for tries in [1, 0] {
        card.tries = tries;
        let last = repair(&mut card, PIN, &mut PinMemory::open(&path).unwrap());
        assert_eq!(class(last), Some(ErrorClass::PinLocked), "the last try is a person's");
        assert_eq!(card.tries, tries);
    }
    assert_eq!(card.sent("E4"), 0);
    card.tries = 2;
    repair(&mut card, PIN, &mut PinMemory::open(&path).unwrap()).unwrap();
    assert!(!path.exists(), "a good login leaves nothing");
}
