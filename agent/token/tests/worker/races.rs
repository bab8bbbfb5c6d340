//! Another session changes the token while it is listed and read.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Ends the other thread whatever comes of this one.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Handles go away between a listing and a read: the session lives, and what is still there is always listed.
#[test]
fn objects_that_another_session_destroys_cost_no_epoch() {
    let softhsm = softhsm();
    let (mut ours, mut theirs) = (logged_in(&softhsm), logged_in(&softhsm));
    for i in 0..20 {
        ours.create(&format!("still{i}"), Visibility::Private, b"x").unwrap();
    }
    let moving: Vec<_> =
        (0..100).map(|_| theirs.create("moving", Visibility::Private, VALUE).unwrap()).collect();
    let epoch = ours.epoch();
    let done = AtomicBool::new(false);
    let (mut last, mut gone) = (usize::MAX, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _finish = Finish(&done);
            for handle in moving {
                theirs.destroy(handle).unwrap();
            }
        });
        while !done.load(Ordering::Acquire) {
            let listing = match ours.list() {
                Ok(listing) => listing,
                Err(error) => {
                    assert_eq!(error.class, ErrorClass::Busy, "{error}");
                    continue;
                }
            };
            assert_eq!(listing.data.iter().filter(|o| o.label.starts_with("still")).count(), 20);
            assert!(listing.data.len() <= last);
            last = listing.data.len();
            for object in listing.data {
                match ours.read(object.handle) {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!((error.class, object.label.as_str()), (ErrorClass::ObjectGone, "moving"));
                        gone += 1;
                    }
                }
            }
        }
    });
    assert_eq!(ours.list().unwrap().data.len(), 20);
    assert_eq!((ours.epoch(), ours.restarts()), (epoch, 0), "{gone} reads came too late");
}

#[test]
fn what_another_session_destroyed_is_gone_and_the_session_lives() {
    let softhsm = softhsm();
    let (mut ours, mut theirs) = (logged_in(&softhsm), logged_in(&softhsm));
    let handle = theirs.create("a", Visibility::Private, VALUE).unwrap();
    let listed = ours.list().unwrap().data[0].handle;
    theirs.destroy(handle).unwrap();
    assert_eq!(class(ours.read(listed)), Some(ErrorClass::ObjectGone));
    assert_eq!(class(ours.destroy(listed)), Some(ErrorClass::ObjectGone));
    assert_eq!(ours.list().unwrap().data.len(), 0);
    assert_eq!(class(ours.read(listed)), Some(ErrorClass::ObjectGone));
    assert_eq!((ours.epoch(), ours.restarts()), (2, 0));
}
