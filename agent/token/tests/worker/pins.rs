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
    let refused = token.change_pin(&pin("wrong-pin"), &pin("next-pin")).unwrap_err();
    assert_eq!((refused.class, refused.code.as_deref()), (ErrorClass::PinIncorrect, None), "not even tried");
    assert_eq!(class(token.change_pin(&pin(PIN), &pin("abc"))), Some(ErrorClass::PinLength));
    assert_eq!(class(token.change_pin(&pin(PIN), &pin(PIN))), Some(ErrorClass::Invalid));
    assert_eq!(token.logins(), 1);
    token.change_pin(&pin(PIN), &pin("next-pin")).unwrap();
    token.login(&pin("next-pin")).unwrap();
    assert_eq!(token.logins(), 2, "the change is one; the session knows its new PIN");
    drop(token);

    // Whoever still has the old file burns no try, also after good logins with the new one.
    for _ in 0..2 {
        let mut token = WorkerToken::open(config(&softhsm)).unwrap();
        let refused = token.login(&pin(PIN)).unwrap_err();
        assert_eq!((refused.class, refused.code.as_deref()), (ErrorClass::PinIncorrect, None));
        assert_eq!(token.logins(), 0);
        token.login(&pin("next-pin")).unwrap();
        assert!(!token.info().unwrap().pin.count_low);
    }
    let memory = std::fs::read_to_string(softhsm.dir().join("failed-pins")).unwrap();
    assert!(
        memory.contains("superseded ") && !memory.contains(PIN) && !memory.contains("next-pin"),
        "{memory}"
    );
}

#[test]
fn a_change_logs_in_first_and_takes_the_flag_down() {
    let softhsm = softhsm();
    let mut token = WorkerToken::open(config(&softhsm)).unwrap();
    let wrong = token.change_pin(&pin("wrong-pin"), &pin("next-pin")).unwrap_err();
    assert_eq!((wrong.class, wrong.code.as_deref()), (ErrorClass::PinIncorrect, Some("CKR_PIN_INCORRECT")));
    assert!(token.info().unwrap().pin.count_low);
    token.change_pin(&pin(PIN), &pin("next-pin")).unwrap();
    assert!(!token.info().unwrap().pin.count_low);
    assert_eq!((token.logins(), token.epoch()), (3, 2));
    assert_eq!(token.list().unwrap().data.len(), 0);
}
