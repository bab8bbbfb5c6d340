//! What a process sees of what others do, and the login that all share.

use super::*;
use faulty_pkcs11::{AnsweredFrom, OpenSc};

/// TOKEN.md 4: "Seeing changes".
#[test]
fn another_process_is_seen_after_finalize_and_initialize_only() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let mut b = Remote::logged_in(&machine);
    b.ok("create theirs public x");
    for line in ["list", "slots", "open 0", "list"] {
        assert!(!a.ok(line).contains("theirs"));
    }
    for line in ["finalize", "init", "open 0"] {
        a.ok(line);
    }
    assert!(a.ok("list").starts_with("theirs="));
}

/// TOKEN.md 1: a stale handle gives another object's value under the old label, and destroys the other.
#[test]
fn a_stale_handle_reads_and_destroys_another_object() {
    let (_dir, machine) = machine();
    let mut b = Remote::logged_in(&machine);
    b.ok("create first public one");
    b.ok("finalize");
    let mut a = Remote::logged_in(&machine);
    let stale = handle(&mut a, "first");
    let mut b = Remote::logged_in(&machine);
    let first = handle(&mut b, "first");
    b.ok(&format!("destroy {first}"));
    b.ok("create second public two");
    assert_eq!(a.ok(&format!("read {stale}")), "two");
    assert_eq!(a.ok(&format!("get {stale} label")), "first");
    a.ok(&format!("destroy {stale}"));
    assert!(machine.objects(READER).unwrap().is_empty(), "the second is gone");
}

/// TOKEN.md 1, 3: values are cached after the first read, which costs 2 APDUs.
#[test]
fn a_value_is_read_from_the_card_once() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let made = a.ok("create a public x");
    let before = machine.counters(READER).unwrap();
    a.ok(&format!("read {made}"));
    a.ok(&format!("read {made}"));
    let after = machine.counters(READER).unwrap();
    assert_eq!((after.value_reads - before.value_reads, after.apdus - before.apdus), (1, 2));
    assert_eq!(after.erases, before.erases);
    let log = machine.log().unwrap();
    let reads: Vec<_> =
        log.iter().filter(|c| c.length == Some(1) && c.function == "C_GetAttributeValue").collect();
    assert_eq!(reads[0].from, AnsweredFrom::Card);
    assert!(reads.len() >= 4 && reads[1..].iter().all(|c| c.from == AnsweredFrom::Memory));
}

/// TOKEN.md 1: the login is one flag in the card; a SELECT clears it. 0.27 shows a public session.
#[test]
fn another_process_that_starts_takes_the_login_away() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    assert_eq!(a.ok("state"), "RwUser");
    Remote::new(&machine).ok("init");
    assert_eq!(a.fails("create a private x"), "UserNotLoggedIn");
    assert_eq!(a.ok("state"), "RwPublic");
}

/// The same with OpenSC 0.23.
#[test]
fn in_0_23_a_lost_login_is_a_lost_session() {
    let (_dir, machine) = machine_with(|settings| settings.opensc = OpenSc::V0_23);
    let mut a = Remote::logged_in(&machine);
    Remote::new(&machine).ok("init");
    assert_eq!(a.fails("state"), "SessionHandleInvalid");
}

/// TOKEN.md 1: OpenSC 0.24 and later clears the login neither at C_Logout nor at C_Finalize, and it outlives the process.
#[test]
fn a_logout_does_not_reach_the_card() {
    for (opensc, expected) in [(OpenSc::V0_27, Ok(())), (OpenSc::V0_23, Err("UserNotLoggedIn".to_owned()))] {
        let (_dir, machine) = machine_with(|settings| settings.opensc = opensc);
        let mut a = Remote::logged_in(&machine);
        a.ok("logout");
        // A public object wants the card's flag only, not this process's login.
        assert_eq!(a.ask("create after public x").map(drop), expected, "{opensc:?}");
    }
}

/// TOKEN.md 2: without login, public objects are listed and read; nothing is created.
#[test]
fn without_a_login_public_objects_are_read_and_nothing_is_created() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    a.ok("create open public x");
    a.ok("create closed private y");
    drop(a);
    let mut b = Remote::new(&machine);
    b.ok("init");
    b.ok("open 0");
    let open = handle(&mut b, "open");
    assert_eq!(b.ok(&format!("read {open}")), "x");
    assert_eq!(b.ok("find closed"), "");
    assert_eq!(b.fails("create more public x"), "UserNotLoggedIn");
    b.ok(&format!("login {PIN}"));
    let closed = handle(&mut b, "closed");
    assert_eq!(b.ok(&format!("read {closed}")), "y");
}

/// TOKEN.md 3: what each call costs.
#[test]
fn calls_cost_what_was_measured() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let mut cost = |line: &str| {
        let before = machine.counters(READER).unwrap();
        let answer = a.ok(line);
        let after = machine.counters(READER).unwrap();
        (answer, after.apdus - before.apdus, after.erases - before.erases)
    };
    let small = cost("create a private #100");
    assert_eq!((small.1, small.2), (8, 2));
    let big = cost("create b private #4032");
    assert_eq!((big.1, big.2), (12, 4));
    assert_eq!(cost("count"), ("2".to_owned(), 0, 0));
    let destroyed = cost(&format!("destroy {}", small.0));
    assert_eq!((destroyed.1, destroyed.2), (3, 2));
    assert_eq!((cost("state").1, cost("random 16").1), (1, 1));
    let counters = machine.counters(READER).unwrap();
    assert_eq!((counters.logins, counters.writes, counters.bytes_replaced), (1, 3, 100));
    let mut b = Remote::new(&machine);
    b.ok("init");
    assert_eq!(machine.counters(READER).unwrap().apdus - counters.apdus, 18 + 3);
}

/// TOKEN.md 6: key pairs and ECDH1-DERIVE; a pair is two objects.
#[test]
fn key_pairs_derive_and_count_twice() {
    let (_dir, machine) = machine();
    let mut a = Remote::logged_in(&machine);
    let (one, two) = (a.ok("pair one"), a.ok("pair two"));
    let part = |pair: &str, n: usize| pair.split(' ').nth(n).unwrap().to_owned();
    let shared = a.ok(&format!("derive {} {}", part(&one, 1), part(&two, 2)));
    assert_eq!(shared.len(), 64);
    assert_eq!(shared, a.ok(&format!("derive {} {}", part(&two, 1), part(&one, 2))));
    assert_eq!(a.ok("count"), "4");
    a.ok(&format!("destroy {}", part(&one, 1)));
    assert_eq!(a.ok("count"), "2", "the public half goes with the private one");
}
