//! A SoftHSM that another process writes to. The workers are this very executable, run again for one ignored test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy allows it in test functions, not in what they share"
)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use hsm_store::{Encryption, Expect, MigrationOutcome, Options, PutOrigin, PutRequest, Store};
use hsm_token::pkcs11::TokenSelector;
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerProgram, WorkerToken, run_child};
use hsm_token::{Pin, Token as _, TokenError, Visibility};
use hsm_types::{Content, Key, Metadata, Presence, RecordPath, Value};

const CHILD: &str = "HSM_STORE_TEST_CHILD";
/// More than fit in one object: its chunks go one by one.
const LONG: usize = 5000;

/// Ends the other thread whatever comes of this one.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        let _ = run_child();
        std::process::exit(0);
    }
}

fn pin() -> Pin {
    Pin::exactly("a-pin-4711".to_owned())
}

fn softhsm() -> SoftHsm {
    let worker = WorkerProgram {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"].map(Into::into).to_vec(),
        env: vec![(CHILD.into(), "1".into())],
    };
    let softhsm = SoftHsm::with_token(worker, "test", &pin()).unwrap();
    let mut token = logged_in(&softhsm).unwrap();
    Store::format(&mut token, None, &mut Options::new(lock(&softhsm))).unwrap();
    softhsm
}

fn lock(softhsm: &SoftHsm) -> PathBuf {
    softhsm.dir().join("lock")
}

fn logged_in(softhsm: &SoftHsm) -> Result<WorkerToken, TokenError> {
    let mut token = WorkerToken::open(softhsm.config(TokenSelector::Only))?;
    token.login(&pin())?;
    Ok(token)
}

fn open(softhsm: &SoftHsm) -> Store<WorkerToken> {
    let token = logged_in(softhsm).unwrap();
    Store::open(token, Options::new(lock(softhsm))).map_err(|(_, error)| error).unwrap()
}

fn path(text: &str) -> RecordPath {
    RecordPath::new(text).unwrap()
}

fn key() -> Key {
    Key::new("k").unwrap()
}

fn put(name: &str, number: usize, length: usize) -> PutRequest {
    let value = format!("{number:0length$}").into_bytes();
    PutRequest {
        path: path(name),
        expect: Expect::Any,
        content: Content {
            data: [(key(), Value::new(value))].into_iter().collect(),
            metadata: Metadata::default(),
        },
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    }
}

fn number(store: &mut Store<WorkerToken>, name: &str) -> usize {
    match store.get(&path(name)).unwrap() {
        Presence::Present(record) => {
            let value = record.content.data.get("k").unwrap();
            std::str::from_utf8(value.expose()).unwrap().parse().unwrap()
        }
        Presence::Absent => panic!("{name} was never absent"),
        Presence::Unknown(why) => panic!("{name}: {why}"),
    }
}

/// Every get finds the record, in a version that is not older than the one before, and no session is lost, while
/// another process replaces it all the time.
#[test]
fn gets_and_refreshes_race_the_edits_of_another_process() {
    const EDITS: usize = 60;
    let softhsm = softhsm();
    let (mut ours, mut theirs) = (open(&softhsm), open(&softhsm));
    for name in ["short", "long"] {
        theirs.put(&put(name, 0, if name == "long" { LONG } else { 5 })).unwrap();
    }
    ours.refresh().unwrap();
    let epoch = ours.token().epoch();
    let done = AtomicBool::new(false);
    let mut gets = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _finish = Finish(&done);
            for edit in 1..=EDITS {
                theirs.put(&put("short", edit, 5)).unwrap();
                theirs.put(&put("long", edit, LONG)).unwrap();
            }
        });
        let (mut short, mut long) = (0, 0);
        while !done.load(Ordering::Acquire) {
            for (name, last) in [("short", &mut short), ("long", &mut long)] {
                let now = number(&mut ours, name);
                assert!(now >= *last, "{name} went back from {last} to {now}");
                *last = now;
                gets += 1;
            }
            ours.refresh().unwrap();
        }
    });
    ours.refresh().unwrap();
    assert_eq!((number(&mut ours, "short"), number(&mut ours, "long")), (EDITS, EDITS));
    assert_eq!((ours.token().epoch(), ours.token().restarts()), (epoch, 0));
    assert!(gets > 0);
}

/// A store that is opened in the middle of edits has every record.
#[test]
fn opening_races_the_edits_of_another_process() {
    let softhsm = softhsm();
    let mut theirs = open(&softhsm);
    theirs.put(&put("short", 0, 5)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut edit = 0;
            while !done.load(Ordering::Acquire) {
                edit += 1;
                theirs.put(&put("short", edit, 5)).unwrap();
            }
        });
        let _finish = Finish(&done);
        for _ in 0..8 {
            number(&mut open(&softhsm), "short");
        }
    });
}

/// Objects in the formats of others on a real module: read as they are, migrated, and read by the next process; then
/// the same record in clear.
#[test]
fn records_of_others_are_read_and_migrated_and_plain_ones_written() {
    let softhsm = softhsm();
    let mut token = logged_in(&softhsm).unwrap();
    let objects: [(&str, &[u8], Visibility); 5] = [
        ("app/db/k", b"00042", Visibility::Private),
        ("app/db", &[0, 0xff], Visibility::Private),
        ("app/db/_metadata", b"{\"description\":\"d\",\"labels\":{\"a\":\"b\"}}", Visibility::Private),
        ("secrets/ns/hand", b"{\"k\": \"00007\"}", Visibility::Public),
        ("no record", b"theirs", Visibility::Private),
    ];
    for (label, value, visibility) in objects {
        token.create(label, visibility, value).unwrap();
    }
    let mut store = open(&softhsm);
    assert_eq!((number(&mut store, "app/db"), number(&mut store, "secrets/ns/hand")), (42, 7));
    let before = store.index().entries()[&path("app/db")].revisions();
    let report = store.migrate(false).unwrap();
    assert!(report.records.iter().all(|record| record.outcome == MigrationOutcome::Migrated), "{report:?}");
    assert_eq!(report.freed, 4);
    let mut store = open(&softhsm);
    assert_eq!((number(&mut store, "app/db"), number(&mut store, "secrets/ns/hand")), (42, 7));
    assert_eq!(store.index().entries()[&path("app/db")].revisions(), before);
    assert_eq!(store.index().counts().foreign, 1);
    let options = Options { encryption: Encryption::None, ..Options::new(lock(&softhsm)) };
    let mut plain = Store::open(logged_in(&softhsm).unwrap(), options).map_err(|(_, error)| error).unwrap();
    plain.put(&put("app/db", 8, 5)).unwrap();
    let listing = token.list().unwrap();
    let object = listing.data.iter().find(|object| object.label == "app/db").unwrap();
    let value = token.read(object.handle).unwrap();
    assert!(std::str::from_utf8(&value).unwrap().ends_with(",\"k\":\"00008\"}"));
    assert_eq!(number(&mut open(&softhsm), "app/db"), 8);
}
