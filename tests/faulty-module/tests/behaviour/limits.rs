//! Numbers, sizes and attributes (TOKEN.md 1 and 2).

use super::*;
use faulty_pkcs11::ObjectKind;

/// 126 visible objects; the next are created with CKR_OK and are not listed; the 129th fails.
#[test]
fn the_127th_object_vanishes_and_the_129th_fails() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    a.ok("pair key");
    for n in 3..=128 {
        a.ok(&format!("create o{n} private x"));
    }
    assert_eq!(a.ok("count"), "126");
    assert_eq!(a.fails("create o129 private x"), "GeneralError");
    for line in ["finalize", "init", "open 0", &format!("login {PIN}")] {
        a.ok(line);
    }
    assert_eq!((a.ok("count").as_str(), a.ok("find o127").as_str()), ("126", ""));
    let visible = handle(&mut a, "o126");
    a.ok(&format!("destroy {visible}"));
    for line in ["finalize", "init", "open 0", &format!("login {PIN}")] {
        a.ok(line);
    }
    handle(&mut a, "o127");
}

/// Values of 1 to 4032 bytes; labels up to 254.
#[test]
fn sizes_end_where_they_end() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let longest = a.ok("create v public #4032");
    assert_eq!(a.ok(&format!("read {longest}")).len(), 4032);
    assert_eq!(a.fails("create w public #4033"), "GeneralError");
    let cut = a.ok(&format!("create {} public x", "l".repeat(300)));
    assert_eq!(a.ok(&format!("get {cut} label")).len(), 254);
    a.ok(&format!("create {} public x {}", "i".repeat(250), "a".repeat(240)));
    assert_eq!(a.ok("count"), "2", "label and application together hide it");
}

/// An empty value makes an object that can be neither read nor destroyed.
#[test]
fn an_empty_value_poisons_the_object() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let empty = a.ok("create empty public");
    assert_eq!(handle(&mut a, "empty"), empty);
    assert_eq!(a.fails(&format!("read {empty}")), "GeneralError");
    assert_eq!(a.fails(&format!("destroy {empty}")), "GeneralError");
    assert_eq!(machine.objects(READER).unwrap()[0].kind, ObjectKind::Ghost);
    assert_eq!(machine.remove_ghosts(READER).unwrap(), 1);
}

/// Replacing 2000 bytes fills the flash after about 750 times, and only an empty card gets it back.
#[test]
fn replacing_large_values_leaks_until_everything_is_deleted() {
    let (_dir, machine) = machine_with(|settings| settings.log = false);
    let mut a = Remote::logged_in(&machine);
    a.ok("create keep public x");
    let mut old = a.ok("create big public #2000");
    let mut replaces = 0;
    let error = loop {
        match a.ask("create big public #2000") {
            Ok(new) => {
                a.ok(&format!("destroy {old}"));
                old = new;
                replaces += 1;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(error, "GeneralError");
    assert!((740..=752).contains(&replaces), "{replaces}");
    a.ok(&format!("destroy {old}"));
    assert_eq!(a.fails("create big public #2000"), "GeneralError");
    let keep = handle(&mut a, "keep");
    a.ok(&format!("destroy {keep}"));
    a.ok("create big public #2000");
    assert_eq!(machine.counters(READER).unwrap().bytes_leaked, 0);
}

/// Values of 500 bytes can be replaced for ever.
#[test]
fn replacing_small_values_leaks_nothing() {
    let (_dir, machine) = machine_with(|settings| settings.log = false);
    let mut a = Remote::logged_in(&machine);
    for _ in 0..300 {
        let made = a.ok("create small public #500");
        a.ok(&format!("destroy {made}"));
    }
    let counters = machine.counters(READER).unwrap();
    assert_eq!((counters.bytes_leaked, counters.bytes_replaced), (0, 150_000));
    assert!(
        machine.remains(READER).unwrap().iter().all(|(label, value)| label == "small" && value.len() == 500)
    );
}

/// CKA_ID unreadable, CKA_UNIQUE_ID and the like unknown, C_CopyObject unsupported.
#[test]
fn attributes_and_copies_that_are_not_there() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let made = a.ok("create a public x app\\0junk");
    for kind in ["id", "unique-id", "destroyable", "copyable"] {
        assert_eq!(a.ok(&format!("get {made} {kind}")), "TypeInvalid", "{kind}");
    }
    assert_eq!(a.ok(&format!("get {made} application")), "app", "read to the next zero byte");
    assert_eq!(a.fails(&format!("copy {made}")), "FunctionNotSupported");
}

/// C_SetAttributeValue(CKA_VALUE) errors, and the next create ends the process.
#[test]
fn setting_a_value_poisons_the_process() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let made = a.ok("create a public x");
    assert_eq!(a.fails(&format!("set-value {made}")), "GeneralError");
    assert_eq!(a.ok(&format!("read {made}")), "x");
    assert_eq!(a.fails("create b public x"), "DIED");
}
