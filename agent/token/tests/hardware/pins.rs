//! PINs on a token that locks.

use super::*;

#[test]
fn the_last_try_is_kept_for_a_person() {
    let desk = Desk::new(&[A]);
    let mut token = desk.apart(A);
    for (value, left) in [("wrong-1", 2), ("wrong-1", 2), ("wrong-2", 1)] {
        assert_eq!(class(token.login(&pin(value))), Some(ErrorClass::PinIncorrect), "{value}");
        assert_eq!(desk.machine.pin_tries(A).unwrap(), left, "{value}");
    }
    for value in ["wrong-3", PIN] {
        assert_eq!(class(token.login(&pin(value))), Some(ErrorClass::PinLocked), "{value}");
    }
    assert_eq!(class(token.login(&pin("1"))), Some(ErrorClass::PinLocked), "whatever its length");
    assert_eq!(desk.machine.pin_tries(A).unwrap(), 1);
}

/// A crash or a hang around C_SetPIN: the new value first, then the old one, and at most one wrong try.
#[test]
fn a_change_that_was_cut_short_is_settled_by_the_next_login() {
    for (when, now, before) in [(When::Before, PIN, "next-pin"), (When::After, "next-pin", PIN)] {
        for action in [Action::Crash, Action::Hang(None), Action::Fail("CKR_GENERAL_ERROR".into())] {
            let desk = Desk::new(&[A]);
            let mut config = desk.config(TokenSelector::Only);
            config.deadlines.write = std::time::Duration::from_secs(2);
            config.deadlines.grace = std::time::Duration::from_millis(100);
            let mut token = logged_in(WorkerToken::new(config).unwrap());
            desk.machine.script(Fault::at("C_SetPIN", 1, when, action.clone())).unwrap();
            let error = token.change_pin(&pin(PIN), &pin("next-pin")).unwrap_err();
            assert!(error.ends_epoch(), "{action:?}: {error}");
            drop(token);
            desk.machine.clear_script().unwrap();

            // A third value is not tried now.
            let mut token = WorkerToken::open(desk.config(TokenSelector::Only)).unwrap();
            assert_eq!(class(token.login(&pin("third-pin"))), Some(ErrorClass::PinIncorrect));
            assert_eq!(class(token.change_pin(&pin("next-pin"), &pin("third-pin"))).is_some(), now == PIN);
            if now == PIN {
                assert_eq!(desk.machine.pin_tries(A).unwrap(), 2, "{when:?} {action:?}");
                token.login(&pin(PIN)).unwrap();
                token.change_pin(&pin(PIN), &pin("third-pin")).unwrap();
            }
            assert_eq!(desk.machine.pin_tries(A).unwrap(), 3);
            drop(token);
            // Neither of the two burns a try from now on.
            let mut token = WorkerToken::open(desk.config(TokenSelector::Only)).unwrap();
            for old in [now, before] {
                assert_eq!(class(token.login(&pin(old))), Some(ErrorClass::PinIncorrect), "{old}");
            }
            assert_eq!((token.logins(), desk.machine.pin_tries(A).unwrap()), (0, 3));
            token.login(&pin("third-pin")).unwrap();
        }
    }
}
