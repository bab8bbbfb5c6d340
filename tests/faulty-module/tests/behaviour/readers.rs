//! Readers, removal, pcscd (TOKEN.md 1 and 5).

use super::*;

/// Removal: what each call answers, and what a re-insertion needs.
#[test]
fn removal_and_reinsertion() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let (read, fresh) = (a.ok("create a public x"), a.ok("create b public y"));
    a.ok(&format!("read {read}"));
    let card = machine.unplug(READER).unwrap();
    assert_eq!(a.fails(&format!("read {fresh}")), "DeviceRemoved");
    assert_eq!(a.ok(&format!("read {read}")), "x", "from memory");
    for line in ["state", "create c public z"] {
        assert_eq!(a.fails(line), "SessionHandleInvalid", "{line}");
    }
    assert_eq!(a.ok("count"), "2", "FindObjects lists from memory");
    assert_eq!(a.fails("token 0"), "TokenNotPresent");
    assert_eq!(a.ok("slots"), "[]");
    machine.plug(READER, &card).unwrap();
    assert_eq!(a.ok("slots"), "[0]");
    assert_eq!(a.fails("count"), "SessionHandleInvalid");
    a.ok("open 0");
    assert_eq!(a.fails("create c public z"), "UserNotLoggedIn");
    a.ok(&format!("login {PIN}"));
    assert_eq!(a.fails(&format!("destroy {fresh}")), "ObjectHandleInvalid");
    let again = handle(&mut a, "b");
    assert_eq!(a.ok(&format!("read {again}")), "y");
}

/// Login on a card that was pulled out.
#[test]
fn login_and_open_after_removal() {
    let (_dir, machine) = machine();
    let mut a = Remote::new(&machine);
    a.ok("init");
    a.ok("open 0");
    machine.unplug(READER).unwrap();
    assert_eq!(a.fails(&format!("login {PIN}")), "SessionHandleInvalid");
    assert_eq!(a.fails("open 0"), "TokenNotPresent");
}

/// pcscd restarted: nothing but C_Finalize and C_Initialize helps.
#[test]
fn a_restart_of_pcscd_needs_finalize_and_initialize() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    machine.restart_pcscd().unwrap();
    assert_eq!(a.ok("slots"), "[]");
    assert_eq!(a.fails("create a public x"), "SessionHandleInvalid");
    for line in ["finalize", "init", "open 0", &format!("login {PIN}"), "create a public x"] {
        a.ok(line);
    }
}

/// C_Initialize connects the cards of all readers, so that it logs out the others on each of them.
#[test]
fn initialize_opens_every_reader_that_is_not_ignored() {
    let (_dir, machine) = machine();
    machine.add_card("Pico HSM 01", &CardOptions::with_pin(PIN)).unwrap();
    let conf = machine.opensc_conf("opensc.conf", false, &["HSM 01"]).unwrap();
    let mut a = Remote::with(&machine, &[("OPENSC_CONF", &conf)]);
    a.ok("init");
    assert_eq!(a.ok("readers"), READER);
    assert_eq!(machine.counters("Pico HSM 01").unwrap().selects, 0);
    let mut b = Remote::new(&machine);
    b.ok("init");
    assert_eq!(b.ok("readers"), "Pico HSM 00,Pico HSM 01");
    let selects = |reader| machine.counters(reader).unwrap().selects;
    assert_eq!((selects(READER), selects("Pico HSM 01")), (2, 1));
}

/// connect_exclusive: the first process has the card until it ends; the second sees no such slot.
#[test]
fn an_exclusive_connection_keeps_others_out_until_its_death() {
    let (_dir, machine) = machine();
    let conf = machine.opensc_conf("opensc.conf", true, &[]).unwrap();
    let mut a = Remote::with(&machine, &[("OPENSC_CONF", &conf)]);
    for line in ["init", "open 0", &format!("login {PIN}")] {
        a.ok(line);
    }
    for env in [&[("OPENSC_CONF", conf.as_path())][..], &[]] {
        let mut b = Remote::with(&machine, env);
        b.ok("init");
        assert_eq!(b.ok("slots"), "[]", "a sharing violation");
        assert_eq!(b.fails("token 0"), "DeviceError", "which is not absence");
    }
    assert_eq!(a.ok("state"), "RwUser", "nobody has sent a SELECT");
    a.kill();
    let mut b = Remote::with(&machine, &[("OPENSC_CONF", &conf)]);
    b.ok("init");
    assert_eq!(b.ok("slots"), "[0]");
}
