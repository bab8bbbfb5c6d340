//! SCENARIO 3: a fault at every PKCS#11 call of an operation, learnt from the module's log: the call fails, hangs,
//! crashes the worker, leaves a ghost, or the card goes away, each before and after the call's work, with and without
//! the loss of what was not in the flash yet. Then the worker is back, and each record is wholly the old or wholly the
//! new one; others are as they were; the next write works.
//!
//! The ordinary run has every call × {before, after} × {fail, crash, removal, loss of power}, a crash in the middle of
//! each create and destroy, and a hang in each function. The ignored tests have the whole product.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use faulty_pkcs11::{Action, Fault, Keep, ObjectKind, When};
use hsm_store::{Store, StoreError};
use hsm_token::{ErrorClass, Limits, Token as _};
use hsm_types::RecordPath;

use crate::bed::*;

/// Only tells a hang from a slow machine.
const BOUND: Duration = Duration::from_mins(3);
const CKRS: [&str; 3] = ["CKR_GENERAL_ERROR", "CKR_DEVICE_ERROR", "CKR_DEVICE_REMOVED"];

/// An operation under test, on a card in a state of its own.
pub(crate) struct Case {
    pub(crate) limits: Option<Limits>,
    pub(crate) setup: fn(&World, &mut ProofStore),
    pub(crate) operation: fn(&World, &mut ProofStore) -> Result<(), StoreError>,
    /// The record that is written next, whatever came of the operation.
    pub(crate) subject: &'static str,
    /// The record that is in the format of others.
    pub(crate) foreign: Option<&'static str>,
    /// Whether the next write leaves exactly as many objects as it does after an undisturbed operation. Not so where
    /// what shares a page depends on what came before.
    pub(crate) exact: bool,
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Fail(&'static str),
    Hang,
    Crash,
    Remove,
}

impl Blow {
    fn action(self) -> Action {
        match self {
            Self::Fail(ckr) => Action::Fail(ckr.to_owned()),
            Self::Hang => Action::Hang(None),
            Self::Crash => Action::Crash,
            Self::Remove => Action::Remove,
        }
    }
}

/// Every path that is known, with what it holds or why that is unknown.
type Snapshot = BTreeMap<RecordPath, Result<Values, String>>;

/// Every path that the store knows of, and these: one that it does not list may be unknown, which is not absent.
fn snapshot<'a>(store: &mut ProofStore, also: impl Iterator<Item = &'a RecordPath>) -> Snapshot {
    let mut paths: BTreeSet<RecordPath> = store.index().entries().keys().cloned().collect();
    paths.extend(also.cloned());
    paths.into_iter().map(|path| (path.clone(), values(store, &path))).collect()
}

fn of<'a>(
    snapshot: &'a Snapshot,
    path: &RecordPath,
) -> Result<Option<&'a BTreeMap<String, Vec<u8>>>, &'a str> {
    match snapshot.get(path) {
        None => Ok(None),
        Some(known) => known.as_ref().map(Option::as_ref).map_err(String::as_str),
    }
}

/// An operation with what is known of it when nothing disturbs it.
struct Course<'a> {
    case: &'a Case,
    base: World,
    before: Snapshot,
    after: Snapshot,
    /// The calls that it makes, by function.
    calls: Vec<String>,
    /// Objects on the card after the next write.
    objects: usize,
    worlds: usize,
}

/// What a faulted run came to.
struct Run {
    store: ProofStore,
    outcome: Result<(), StoreError>,
    /// Whether it was answered with success and had its time to settle on a card that stayed in its reader.
    durable: bool,
}

impl<'a> Course<'a> {
    fn new(case: &'a Case) -> Self {
        let mut base = World::formatted();
        base.limits = case.limits;
        let mut store = base.open();
        (case.setup)(&base, &mut store);
        base.settle(&mut store);
        drop(store);
        let before = snapshot(&mut base.open(), std::iter::empty());
        base.machine.clear_log().unwrap();

        let world = base.fork();
        let mut run = Self::run(case, &world, world.open(), |world| world.machine.clear_log().unwrap());
        run.outcome.unwrap();
        let calls = world.machine.log().unwrap().into_iter().map(|call| call.function).collect();
        drop(run.store);
        run.store = world.open();
        let after = snapshot(&mut run.store, before.keys());
        let mut course = Self { case, base, before, after, calls, objects: 0, worlds: 0 };
        course.next_write(&world, &mut run.store, "undisturbed");
        course.objects = world.objects();
        course
    }

    /// The operation on an open store, then the time that the flash needs and the destruction of what it superseded.
    fn run(case: &Case, world: &World, mut store: ProofStore, arm: impl FnOnce(&World)) -> Run {
        arm(world);
        let outcome = (case.operation)(world, &mut store);
        let mut durable = false;
        if outcome.is_ok() {
            durable = !world.machine.readers().unwrap().is_empty();
            world.sleep();
            // What is left over is found by the next epoch.
            let _ = store.settle();
        }
        Run { store, outcome, durable }
    }

    /// One fault in one world, and all that may come after it.
    fn strike(&mut self, number: usize, when: When, blow: Blow, keeps: &[fn(usize, usize) -> Vec<Keep>]) {
        let mut world = self.base.fork();
        if blow == Blow::Hang {
            let short = Duration::from_secs(1);
            world.deadlines.read = short;
            world.deadlines.write = short;
            world.deadlines.grace = Duration::from_millis(100);
        }
        let started = Instant::now();
        let run = Self::run(self.case, &world, world.open(), |world| {
            world.machine.script(Fault::at_call(number as u64, when, blow.action())).unwrap();
        });
        let function = self.calls.get(number - 1).map_or("none", String::as_str);
        let what = format!("call {number} ({function}), {when:?}, {blow:?}, {:?}", run.outcome);
        assert!(world.machine.struck().unwrap() > 0 || number > self.calls.len(), "{what}: never made");
        world.machine.clear_script().unwrap();
        if blow == Blow::Hang {
            let unreachable = |error: &StoreError| matches!(error, StoreError::Token(error) if error.class == ErrorClass::Unreachable);
            // What follows an accepted write is not undone by a hang in it, but the epoch is over.
            assert!(run.outcome.as_ref().err().is_none_or(unreachable), "{what}");
            assert!(run.outcome.is_err() || run.store.is_void(), "{what}: not noticed");
        }

        let unflushed = match world.machine.drawer().unwrap().pop() {
            Some(card) => world.machine.unflushed(&card).unwrap().len(),
            None => world.machine.unflushed(READER).unwrap().len(),
        };
        let losses: BTreeSet<Vec<usize>> = keeps
            .iter()
            .flat_map(|keep| keep(unflushed, number))
            .map(|keep| kept(&keep, unflushed))
            .filter(|kept| kept.len() < unflushed)
            .collect();
        for kept in losses {
            let world = world.fork();
            let what = format!("{what}, of {unflushed} writes only {kept:?} kept");
            world.power_loss(&Keep::These(kept));
            self.check(&world, world.open(), run.durable, &what);
        }

        world.put_back();
        let accepted = run.outcome.is_ok();
        let store = back(&world, run.store, &what);
        assert!(started.elapsed() < BOUND, "{what}: the worker was not back");
        self.check(&world, store, accepted, &what);
    }

    fn check(&mut self, world: &World, mut store: ProofStore, accepted: bool, what: &str) {
        self.worlds += 1;
        let ghosts = world.count(ObjectKind::Ghost);
        if ghosts > 0 {
            // One object is neither readable nor destroyable: what may be in it is unknown, the rest is as it was.
            let found = snapshot(&mut store, self.before.keys().chain(self.after.keys()));
            self.compare(&found, accepted, true, what);
            let index = store.index();
            let told = index.hides_records() || !index.damaged().is_empty();
            assert!(told || !world.has_ghost_of_ours(), "{what}: not told");
            drop(store);
            // What `hsm-agent token doctor --repair` does.
            assert_eq!(world.machine.remove_ghosts(READER).unwrap(), ghosts, "{what}");
            store = world.open();
        }
        let index = store.index();
        assert!(index.damaged().is_empty() && !index.hides_records(), "{what}: {:?}", index.damaged());
        let found = snapshot(&mut store, self.before.keys().chain(self.after.keys()));
        self.compare(&found, accepted, false, what);
        self.next_write(world, &mut store, what);
        if self.case.exact && self.objects > 0 {
            assert_eq!(world.objects(), self.objects, "{what}: objects at rest");
        }
    }

    /// Each record is one of the two; none is unknown, but what a ghost may hide.
    fn compare(&self, found: &Snapshot, accepted: bool, ghost: bool, what: &str) {
        for path in self.before.keys().chain(self.after.keys()).chain(found.keys()) {
            let (old, new) = (of(&self.before, path).unwrap(), of(&self.after, path).unwrap());
            match of(found, path) {
                Ok(now) => {
                    assert!(now == new || (now == old && !accepted), "{what}: {path} is neither old nor new");
                }
                // A foreign record may be ours already, in an object that cannot be read.
                Err(why) => {
                    let foreign = Some(path.as_str()) == self.case.foreign;
                    assert!(ghost && (old != new || old.is_none() || foreign), "{what}: {path}: {why}");
                }
            }
        }
    }

    fn next_write(&self, world: &World, store: &mut ProofStore, what: &str) {
        let next = noise(60, 77);
        // The remains of an interrupted write go with the next write to their path.
        let incomplete = store.index().entries().iter().filter(|(_, entry)| entry.incomplete);
        let mut names: BTreeSet<String> = incomplete.map(|(path, _)| path.as_str().to_owned()).collect();
        names.insert(self.case.subject.to_owned());
        for name in &names {
            store.put(&put(name, &[("k", &next)])).unwrap_or_else(|error| panic!("{what}, {name}: {error}"));
        }
        world.settle(store);
        let clean = |entry: &hsm_store::Entry| entry.heads.len() <= 1 && !entry.incomplete;
        assert!(store.index().entries().values().all(clean), "{what}");
        // Read by a process of its own in some worlds; in all of them the card gave it back.
        if self.worlds.is_multiple_of(8) {
            let world = world.fork();
            let mut again = world.open();
            for name in &names {
                assert_eq!(values(&mut again, &path(name)).unwrap(), one("k", &next), "{what}");
            }
        }
    }
}

/// The same [`hsm_token::worker::WorkerToken`] in a new epoch: nobody had to restart the agent.
fn back(world: &World, store: ProofStore, what: &str) -> ProofStore {
    let mut token = store.into_token();
    let (epoch, end) = (token.epoch(), Instant::now() + BOUND);
    loop {
        match token.worker.reopen() {
            Ok(()) => break,
            Err(error) => {
                assert!(error.class == ErrorClass::Busy && Instant::now() < end, "{what}: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    token.login(&pin()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(token.epoch() > epoch, "{what}");
    match Store::open(token, world.options()) {
        Ok(store) => store,
        Err((_, error)) => panic!("{what}: {error}"),
    }
}

fn kept(keep: &Keep, writes: usize) -> Vec<usize> {
    (0..writes)
        .filter(|write| match keep {
            Keep::Nothing => false,
            Keep::All => true,
            Keep::First(count) => write < count,
            Keep::These(those) => those.contains(write),
        })
        .collect()
}

/// All of it lost, or every other write: the flash is written in another order.
fn some_losses(writes: usize, number: usize) -> Vec<Keep> {
    vec![Keep::Nothing, Keep::These((0..writes).filter(|write| (write + number).is_multiple_of(2)).collect())]
}

/// Every subset of few writes; of many, what is lost at an end or alone.
fn every_loss(writes: usize, _: usize) -> Vec<Keep> {
    let these =
        |keep: &dyn Fn(usize) -> bool| Keep::These((0..writes).filter(|write| keep(*write)).collect());
    if writes <= 4 {
        return (0..1usize << writes).map(|mask| these(&|write| mask >> write & 1 == 1)).collect();
    }
    let cuts = 0..=writes;
    cuts.flat_map(|cut| [these(&|w| w < cut), these(&|w| w >= cut), these(&|w| w != cut)]).collect()
}

/// The enumeration of the ordinary run. Gives how many worlds were looked at.
pub(crate) fn enumerate(case: &Case) -> usize {
    let mut course = Course::new(case);
    let calls = course.calls.clone();
    let mut hung = BTreeSet::new();
    for number in 1..=calls.len() {
        for (when, ckr) in [(When::Before, number), (When::After, number + 1)] {
            course.strike(number, when, Blow::Fail(CKRS[ckr % CKRS.len()]), &[]);
            course.strike(number, when, Blow::Crash, &[some_losses]);
            course.strike(number, when, Blow::Remove, &[]);
        }
        let function = calls[number - 1].as_str();
        if matches!(function, "C_CreateObject" | "C_DestroyObject") {
            course.strike(number, When::Between, Blow::Crash, &[some_losses]);
        }
        if hung.insert(function) {
            course.strike(number, When::After, Blow::Hang, &[]);
        }
    }
    // Nothing fails, and then the power goes.
    course.strike(calls.len() + 1, When::Before, Blow::Crash, &[every_loss]);
    report(&calls, course.worlds)
}

/// The whole product.
pub(crate) fn enumerate_all(case: &Case) -> usize {
    let mut course = Course::new(case);
    let calls = course.calls.clone();
    for number in 1..=calls.len() {
        for when in [When::Before, When::Between, When::After] {
            for ckr in CKRS {
                course.strike(number, when, Blow::Fail(ckr), &[every_loss]);
            }
            for blow in [Blow::Crash, Blow::Remove, Blow::Hang] {
                course.strike(number, when, blow, &[every_loss]);
            }
        }
    }
    report(&calls, course.worlds)
}

fn report(calls: &[String], worlds: usize) -> usize {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    eprintln!("{name}: {} calls, {worlds} worlds", calls.len());
    worlds
}
