//! How many edits a card takes before what firmware 6.6 leaks has filled its flash. The store's clock leaps over the
//! time that the flash needs; the card is the faulty module's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use faulty_pkcs11::{CardOptions, Machine, module_path};
use hsm_store::{Clock, Options, Store, StoreError};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::worker::{WorkerConfig, WorkerToken};
use hsm_token::{ErrorClass, Token as _};

use super::token::{PIN, READER, other, pin, request, worker};

/// No card is edited more often than this.
const MOST: u32 = 20_000;
/// A card that has leaked nothing by then never will.
const ENOUGH: u32 = 6_000;

/// Time that passes only when somebody waits.
struct Leaping(Mutex<Instant>);

impl Clock for Leaping {
    fn now(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += time;
    }
}

/// Fills a card with `records` records, edits one at random again and again, and prints when it is full.
pub(super) fn until_full(records: usize) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let machine = Machine::new(dir.path().join("machine"))?;
    machine.set(|settings| settings.log = false)?;
    machine.add_card(READER, &CardOptions::with_pin(PIN))?;
    let clock = Arc::new(Leaping(Mutex::new(Instant::now())));
    let options = || Options { clock: clock.clone(), ..Options::new(dir.path().join("lock")) };
    let mut config = WorkerConfig::new(Pkcs11Config { module: module_path()?, token: TokenSelector::Only })?;
    config.worker = worker()?;
    config.worker.env = machine.env();
    let mut token = WorkerToken::open(config)?;
    token.login(&pin())?;
    Store::format(&mut token, None, &mut options())?;
    let mut store = Store::open(token, options()).map_err(|(_, error)| error)?;
    for number in 0..records {
        store.put(&other(number)?)?;
    }
    let mut dice = 4711u64;
    let (mut edits, mut full) = (0, false);
    while edits < MOST && !full {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (dice >> 33) % records as u64;
        let value = format!("{edits:0150}").into_bytes();
        let edit = request(&format!("secrets/bench/other-{number}"), &[("password", value)])?;
        full = is_full(store.put(&edit))? || is_full(rest(&mut store, &clock))?;
        edits += u32::from(!full);
        if edits == ENOUGH && machine.counters(READER)?.bytes_leaked == 0 {
            break;
        }
    }
    let counters = machine.counters(READER)?;
    let objects = store.index().counts().total();
    let outcome = match (full, counters.bytes_leaked) {
        (true, _) => format!("full after {edits} edits"),
        (false, 0) => format!("nothing leaked in {edits} edits"),
        (false, leaked) => format!("not full after {edits} edits, {leaked} bytes leaked"),
    };
    println!("  {records:>4} records, {objects} objects: {outcome} ({} flash erases)", counters.erases);
    Ok(())
}

/// What the owner of a token does by itself after a write.
fn rest(store: &mut Store<WorkerToken>, clock: &Leaping) -> Result<(), StoreError> {
    loop {
        while let Some(due) = store.settle()? {
            clock.sleep(due);
        }
        if !store.repack()? {
            return Ok(());
        }
    }
}

/// The module answers CKR_GENERAL_ERROR when the flash is full, as OpenSC does.
fn is_full<R>(outcome: Result<R, StoreError>) -> Result<bool> {
    match outcome {
        Ok(_) => Ok(false),
        Err(StoreError::TokenFull { .. }) => Ok(true),
        Err(StoreError::Token(error)) if matches!(error.class, ErrorClass::Full | ErrorClass::Module) => {
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}
