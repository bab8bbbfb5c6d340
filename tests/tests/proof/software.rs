//! SCENARIO 3 on SoftHSM, whose calls fail by no script: the worker is killed before every call of an operation, and once
//! after the last. A replacement is there at once (its settle time is 0), so that its destroys are among the calls.

use hsm_store::{Expect, Store, StoreError};

use crate::bed::*;

const SUBJECT: &str = "secrets/a/db";

/// What is there before and after; `None`: nothing.
type Change<'a> = (&'static str, Option<&'a [u8]>, Option<&'a [u8]>);

/// The operation with a kill before each of its calls, each time from the same state. Gives how many calls it has.
fn killed_at_every_call(old: Option<&[u8]>, new: Option<&[u8]>) -> usize {
    let softhsm = softhsm();
    let mut opened = softhsm_store(&softhsm);
    let beside = [("secrets/a/db-prod", noise(40, 1)), ("secrets/a/d", noise(2_500, 2))];
    for (name, value) in &beside {
        opened.put(&put(name, &[("k", value)])).unwrap();
    }
    let write = |store: &mut ProofStore, value: Option<&[u8]>| -> Result<(), StoreError> {
        match value {
            Some(value) => store.put(&put(SUBJECT, &[("k", value)])).map(drop),
            None => store.delete(&path(SUBJECT), Expect::Any).map(drop),
        }
    };
    let held = |value: Option<&[u8]>| value.and_then(|value| one("k", value));
    let mut objects = None;
    for number in 0.. {
        write(&mut opened, old).unwrap();
        assert_eq!(opened.settle().unwrap(), None);
        let at_rest = opened.index().counts().ours - opened.index().tombstones().count();
        assert!(objects.is_none_or(|before| at_rest <= before), "{number}: {at_rest} objects at rest");
        objects = objects.or(Some(at_rest));

        opened.token().kill_after = Some(number);
        let outcome = write(&mut opened, new);
        let struck = opened.token().kill_after.is_none();
        let what = format!("killed before call {}, {outcome:?}", number + 1);
        let mut token = opened.into_token();
        token.kill_after = None;
        token.worker.reopen().unwrap();
        hsm_token::Token::login(&mut token, &pin()).unwrap();
        opened = store(Store::open(token, hsm_store::Options::new(softhsm.dir().join("lock"))));
        let index = opened.index();
        assert!(index.damaged().is_empty() && !index.hides_records(), "{what}: {:?}", index.damaged());
        let found = values(&mut opened, &path(SUBJECT)).unwrap();
        assert!(
            found == held(new) || (found == held(old) && outcome.is_err()),
            "{what}: neither old nor new"
        );
        for (name, value) in &beside {
            assert_eq!(values(&mut opened, &path(name)).unwrap(), one("k", value), "{what}: {name}");
        }
        if !struck {
            outcome.unwrap();
            return number;
        }
    }
    unreachable!("an operation ends")
}

#[test]
fn the_worker_is_killed_at_every_call() {
    let (small, more) = (noise(40, 3), noise(50, 4));
    let (large, larger) = (noise(3_000, 5), noise(5_000, 6));
    let cases: [Change<'_>; 5] = [
        ("a new record", None, Some(&small)),
        ("a small record replaced", Some(&small), Some(&more)),
        ("a record in chunks replaced", Some(&large), Some(&larger)),
        ("a record deleted", Some(&small), None),
        ("a record in chunks deleted", Some(&large), None),
    ];
    for (what, old, new) in cases {
        let calls = killed_at_every_call(old, new);
        eprintln!("SoftHSM, {what}: {calls} calls of the port, killed before each");
        assert!(calls > 2, "{what}");
    }
}
