//! PINs: each value is tried once.

use super::*;

#[test]
fn a_wrong_pin_is_tried_once() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    assert_eq!(class(token.login(&pin("wrong-pin"))), Some(ErrorClass::PinIncorrect));
    assert_eq!(token.logins(), 1);
    assert!(token.info().unwrap().pin.count_low);
    let refused = token.login(&pin("wrong-pin")).unwrap_err();
    assert_eq!((refused.class, refused.code.as_deref()), (ErrorClass::PinIncorrect, None));
    assert_eq!(token.logins(), 1, "the second one was not sent");
    drop(token);

    // Also after a restart; and another value has its one try.
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    assert_eq!(class(token.login(&pin("wrong-pin"))), Some(ErrorClass::PinIncorrect));
    assert_eq!(class(token.login(&pin("abc"))), Some(ErrorClass::PinLength));
    assert_eq!(token.logins(), 0);
    token.login(&pin(PIN)).unwrap();
    assert_eq!(token.logins(), 1);
    assert!(!softhsm.dir().join("failed-pins").exists());
}

#[test]
fn a_changed_pin_is_the_new_one() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm);
    assert_eq!(class(token.change_pin(&pin("wrong-pin"), &pin("next-pin"))), Some(ErrorClass::PinIncorrect));
    assert_eq!(class(token.change_pin(&pin(PIN), &pin("abc"))), Some(ErrorClass::PinLength));
    token.change_pin(&pin(PIN), &pin("next-pin")).unwrap();
    token.login(&pin("next-pin")).unwrap();
    token.reopen().unwrap();
    assert_eq!(class(token.login(&pin(PIN))), Some(ErrorClass::PinIncorrect));
    token.login(&pin("next-pin")).unwrap();
}
