//! Writes that were answered and are not in the flash yet (TOKEN.md 5).

use super::*;
use faulty_pkcs11::{Keep, Kind, ObjectKind, Settle};

/// Any of the writes on their way may survive: also a destroy that overtakes the create before it.
#[test]
fn power_loss_keeps_what_it_is_told() {
    let (dir, machine) = machine_with(|settings| settings.settle = Settle::UntilFlush);
    let mut a = Remote::logged_in(&machine);
    let old = a.ok("create old private 1");
    machine.flush(READER).unwrap();
    a.ok("create new private 2");
    a.ok(&format!("destroy {old}"));
    let late = machine.unflushed(READER).unwrap();
    let kinds: Vec<_> = late.iter().map(|write| (write.kind, write.deleted)).collect();
    assert_eq!(
        kinds,
        [(Kind::Value, false), (Kind::Description, false), (Kind::Value, true), (Kind::Description, true)]
    );
    let after = |name: &str, keep: Keep| {
        let fork = machine.fork(dir.path().join(name)).unwrap();
        fork.power_loss(READER, &keep).unwrap();
        assert!(fork.unflushed(READER).unwrap().is_empty());
        let objects = fork.objects(READER).unwrap();
        objects.into_iter().map(|o| (o.label, o.kind)).collect::<Vec<_>>()
    };
    let object = |label: &str, kind| (label.to_owned(), kind);
    assert_eq!(after("none", Keep::Nothing), [object("old", ObjectKind::Data)]);
    assert_eq!(after("all", Keep::All), [object("new", ObjectKind::Data)]);
    assert_eq!(after("overtaken", Keep::These(vec![2, 3])), []);
    assert_eq!(
        after("first", Keep::First(1)),
        [object("old", ObjectKind::Data), object("", ObjectKind::Orphan)]
    );
    assert_eq!(
        after("ghost", Keep::First(3)),
        [object("old", ObjectKind::Ghost), object("new", ObjectKind::Data)]
    );
    // To the process it is a removal.
    machine.power_loss(READER, &Keep::All).unwrap();
    assert_eq!(a.fails("state"), "SessionHandleInvalid");
}

/// After the settle time nothing is lost.
#[test]
fn what_has_settled_is_kept() {
    let (_dir, machine) = machine_with(|settings| settings.settle = Settle::Millis(0));
    let mut a = Remote::logged_in(&machine);
    a.ok("create a private 1");
    assert!(machine.unflushed(READER).unwrap().is_empty());
    machine.power_loss(READER, &Keep::Nothing).unwrap();
    assert_eq!(machine.objects(READER).unwrap().len(), 1);
}
