//! The methods of the port, one by one.

use super::*;

#[test]
fn all_of_the_port_makes_the_round_trip() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    assert_eq!(token.epoch(), 1);
    let info = token.info().unwrap();
    assert_eq!((info.label.as_str(), info.software), (LABEL, true));
    assert!(info.pin.initialized);
    assert_eq!(token.limits(), hsm_token::Limits::SOFTWARE);
    assert_eq!(class(token.create("a", Visibility::Private, b"x")), Some(ErrorClass::PinRequired));
    assert_eq!(class(token.find_key_pair("key")), Some(ErrorClass::PinRequired));

    token.login(&pin(PIN)).unwrap();
    assert_eq!((token.epoch(), token.logins()), (2, 1));
    token.login(&pin(PIN)).unwrap();
    assert_eq!((token.epoch(), token.logins()), (2, 1), "a second login costs nothing");
    assert_eq!(class(token.login(&pin("other-pin"))), Some(ErrorClass::Invalid));

    let private = token.create("p", Visibility::Private, VALUE).unwrap();
    let public = token.create("q", Visibility::Public, &[0, 1, 2, 255]).unwrap();
    let listing = token.list().unwrap();
    assert_eq!(listing.others, 0);
    let mut seen: Vec<_> = listing
        .data
        .iter()
        .map(|o| (o.handle, o.label.as_str(), o.application.as_str(), o.visibility))
        .collect();
    seen.sort_unstable_by_key(|object| object.0);
    assert_eq!(seen, [(private, "p", "", Visibility::Private), (public, "q", "", Visibility::Public)]);
    assert_eq!(*token.read(private).unwrap(), VALUE);
    assert_eq!(*token.read(public).unwrap(), [0, 1, 2, 255]);
    token.destroy(private).unwrap();
    assert_eq!(token.list().unwrap().data.len(), 1);

    let random = (token.random(64).unwrap(), token.random(64).unwrap());
    assert_eq!((random.0.len(), random.0 == random.1), (64, false));
    assert_eq!(token.random(0).unwrap().len(), 0);

    assert_eq!(token.find_key_pair("a").unwrap(), None);
    let a = token.generate_key_pair("a").unwrap();
    let b = token.generate_key_pair("b").unwrap();
    assert_eq!((a.len(), a[0], a == b), (65, 4, false));
    assert_eq!(token.find_key_pair("a").unwrap(), Some(a.clone()));
    assert_eq!(class(token.generate_key_pair("a")), Some(ErrorClass::Invalid));
    let shared = token.derive("a", &b).unwrap();
    assert_eq!(shared.len(), 32);
    assert_eq!(shared, token.derive("b", &a).unwrap());
    assert_eq!(token.list().unwrap().others, 4, "no session object is left");
    assert_eq!(class(token.derive("a", &b[..64])), Some(ErrorClass::Invalid));
    assert_eq!(class(token.derive("none", &b)), Some(ErrorClass::Invalid));
    token.destroy_key_pair("a").unwrap();
    token.destroy_key_pair("a").unwrap();
    assert_eq!(token.find_key_pair("a").unwrap(), None);
    assert_eq!(token.find_key_pair("b").unwrap(), Some(b));

    // Another epoch finds it all again.
    let old = token.list().unwrap().data[0].handle;
    token.reopen().unwrap();
    assert_eq!((token.epoch(), token.restarts()), (3, 1));
    assert_eq!(token.list().unwrap().data.len(), 1, "the public one is listed without a login");
    assert_eq!(class(token.read(old)), Some(ErrorClass::NoSuchObject), "a handle of an earlier epoch");
}

#[test]
fn what_no_token_takes_is_refused_and_the_session_lives() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    let long = "l".repeat(201);
    for (label, value) in [("", &b"x"[..]), ("ä", b"x"), (&long, b"x"), ("l", b""), ("l", &[1; 2001])] {
        assert_eq!(class(token.create(label, Visibility::Private, value)), Some(ErrorClass::Invalid));
    }
    assert_eq!(class(token.random(2 << 20)), Some(ErrorClass::Invalid));
    let handle = token.create(&long[..200], Visibility::Private, &[1; 2000]).unwrap();
    assert_eq!(token.read(handle).unwrap().len(), 2000);
    assert_eq!(token.restarts(), 0);
}

#[test]
fn three_hundred_objects_are_all_listed() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    for i in 0..300 {
        token.create(&format!("o{i:03}"), Visibility::Private, &[1]).unwrap();
    }
    let mut labels: Vec<_> = token.list().unwrap().data.into_iter().map(|o| o.label).collect();
    labels.sort_unstable();
    assert_eq!(labels, (0..300).map(|i| format!("o{i:03}")).collect::<Vec<_>>());
}

#[test]
fn the_first_call_opens() {
    let softhsm = softhsm();
    let mut token = WorkerToken::new(config(&softhsm)).unwrap();
    assert_eq!((token.epoch(), token.is_open(), token.pid()), (0, false, None));
    assert_eq!(token.list().unwrap().data.len(), 0);
    assert_eq!((token.epoch(), token.is_open()), (1, true));
    let _: &Pkcs11Config = &softhsm.config(TokenSelector::Only).token;
}
