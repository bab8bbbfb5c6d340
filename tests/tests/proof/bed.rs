//! What the tests share: a machine with one card, the time in it, and the store on it through a worker process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use faulty_pkcs11::{CardOptions, Keep, Machine, ObjectKind, Settle, module_path};
use hsm_store::{Clock, Expect, Options, PutOrigin, PutRequest, Store};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{Deadlines, OpenscSettings, WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{Limits, Pin, Token as _};
use hsm_types::{Content, Key, Metadata, Presence, RecordPath, Value};

use crate::narrow::Narrow;

pub(crate) const READER: &str = "Pol Henarejos Pico Key [CCID Interface] (E6614C3) 00 00";
pub(crate) const PIN: &str = "canary-pin-4711";
/// Within it a Pico HSM has written what it answered to (TOKEN.md, section 5).
const FLASH: Duration = Duration::from_secs(1);

pub(crate) type ProofStore = Store<Narrow>;
/// A record's keys and values; `None`: known to be absent.
pub(crate) type Values = Option<BTreeMap<String, Vec<u8>>>;

pub(crate) fn pin() -> Pin {
    Pin::exactly(PIN.to_owned())
}

/// This executable as the worker's program.
pub(crate) fn program() -> WorkerProgram {
    let args = ["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"];
    WorkerProgram {
        program: std::env::current_exe().unwrap(),
        args: args.map(Into::into).to_vec(),
        env: vec![(crate::CHILD.into(), "1".into())],
    }
}

/// A clock that moves only when somebody sleeps; whoever sleeps long enough finds the card's writes in the flash.
struct CardClock {
    now: Mutex<Instant>,
    machine: Machine,
}

impl Clock for CardClock {
    fn now(&self) -> Instant {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
        if time >= FLASH {
            // A card that was taken out is not there to be waited for.
            let _ = self.machine.flush(READER);
        } else {
            // Waiting for the lock is waiting for another thread, which has a clock of its own: a process that is being
            // started holds every lock of ours for a moment.
            std::thread::sleep(time);
        }
    }
}

/// A folder in memory where there is one: the worker syncs what must survive a loss of power, thousands of times here.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A machine with one card, the folder that it lies in, and the time there.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) machine: Machine,
    clock: Arc<CardClock>,
    pub(crate) limits: Option<Limits>,
    /// Whether workers connect the card exclusively, as is the default.
    pub(crate) exclusive: bool,
    pub(crate) deadlines: Deadlines,
}

impl World {
    /// An initialised card without a store. What it writes is in its flash when somebody has slept, never before.
    pub(crate) fn new() -> Self {
        let dir = folder();
        let machine = Machine::new(dir.path().join("machine")).unwrap();
        machine.set(|settings| settings.settle = Settle::UntilFlush).unwrap();
        machine.add_card(READER, &CardOptions::with_pin(PIN)).unwrap();
        Self::with(dir, machine)
    }

    fn with(dir: tempfile::TempDir, machine: Machine) -> Self {
        let clock = Arc::new(CardClock { now: Mutex::new(Instant::now()), machine: machine.clone() });
        Self { dir, machine, clock, limits: None, exclusive: true, deadlines: Deadlines::default() }
    }

    /// With a store.
    pub(crate) fn formatted() -> Self {
        let world = Self::new();
        Store::format(&mut world.logged_in(), None, &mut world.options()).unwrap();
        world.machine.clear_log().unwrap();
        world
    }

    pub(crate) fn fork(&self) -> Self {
        let dir = folder();
        let machine = self.machine.fork(dir.path().join("machine")).unwrap();
        let pins = self.dir.path().join("failed-pins");
        if pins.exists() {
            std::fs::copy(pins, dir.path().join("failed-pins")).unwrap();
        }
        Self {
            limits: self.limits,
            exclusive: self.exclusive,
            deadlines: self.deadlines,
            ..Self::with(dir, machine)
        }
    }

    pub(crate) fn config(&self) -> WorkerConfig {
        let token =
            Pkcs11Config { module: module_path().unwrap(), token: TokenSelector::Reader(READER.into()) };
        let mut worker = program();
        worker.env.extend(self.machine.env());
        WorkerConfig {
            token,
            worker,
            deadlines: self.deadlines,
            pin_memory: Some(self.dir.path().join("failed-pins")),
            opensc: Some(OpenscSettings {
                exclusive: self.exclusive,
                ..OpenscSettings::new(self.dir.path())
            }),
        }
    }

    /// The token, in a process that is not started yet.
    pub(crate) fn closed(&self) -> Narrow {
        Narrow::new(WorkerToken::new(self.config()).unwrap(), self.limits)
    }

    /// The token, in a new process.
    pub(crate) fn logged_in(&self) -> Narrow {
        let mut token = self.closed();
        token.worker.reopen().unwrap();
        token.login(&pin()).unwrap();
        token
    }

    pub(crate) fn options(&self) -> Options {
        Options { clock: self.clock.clone(), ..Options::new(self.dir.path().join("lock")) }
    }

    /// The store, in a new process.
    pub(crate) fn open(&self) -> ProofStore {
        store(Store::open(self.logged_in(), self.options()))
    }

    /// Lets time pass until everything is in the flash, and what is superseded is destroyed.
    pub(crate) fn settle(&self, store: &mut ProofStore) {
        for _ in 0..3 {
            self.clock.sleep(2 * FLASH);
            store.settle().unwrap();
        }
        self.clock.sleep(2 * FLASH);
        assert_eq!(store.pending(), 0);
    }

    pub(crate) fn sleep(&self) {
        self.clock.sleep(2 * FLASH);
    }

    /// Lets a minute pass.
    pub(crate) fn minute(&self) {
        self.clock.sleep(Duration::from_mins(1));
    }

    /// What the owner of an idle token does: pack until there is nothing left to pack.
    pub(crate) fn idle(&self, store: &mut ProofStore) {
        self.settle(store);
        while store.repack().unwrap() {
            self.settle(store);
        }
    }

    /// Puts the card back into its reader, if it is not there.
    pub(crate) fn put_back(&self) {
        for card in self.machine.drawer().unwrap() {
            self.machine.plug(READER, &card).unwrap();
        }
    }

    /// Puts the card back after it lost power, and what was on its way to the flash but `keep`.
    pub(crate) fn power_loss(&self, keep: &Keep) {
        let card = self.machine.drawer().unwrap().pop();
        self.machine.power_loss(card.as_deref().unwrap_or(READER), keep).unwrap();
        self.put_back();
    }

    /// Objects of this kind on the card, listed or not.
    pub(crate) fn count(&self, kind: ObjectKind) -> usize {
        self.machine.objects(READER).unwrap().iter().filter(|object| object.kind == kind).count()
    }

    /// Whether a ghost has a label of ours; one that was a foreign object hides no record of ours.
    pub(crate) fn has_ghost_of_ours(&self) -> bool {
        let objects = self.machine.objects(READER).unwrap();
        objects
            .iter()
            .any(|object| object.kind == ObjectKind::Ghost && object.label.starts_with("hsm.j5t.io/"))
    }

    /// Objects as the card counts them, where a key pair is two.
    pub(crate) fn objects(&self) -> usize {
        self.count(ObjectKind::Data) + self.count(ObjectKind::Ghost) + 2 * self.count(ObjectKind::KeyPair)
    }
}

/// What `Store::open` gave.
pub(crate) fn store(opened: Result<ProofStore, (Narrow, hsm_store::StoreError)>) -> ProofStore {
    opened.unwrap_or_else(|(_, error)| panic!("the store cannot be opened: {error}"))
}

pub(crate) fn path(name: &str) -> RecordPath {
    RecordPath::new(name).unwrap()
}

pub(crate) fn put(name: &str, pairs: &[(&str, &[u8])]) -> PutRequest {
    let data = pairs.iter().map(|(k, v)| (Key::new(*k).unwrap(), Value::new(v.to_vec()))).collect();
    PutRequest {
        path: path(name),
        expect: Expect::Any,
        content: Content { data, metadata: Metadata::default() },
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    }
}

/// A record's values; an error where they are unknown.
pub(crate) fn values(store: &mut ProofStore, path: &RecordPath) -> Result<Values, String> {
    match store.get(path).map_err(|error| error.to_string())? {
        Presence::Present(record) => {
            let pairs = record.content.data.iter();
            Ok(Some(pairs.map(|(k, v)| (k.as_str().to_owned(), v.expose().to_vec())).collect()))
        }
        Presence::Absent => Ok(None),
        Presence::Unknown(why) => Err(why.to_string()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is compared with what a record holds")]
pub(crate) fn one(key: &str, value: &[u8]) -> Values {
    Some(BTreeMap::from([(key.to_owned(), value.to_vec())]))
}

/// Bytes that look like nothing else and are the same each time.
pub(crate) fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

/// A SoftHSM with one token that holds a store.
pub(crate) fn softhsm() -> SoftHsm {
    let softhsm = SoftHsm::with_token(program(), "proof", &pin()).unwrap();
    let mut token = softhsm_token(&softhsm);
    Store::format(&mut token, None, &mut Options::new(softhsm.dir().join("lock"))).unwrap();
    softhsm
}

pub(crate) fn softhsm_token(softhsm: &SoftHsm) -> Narrow {
    let mut worker = WorkerToken::open(softhsm.config(TokenSelector::Label("proof".into()))).unwrap();
    worker.login(&pin()).unwrap();
    Narrow::new(worker, None)
}

pub(crate) fn softhsm_store(softhsm: &SoftHsm) -> ProofStore {
    store(Store::open(softhsm_token(softhsm), Options::new(softhsm.dir().join("lock"))))
}
