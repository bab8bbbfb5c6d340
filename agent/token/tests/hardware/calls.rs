//! Listings are complete, and what each thing costs in calls.

use super::*;

fn sent(desk: &Desk, of: impl FnOnce()) -> Vec<String> {
    desk.machine.clear_log().unwrap();
    of();
    desk.machine.log().unwrap().into_iter().map(|call| call.function).collect()
}

fn count(calls: &[String], function: &str) -> usize {
    calls.iter().filter(|call| *call == function).count()
}

/// SCENARIO 2. Two of the objects are a key pair, which counts.
#[test]
fn lists_are_complete_up_to_the_limit() {
    let desk = Desk::new(&[A]);
    let mut token = logged_in(desk.apart(A));
    token.generate_key_pair("store").unwrap();
    let mut made = 0;
    for wanted in [0, 1, 97, 98, 99, 100, 101, 115, 116, 124] {
        while made < wanted {
            token.create(&format!("o{made:03}"), Visibility::Private, &[1]).unwrap();
            made += 1;
        }
        for fresh in [false, true] {
            if fresh {
                token.reopen().unwrap();
                token.login(&pin(PIN)).unwrap();
            }
            let listing = token.list().unwrap();
            let mut labels: Vec<_> = listing.data.into_iter().map(|o| o.label).collect();
            labels.sort_unstable();
            assert_eq!(labels, (0..wanted).map(|i| format!("o{i:03}")).collect::<Vec<_>>(), "fresh: {fresh}");
            assert_eq!(listing.others, 2);
        }
    }
}

#[test]
fn what_things_cost() {
    let desk = Desk::new(&[A]);
    let mut token = logged_in(desk.apart(A));
    for i in 0..100 {
        token.create(&format!("o{i:03}"), Visibility::Private, &[1; 100]).unwrap();
    }
    let calls = sent(&desk, || drop(token.list().unwrap()));
    assert_eq!(calls, ["C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal"], "all of them are ours");
    token.reopen().unwrap();
    token.login(&pin(PIN)).unwrap();
    let calls = sent(&desk, || drop(token.list().unwrap()));
    assert_eq!((calls.len(), count(&calls, "C_GetAttributeValue")), (203, 200));
    let calls = sent(&desk, || drop(token.list().unwrap()));
    assert_eq!(calls.len(), 3, "described once in an epoch");

    let handle = token.list().unwrap().data[0].handle;
    assert_eq!(sent(&desk, || drop(token.read(handle).unwrap())).len(), 2);
    assert_eq!(sent(&desk, || token.destroy(handle).unwrap()), ["C_DestroyObject"]);
    let calls = sent(&desk, || _ = token.create("new", Visibility::Private, b"x").unwrap());
    assert_eq!(calls, ["C_CreateObject"]);
    assert_eq!(sent(&desk, || token.still_there().unwrap()), ["C_GetSessionInfo"]);
    assert_eq!(sent(&desk, || drop(token.info().unwrap())), ["C_GetTokenInfo"]);
    let labels: Vec<_> = token.list().unwrap().data.into_iter().map(|o| o.label).collect();
    assert_eq!((labels.len(), labels.iter().filter(|label| *label == "new").count()), (100, 1));
}

/// A poll is no login, no wear, and reads no value.
#[test]
fn a_day_of_polling_wears_nothing() {
    let desk = Desk::new(&[A]);
    let mut token = logged_in(desk.apart(A));
    token.create("o", Visibility::Private, b"x").unwrap();
    let before = desk.machine.counters(A).unwrap();
    for _ in 0..(24 * 60) {
        token.still_there().unwrap();
    }
    let after = desk.machine.counters(A).unwrap();
    assert_eq!(
        (after.logins, after.erases, after.value_reads, after.writes),
        (before.logins, before.erases, before.value_reads, before.writes)
    );
    assert_eq!(after.apdus - before.apdus, 24 * 60, "one APDU each");
}
