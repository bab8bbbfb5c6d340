//! The store's promises on a token that somebody has: `./hack/test --hardware TOKEN_ID`.
//!
//! It works under a path of its own, never initialises anything, counts its logins, and leaves every other record and
//! object as it was. Without a token of yours it runs on a SoftHSM token, so that it is itself tested.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hsm_store::{Expect, Options, PutOrigin, PutRequest, Store, identify};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{Pin, Token as _};
use hsm_types::{Content, Key, Metadata, Presence, RecordPath, Revision, TokenId, Value};

/// The token under test.
struct Bed {
    config: WorkerConfig,
    pin: Pin,
    /// The identity that it must have before a PIN is given to it.
    token_id: Option<TokenId>,
    lock: PathBuf,
    /// Where the records of this run lie.
    prefix: String,
    logins: u64,
    /// Kept for its directory.
    _softhsm: Option<SoftHsm>,
}

fn program() -> WorkerProgram {
    WorkerProgram {
        program: hsm_tests::program("hsm-agent").unwrap(),
        args: vec!["token-worker".into()],
        env: Vec::new(),
    }
}

impl Bed {
    fn softhsm() -> Self {
        let pin = Pin::exactly("a-pin-for-tests".to_owned());
        let softhsm = SoftHsm::with_token(program(), "any", &pin).unwrap();
        let config = softhsm.config(TokenSelector::Only);
        let lock = softhsm.dir().join("lock");
        let mut token = WorkerToken::open(config.clone()).unwrap();
        token.login(&pin).unwrap();
        Store::format(&mut token, None, &mut Options::new(&lock)).unwrap();
        Self { config, pin, token_id: None, lock, prefix: prefix(), logins: 0, _softhsm: Some(softhsm) }
    }

    /// The token that the environment names, as for `hsm-agent token`.
    fn yours(token_id: &str) -> Self {
        let wanted =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("set {name}, as for hsm-agent token"));
        let token = match (std::env::var("HSM_TOKEN_LABEL"), std::env::var("HSM_READER")) {
            (_, Ok(reader)) => TokenSelector::Reader(reader),
            (Ok(label), Err(_)) => TokenSelector::Label(label),
            (Err(_), Err(_)) => TokenSelector::Only,
        };
        let runtime = std::env::temp_dir();
        let mut config =
            WorkerConfig::new(Pkcs11Config { module: wanted("HSM_MODULE").into(), token }).unwrap();
        config.worker = program();
        // Of its own, and kept: a PIN that was wrong is not tried again by the next run.
        config.pin_memory = Some(runtime.join(format!("hsm-hardware-test-{token_id}.failed-pins")));
        let pin = std::fs::read_to_string(wanted("HSM_PIN_FILE")).expect("HSM_PIN_FILE cannot be read");
        Self {
            config,
            pin: Pin::new(pin),
            token_id: Some(token_id.parse().expect("TOKEN_ID is a UUID, as hsm-agent token info prints it")),
            lock: runtime.join(format!("hsm-hardware-test-{token_id}.lock")),
            prefix: prefix(),
            logins: 0,
            _softhsm: None,
        }
    }

    /// A new epoch, in a new process.
    fn open(&mut self) -> Store<WorkerToken> {
        let mut token = WorkerToken::open(self.config.clone()).unwrap();
        if let Some(wanted) = self.token_id {
            match identify(&mut token).unwrap() {
                Presence::Present(found) => {
                    assert!(found == wanted, "the token is {found}; no PIN was given to it");
                }
                other => panic!("the token does not say who it is ({other:?}); no PIN was given to it"),
            }
        }
        token.login(&self.pin).unwrap();
        self.logins += 1;
        match Store::open(token, Options::new(&self.lock)) {
            Ok(store) => store,
            Err((_, error)) => panic!("the store cannot be opened: {error}"),
        }
    }

    fn path(&self, name: &str) -> RecordPath {
        RecordPath::new(format!("{}/{name}", self.prefix)).unwrap()
    }

    fn put(&self, store: &mut Store<WorkerToken>, name: &str, pairs: &[(&str, &[u8])]) {
        let data = pairs.iter().map(|(k, v)| (Key::new(*k).unwrap(), Value::new(v.to_vec()))).collect();
        let request = PutRequest {
            path: self.path(name),
            expect: Expect::Any,
            content: Content { data, metadata: Metadata::default() },
            origin: PutOrigin::Token,
            parents: Vec::new(),
            begin_epoch: false,
            keep_history: 0,
        };
        store.put(&request).unwrap();
    }

    fn get(&self, store: &mut Store<WorkerToken>, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        match store.get(&self.path(name)).unwrap() {
            Presence::Present(record) => {
                let pairs = record.content.data.iter();
                Some(pairs.map(|(k, v)| (k.as_str().to_owned(), v.expose().to_vec())).collect())
            }
            Presence::Absent => None,
            Presence::Unknown(why) => panic!("{name} is unknown: {why}"),
        }
    }
}

fn prefix() -> String {
    let mut random = [0; 4];
    let mut source = std::fs::File::open("/dev/urandom").unwrap();
    std::io::Read::read_exact(&mut source, &mut random).unwrap();
    format!("hardware-test/{:08x}", u32::from_be_bytes(random))
}

fn settle(store: &mut Store<WorkerToken>) {
    while let Some(due) = store.settle().unwrap() {
        std::thread::sleep(due.max(Duration::from_millis(10)));
    }
}

fn one(value: &[u8]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([("k".to_owned(), value.to_vec())])
}

/// Every record that is not this run's, by its versions.
fn others(bed: &Bed, store: &Store<WorkerToken>) -> BTreeMap<RecordPath, Vec<Revision>> {
    let entries = store.index().entries().iter();
    entries
        .filter(|(path, entry)| !path.as_str().starts_with(&bed.prefix) && !entry.heads.is_empty())
        .map(|(path, entry)| (path.clone(), entry.revisions()))
        .collect()
}

#[test]
fn a_token_keeps_what_is_put_on_it() {
    let mut bed = match std::env::var("HSM_HARDWARE_TOKEN") {
        Ok(id) => Bed::yours(&id),
        Err(_) => Bed::softhsm(),
    };
    let mut store = bed.open();
    assert!(store.index().damaged().is_empty(), "mend the token first: {:?}", store.index().damaged());
    let before = others(&bed, &store);
    let objects = store.index().counts().total();
    let binary: Vec<u8> = (0..=255).cycle().take(3_000).collect();
    let bundle: Vec<u8> = (0..=255).rev().cycle().take(16_000).collect();

    // Values of every kind, beside names that are prefixes of each other, read back by another process.
    let values: [(&str, &[u8]); 6] = [
        ("db", b"1"),
        ("db-prod", &[0, 0xff, b'\n', 0]),
        ("db2", b""),
        ("dbx/y", &[0xc3, 0x28, 0xa0]),
        ("binary", &binary),
        ("bundle", &bundle),
    ];
    for (name, value) in values {
        bed.put(&mut store, name, &[("k", value)]);
    }
    settle(&mut store);
    drop(store);
    let mut store = bed.open();
    for (name, value) in values {
        assert!(bed.get(&mut store, name) == Some(one(value)), "{name} is not what was put");
    }

    // Replace, grow, shrink, delete: the neighbours stay.
    bed.put(&mut store, "db", &[("k", b"2"), ("more", b"keys")]);
    bed.put(&mut store, "binary", &[("k", b"small now")]);
    bed.put(&mut store, "db2", &[("k", &binary)]);
    store.delete(&bed.path("bundle"), Expect::Any).unwrap();
    settle(&mut store);

    // A worker that is killed between two writes: what was answered is there, and nothing is half.
    for round in 0..3u8 {
        bed.put(&mut store, "killed", &[("k", &[round])]);
        let pid = store.token().pid().expect("a worker runs");
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid.cast_signed()),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        drop(store);
        store = bed.open();
        assert!(bed.get(&mut store, "killed") == Some(one(&[round])), "round {round}");
    }
    assert!(bed.get(&mut store, "db").unwrap().len() == 2);
    assert!(bed.get(&mut store, "binary") == Some(one(b"small now")));
    assert!(bed.get(&mut store, "db2") == Some(one(&binary)));
    assert!(bed.get(&mut store, "bundle").is_none());
    assert!(bed.get(&mut store, "db-prod") == Some(one(&[0, 0xff, b'\n', 0])));

    // Nothing is left behind, and nothing of yours was touched.
    let ours: Vec<RecordPath> = store
        .index()
        .entries()
        .keys()
        .filter(|path| path.as_str().starts_with(&bed.prefix))
        .cloned()
        .collect();
    for path in &ours {
        store.delete(path, Expect::Any).unwrap();
    }
    settle(&mut store);
    let tombstones: Vec<_> =
        store.index().tombstones().filter(|tomb| ours.contains(&tomb.path)).cloned().collect();
    for tomb in tombstones {
        assert!(store.forget_tombstone(&tomb.path, tomb.incarnation).unwrap());
    }
    settle(&mut store);
    drop(store);
    let store = bed.open();
    assert_eq!(others(&bed, &store), before);
    assert_eq!(store.index().counts().total(), objects, "objects before and after");
    assert_eq!(bed.logins, 6, "one login an epoch");
}
