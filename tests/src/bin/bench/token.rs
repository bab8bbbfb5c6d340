//! `hack/bench token`: what the record store asks of a token, in PKCS#11 calls, APDUs and flash erases, beside the
//! layout that keeps one object for each key (the Go operator's), on the same module in the same run.
//!
//! On the faulty module the card itself counts. On SoftHSM OpenSC's `pkcs11-spy` counts the calls; there are no APDUs
//! and no flash there.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use faulty_pkcs11::{CardOptions, Machine, module_path};
use hsm_store::{Expect, Options, PutOrigin, PutRequest, Store, StoreError};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{Pin, Token as _, Visibility};
use hsm_types::{Content, Key, Metadata, RecordPath, Value};

pub(super) const PIN: &str = "bench-4711";
pub(super) const READER: &str = "Pico Key Pico HSM 00 00";
/// The other records that lie on the token.
const LOADS: [usize; 3] = [0, 100, 500];
/// A poll every 5 seconds, for a day.
const POLLS_OF_A_DAY: u64 = 24 * 60 * 60 / 5;

/// What some work has cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    calls: u64,
    apdus: u64,
    erases: u64,
    logins: u64,
    reads: u64,
    writes: u64,
}

impl Cost {
    fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls - before.calls,
            apdus: self.apdus - before.apdus,
            erases: self.erases - before.erases,
            logins: self.logins - before.logins,
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
        }
    }
}

/// A module with one token, and whoever counts what it is asked.
enum Bed {
    Faulty { machine: Machine, dir: tempfile::TempDir },
    SoftHsm { softhsm: SoftHsm, spy: PathBuf },
}

pub(super) fn worker() -> Result<WorkerProgram> {
    let program = hsm_tests::program("hsm-agent")?;
    Ok(WorkerProgram { program, args: vec!["token-worker".into()], env: Vec::new() })
}

pub(super) fn pin() -> Pin {
    Pin::exactly(PIN.to_owned())
}

impl Bed {
    fn faulty() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let machine = Machine::new(dir.path().join("machine"))?;
        machine.set(|settings| settings.log = true)?;
        machine.add_card(READER, &CardOptions::with_pin(PIN))?;
        Ok(Self::Faulty { machine, dir })
    }

    fn softhsm() -> Result<Self> {
        let places = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
        let spy = places
            .iter()
            .map(|place| PathBuf::from(place).join("pkcs11-spy.so"))
            .find(|path| path.exists())
            .context("pkcs11-spy.so is not there: apt-get install opensc-pkcs11")?;
        Ok(Self::SoftHsm { softhsm: SoftHsm::with_token(worker()?, "bench", &pin())?, spy })
    }

    const fn name(&self) -> &'static str {
        match self {
            Self::Faulty { .. } => "Pico HSM v6.6 as the faulty module has it",
            Self::SoftHsm { .. } => "SoftHSM",
        }
    }

    fn folder(&self) -> PathBuf {
        match self {
            Self::Faulty { dir, .. } => dir.path().to_owned(),
            Self::SoftHsm { softhsm, .. } => softhsm.dir().to_owned(),
        }
    }

    fn config(&self) -> Result<WorkerConfig> {
        Ok(match self {
            Self::Faulty { machine, .. } => {
                let token = Pkcs11Config { module: module_path()?, token: TokenSelector::Only };
                let mut config = WorkerConfig::new(token)?;
                config.worker = worker()?;
                config.worker.env = machine.env();
                config
            }
            Self::SoftHsm { softhsm, spy } => {
                let mut config = softhsm.config(TokenSelector::Label("bench".to_owned()));
                let output = softhsm.dir().join("spy.log");
                config.worker = config
                    .worker
                    .with_env("PKCS11SPY", softhsm.module())
                    .with_env("PKCS11SPY_OUTPUT", output);
                config.token.module.clone_from(spy);
                config
            }
        })
    }

    /// All that was ever asked of the token.
    fn cost(&self) -> Result<Cost> {
        match self {
            Self::Faulty { machine, .. } => {
                let counters = machine.counters(READER)?;
                Ok(Cost {
                    calls: machine.log()?.len() as u64,
                    apdus: counters.apdus,
                    erases: counters.erases,
                    logins: counters.logins,
                    reads: counters.value_reads,
                    writes: counters.writes,
                })
            }
            Self::SoftHsm { softhsm, .. } => {
                let text = std::fs::read(softhsm.dir().join("spy.log")).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                // Each call begins with its number and its name: "12: C_FindObjects".
                let names = || {
                    text.lines().filter_map(|line| {
                        let (number, name) = line.split_once(": ")?;
                        number.parse::<u64>().ok().filter(|_| name.starts_with("C_"))?;
                        Some(name)
                    })
                };
                let of = |wanted: &[&str]| names().filter(|name| wanted.contains(name)).count() as u64;
                Ok(Cost {
                    calls: names().count() as u64,
                    logins: of(&["C_Login"]),
                    writes: of(&["C_CreateObject", "C_DestroyObject"]),
                    ..Cost::default()
                })
            }
        }
    }

    fn token(&self) -> Result<WorkerToken> {
        let mut token = WorkerToken::open(self.config()?)?;
        token.login(&pin())?;
        Ok(token)
    }

    fn store(&self) -> Result<Store<WorkerToken>> {
        Store::open(self.token()?, Options::new(self.folder().join("lock")))
            .map_err(|(_, error)| error.into())
    }

    fn format(&self) -> Result<()> {
        Store::format(&mut self.token()?, None, &mut Options::new(self.folder().join("lock")))?;
        Ok(())
    }
}

pub(super) fn request(name: &str, pairs: &[(&str, Vec<u8>)]) -> Result<PutRequest> {
    let data = pairs
        .iter()
        .map(|(key, value)| Ok((Key::new(*key)?, Value::new(value.clone()))))
        .collect::<Result<_>>()?;
    Ok(PutRequest {
        path: RecordPath::new(name)?,
        expect: Expect::Any,
        content: Content { data, metadata: Metadata::default() },
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    })
}

/// One of the records that lie on the token beside the one that is measured: a key of 150 bytes.
pub(super) fn other(number: usize) -> Result<PutRequest> {
    request(&format!("secrets/bench/other-{number}"), &[("password", vec![b'x'; 150])])
}

/// The record of three keys that is measured.
fn subject(fill: u8) -> Result<PutRequest> {
    let value = |byte: u8| vec![byte ^ fill; 40];
    request(
        "secrets/bench/subject",
        &[("username", value(b'u')), ("password", value(b'p')), ("url", value(b'l'))],
    )
}

fn settle(store: &mut Store<WorkerToken>) -> Result<()> {
    while let Some(due) = store.settle()? {
        std::thread::sleep(due);
    }
    Ok(())
}

/// Everything that the owner of a token does by itself after a write.
pub(super) fn rest(store: &mut Store<WorkerToken>) -> Result<()> {
    settle(store)?;
    while store.repack()? {
        settle(store)?;
    }
    Ok(())
}

fn line(what: &str, cost: Cost, hardware: bool) {
    if hardware {
        println!("  {what:<44} {:>6} {:>6} {:>6}", cost.calls, cost.apdus, cost.erases);
    } else {
        println!("  {what:<44} {:>6}", cost.calls);
    }
}

/// Runs some work on an open store; what it cost with what has to follow it.
fn measured<R>(
    bed: &Bed,
    store: &mut Store<WorkerToken>,
    work: impl FnOnce(&mut Store<WorkerToken>) -> Result<R, StoreError>,
) -> Result<Cost> {
    let before = bed.cost()?;
    work(store)?;
    settle(store)?;
    Ok(bed.cost()?.since(before))
}

pub(crate) fn token() -> Result<()> {
    for bed in [Bed::faulty()?, Bed::softhsm()?] {
        let hardware = matches!(bed, Bed::Faulty { .. });
        println!("\n{}", bed.name());
        println!("  {:<44} {:>6}{}", "", "calls", if hardware { "  APDUs erases" } else { "" });
        bed.format()?;
        let mut there = 0;
        for load in LOADS {
            records(&bed, hardware, &mut there, load)?;
        }
        idle(&bed, hardware)?;
    }
    for bed in [Bed::faulty()?, Bed::softhsm()?] {
        let hardware = matches!(bed, Bed::Faulty { .. });
        println!("\n{}, one object for each key (the Go operator's layout)", bed.name());
        println!("  {:<44} {:>6}{}", "", "calls", if hardware { "  APDUs erases" } else { "" });
        one_object_a_key(&bed, hardware)?;
    }
    println!("\nEdits of random records of 150 bytes until the flash of a v6.6 card is full (faulty module)");
    for records in [10, 100, 500] {
        super::wear::until_full(records)?;
    }
    Ok(())
}

fn records(bed: &Bed, hardware: bool, there: &mut usize, load: usize) -> Result<()> {
    let mut store = bed.store()?;
    let requests = (*there..load).map(other).collect::<Result<Vec<_>>>()?;
    for outcome in store.put_all(&requests) {
        outcome?;
    }
    rest(&mut store)?;
    *there = load;
    drop(store);

    let before = bed.cost()?;
    let mut store = bed.store()?;
    line(&format!("open, login and index {load} records"), bed.cost()?.since(before), hardware);
    let counts = store.index().counts();
    let (first, second) = (subject(0)?, subject(1)?);
    let path = first.path.clone();
    let cost = measured(bed, &mut store, |store| store.put(&first))?;
    line("put, 3 keys", cost, hardware);
    let cost = measured(bed, &mut store, |store| store.get(&path))?;
    line("get", cost, hardware);
    let cost = measured(bed, &mut store, |store| store.put(&second))?;
    line("replace, 3 keys", cost, hardware);
    let cost = measured(bed, &mut store, |store| store.put(&second))?;
    line("the same value again", cost, hardware);
    if load > 0 {
        let edit = request("secrets/bench/other-0", &[("password", vec![b'y'; 150])])?;
        let cost = measured(bed, &mut store, |store| store.put(&edit))?;
        line("replace, 1 key, oldest record", cost, hardware);
        store.put(&other(0)?)?;
        settle(&mut store)?;
    }
    let cost = measured(bed, &mut store, |store| store.delete(&path, Expect::Any))?;
    line("delete", cost, hardware);
    let bundle =
        request("secrets/bench/tls", &[("tls.crt", vec![b'c'; 15_000]), ("tls.key", vec![b'k'; 1_000])])?;
    let cost = measured(bed, &mut store, |store| store.put(&bundle))?;
    line("put, 16 kB", cost, hardware);
    let cost = measured(bed, &mut store, |store| store.get(&bundle.path))?;
    line("get, 16 kB", cost, hardware);
    let cost = measured(bed, &mut store, |store| store.delete(&bundle.path, Expect::Any))?;
    line("delete, 16 kB", cost, hardware);
    rest(&mut store)?;
    println!("  ({} objects of all kinds for {load} records of 150 bytes)", counts.total());
    Ok(())
}

/// A simulated day of polling an open store in which nothing happens.
fn idle(bed: &Bed, hardware: bool) -> Result<()> {
    let mut store = bed.store()?;
    let before = bed.cost()?;
    // On SoftHSM a poll is a listing: an hour of them tells the same.
    let polls = if hardware { POLLS_OF_A_DAY } else { POLLS_OF_A_DAY / 24 };
    for _ in 0..polls {
        store.refresh()?;
    }
    let cost = bed.cost()?.since(before);
    line(&format!("{polls} polls of an open token"), cost, hardware);
    println!("  (of these: {} logins, {} value reads, {} writes)", cost.logins, cost.reads, cost.writes);
    if cost.logins + cost.reads + cost.writes > 0 {
        bail!("polling wears the token");
    }
    Ok(())
}

/// The same record of three keys as four objects: find what is there by its label, make the new, destroy the old.
fn one_object_a_key(bed: &Bed, hardware: bool) -> Result<()> {
    let mut token = bed.token()?;
    let labels =
        ["username", "password", "url", "_metadata"].map(|key| format!("secrets/bench/subject/{key}"));
    let mut there = 0;
    for load in [0, 66] {
        for number in there..load {
            token.create(&format!("secrets/bench/other-{number}"), Visibility::Private, &[b'x'; 150])?;
        }
        there = load;
        for round in [b'a', b'b'] {
            // As a process does that has just started.
            token.reopen()?;
            token.login(&pin())?;
            let before = bed.cost()?;
            let listing = token.list()?;
            let old: Vec<_> = listing.data.iter().filter(|object| labels.contains(&object.label)).collect();
            for label in &labels {
                token.create(label, Visibility::Private, &[round; 40])?;
            }
            for object in old {
                token.destroy(object.handle)?;
            }
            if round == b'b' {
                let cost = bed.cost()?.since(before);
                line(&format!("replace, 3 keys, beside {load} objects"), cost, hardware);
            }
        }
    }
    Ok(())
}
