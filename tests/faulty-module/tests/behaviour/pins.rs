//! PINs (TOKEN.md 5), and what the token says of itself.

use super::*;

/// INCORRECT, INCORRECT, LOCKED, and the flags that announce it.
#[test]
fn three_tries_with_flags() {
    let (_dir, machine) = machine();
    let mut a = Remote::new(&machine);
    a.ok("init");
    a.ok("open 0");
    assert!(a.ok("token 0").contains("low=false final=false locked=false"));
    for (answer, flags) in [
        ("PinIncorrect", "low=true final=false locked=false"),
        ("PinIncorrect", "low=true final=true locked=false"),
        ("PinLocked", "low=true final=false locked=true"),
    ] {
        assert_eq!(a.fails("login 111111"), answer);
        assert!(a.ok("token 0").contains(flags), "{flags}");
    }
    assert_eq!(a.fails(&format!("login {PIN}")), "PinLocked");
    assert_eq!(machine.counters(READER).unwrap().logins, 3, "each costs a flash erase");
}

/// A length outside of 6 to 15 uses no try.
#[test]
fn a_pin_of_a_wrong_length_uses_no_try() {
    let (_dir, machine) = machine();
    let mut a = Remote::new(&machine);
    a.ok("init");
    a.ok("open 0");
    for pin in ["12345", "1234567890123456"] {
        assert_eq!(a.fails(&format!("login {pin}")), "PinLenRange");
    }
    assert_eq!((machine.pin_tries(READER).unwrap(), machine.counters(READER).unwrap().logins), (3, 0));
}

/// C_SetPIN works and keeps objects.
#[test]
fn the_pin_can_be_changed() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    a.ok("create a private x");
    assert_eq!(a.fails("set-pin 111111 222222"), "PinIncorrect");
    a.ok(&format!("set-pin {PIN} 222222"));
    let mut b = Remote::new(&machine);
    for line in ["init", "open 0", "login 222222"] {
        b.ok(line);
    }
    handle(&mut b, "a");
}

/// A wrong SO-PIN is found out at C_InitPIN.
#[test]
fn a_wrong_so_pin_logs_in() {
    let (_dir, machine) = machine();
    let mut a = Remote::new(&machine);
    for line in ["init", "open 0", "so 0000000000000000"] {
        a.ok(line);
    }
    assert_eq!(a.fails("init-pin 222222"), "PinIncorrect");
    a.ok("logout");
    a.ok(&format!("so {}", CardOptions::SO_PIN));
    a.ok("init-pin 222222");
    a.ok("logout");
    a.ok("login 222222");
}

/// C_InitToken wipes the card and then fails.
#[test]
fn init_token_wipes_and_fails() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    a.ok("create a private x");
    a.ok("finalize");
    a.ok("init");
    assert_eq!(a.fails("init-token 0 3537363231383830"), "GeneralError");
    assert!(machine.objects(READER).unwrap().is_empty());
    assert!(a.ok("token 0").contains("initialized=false pin=false"));
}

/// One serial and one label on every token; a blank one has no PIN; memory is not told.
#[test]
fn tokens_look_alike_and_a_blank_one_has_no_pin() {
    let (_dir, machine) = machine();
    machine.add_card("Pico HSM 01", &CardOptions::blank()).unwrap();
    let mut a = Remote::new(&machine);
    a.ok("init");
    assert_eq!(a.ok("slots"), "[0, 1]");
    let card = "SmartCard-HSM (UserPIN)|ESPICOHSMTR|www.CardContact.de|";
    let (first, second) = (a.ok("token 0"), a.ok("token 1"));
    assert!(first.starts_with(card) && second.starts_with(card), "{first}");
    assert!(first.contains("initialized=true pin=true") && first.ends_with("6..15 memory=None"));
    assert!(second.contains("initialized=false pin=false"));
    machine.initialize("Pico HSM 01", "3537363231383830", "333333").unwrap();
    a.ok("open 1");
    a.ok("login 333333");
}
