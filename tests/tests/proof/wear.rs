//! SCENARIO 8, on the card's own counters: what wears a token out is done once, or not at all.

use crate::bed::*;

/// A poll every five seconds.
const POLLS_OF_A_DAY: u64 = 24 * 60 * 60 / 5;

#[test]
fn a_day_of_polls_wears_nothing() {
    let world = World::formatted();
    world.machine.set(|settings| settings.log = false).unwrap();
    let mut store = world.open();
    for number in 0..10 {
        store.put(&put(&format!("r/{number}"), &[("k", &noise(100, number))])).unwrap();
    }
    world.settle(&mut store);
    let before = world.machine.counters(READER).unwrap();
    for _ in 0..POLLS_OF_A_DAY {
        assert!(store.refresh().unwrap().is_empty());
    }
    let after = world.machine.counters(READER).unwrap();
    assert_eq!(
        (after.logins, after.value_reads, after.writes),
        (before.logins, before.value_reads, before.writes)
    );
    assert_eq!((after.erases, after.selects), (before.erases, before.selects));
    // One APDU each: the polls were asked of the card, and not of a memory of it.
    assert_eq!(after.apdus - before.apdus, POLLS_OF_A_DAY);
}

#[test]
fn one_login_an_epoch() {
    let world = World::formatted();
    let before = world.machine.counters(READER).unwrap().logins;
    for epoch in 1..=10 {
        let mut store = world.open();
        store.put(&put("a", &[("k", &[epoch])])).unwrap();
        world.settle(&mut store);
        values(&mut store, &path("a")).unwrap().unwrap();
        store.refresh().unwrap();
        assert_eq!(world.machine.counters(READER).unwrap().logins, before + u64::from(epoch));
    }
}

/// 1,000 syncs without a change.
#[test]
fn what_is_there_is_not_written_again() {
    let world = World::formatted();
    let mut store = world.open();
    let (small, large) = (put("small", &[("k", b"v")]), put("large", &[("k", &noise(5_000, 3))]));
    for request in [&small, &large] {
        assert!(store.put(request).unwrap().written);
    }
    world.settle(&mut store);
    let before = world.machine.counters(READER).unwrap();
    for _ in 0..500 {
        for request in [&small, &large] {
            assert!(!store.put(request).unwrap().written);
        }
        store.settle().unwrap();
    }
    let after = world.machine.counters(READER).unwrap();
    assert_eq!((after.writes, after.erases, after.logins), (before.writes, before.erases, before.logins));
    assert_eq!(after.bytes_written, before.bytes_written);
}

/// Replacing one small record is one create and one destroy, whatever lies beside it.
#[test]
fn a_small_replace_is_one_create_and_one_destroy() {
    for beside in [0, 40] {
        let world = World::formatted();
        let mut store = world.open();
        for number in 0..beside {
            store.put(&put(&format!("r/{number}"), &[("k", &noise(100, number))])).unwrap();
        }
        store.put(&put("a", &[("k", b"old")])).unwrap();
        world.settle(&mut store);
        let before = world.machine.counters(READER).unwrap();
        world.machine.clear_log().unwrap();
        store.put(&put("a", &[("k", b"new")])).unwrap();
        world.settle(&mut store);
        let after = world.machine.counters(READER).unwrap();
        assert_eq!(after.writes - before.writes, 2, "beside {beside}");
        let calls = world.machine.log().unwrap().len();
        assert!(calls <= 12, "{calls} calls beside {beside}");
    }
}
