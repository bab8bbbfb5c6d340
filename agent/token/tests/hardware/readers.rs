//! Several tokens on one machine, and tokens that go away.

use super::*;

#[test]
fn two_pico_hsms_work_side_by_side() {
    let desk = Desk::new(&[A, B]);
    for selector in [
        TokenSelector::Only,
        TokenSelector::Label("SmartCard-HSM (UserPIN)".into()),
        TokenSelector::Serial("ESPICOHSMTR".into()),
    ] {
        let error = WorkerToken::open(desk.config(selector)).err().unwrap();
        assert_eq!(error.class, ErrorClass::Invalid);
        assert!(error.message.contains(A) && error.message.contains(B), "{error}");
    }
    let mut a = logged_in(desk.apart(A));
    let mut b = logged_in(desk.apart(B));
    a.create("on-a", Visibility::Private, b"a").unwrap();
    b.create("on-b", Visibility::Private, b"b").unwrap();
    for (token, label) in [(&mut a, "on-a"), (&mut b, "on-b")] {
        token.still_there().unwrap();
        let listing = token.list().unwrap();
        assert_eq!(listing.data.iter().map(|o| o.label.as_str()).collect::<Vec<_>>(), [label]);
    }
    // A new epoch of one does not disturb the other.
    b.reopen().unwrap();
    b.login(&pin(PIN)).unwrap();
    a.still_there().unwrap();
    let handle = a.list().unwrap().data[0].handle;
    assert_eq!(*a.read(handle).unwrap(), *b"a");
    assert_eq!((a.restarts(), desk.machine.counters(A).unwrap().logins), (0, 1));
}

/// What the opensc.conf of each worker is for: without it the first one holds every card, and the second one's is
/// out of reach, which is not absent.
#[test]
fn a_card_that_another_program_holds_is_not_absent() {
    let desk = Desk::new(&[A, B]);
    let mut config = desk.config(TokenSelector::Reader(A.into()));
    config.opensc = Some(OpenscSettings::new(desk.dir.path()));
    let _a = WorkerToken::open(config).unwrap();
    let b = WorkerToken::open(desk.config(TokenSelector::Reader(B.into()))).err().unwrap();
    assert_eq!(b.class, ErrorClass::Unreachable, "{b}");
    let mut alone = desk.config(TokenSelector::Reader(B.into()));
    alone.opensc =
        Some(OpenscSettings { other_readers: vec![A.into()], ..OpenscSettings::new(desk.dir.path()) });
    assert_eq!(class(WorkerToken::open(alone)), Some(ErrorClass::Unreachable), "it is held all the same");
}

#[test]
fn somebody_who_starts_on_the_token_is_noticed() {
    for opensc in [OpenSc::V0_23, OpenSc::V0_27] {
        let desk = Desk::new(&[A]);
        desk.machine.set(|settings| settings.opensc = opensc).unwrap();
        let mut ours = logged_in(WorkerToken::new(desk.config(TokenSelector::Only)).unwrap());
        ours.still_there().unwrap();
        let theirs = WorkerToken::open(desk.config(TokenSelector::Only)).unwrap();
        let error = ours.still_there().unwrap_err();
        assert_eq!(error.class, ErrorClass::SessionLost, "{opensc:?}: {error}");
        assert!(!ours.is_open());
        drop(theirs);
        ours.login(&pin(PIN)).unwrap();
        ours.still_there().unwrap();
        assert_eq!(ours.restarts(), 1);
    }
}

#[test]
fn a_token_that_is_pulled_out_and_comes_back_elsewhere() {
    let desk = Desk::new(&[A]);
    let mut token = logged_in(desk.apart(A));
    token.create("kept", Visibility::Private, b"x").unwrap();
    let card = desk.machine.unplug(A).unwrap();
    assert_eq!(class(token.still_there()), Some(ErrorClass::TokenAbsent));
    assert_eq!(class(token.list()), Some(ErrorClass::SessionLost), "never the list from memory");
    assert_eq!(class(token.reopen()), Some(ErrorClass::TokenAbsent));
    desk.machine.plug(B, &card).unwrap();
    assert_eq!(class(token.reopen()), Some(ErrorClass::TokenAbsent), "not in that reader");
    token.set_selector(TokenSelector::Reader(B.into()));
    token.reopen().unwrap();
    token.login(&pin(PIN)).unwrap();
    assert_eq!(token.list().unwrap().data[0].label, "kept");

    desk.machine.restart_pcscd().unwrap();
    assert!(token.still_there().unwrap_err().ends_epoch());
    token.login(&pin(PIN)).unwrap();
    assert_eq!(token.list().unwrap().data.len(), 1);
}
