//! How many edits a Pico HSM of firmware 6.6 takes before its flash is full: the table in the store's packing module.
//!
//! `cargo run --release -p hsm-store --example wear`. It runs the store over the token in memory with the limits of
//! that firmware and its leak (TOKEN.md, section 1): destroying an object of 900 bytes or more loses
//! 0.593 · (size + 357) bytes, against 1 MiB of data area.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program for people, whose input is fixed"
)]

use std::io::Write;
use std::time::Duration;

use hsm_store::testing::{MemoryToken, World};
use hsm_store::{Clock, Expect, PutOrigin, PutRequest, Store};
use hsm_token::Limits;
use hsm_types::{Content, Key, Metadata, RecordPath, Value};

/// The data area of a 2 MiB board, in bytes.
const FLASH: f64 = 1_048_576.0;
/// Objects from this size on leak when they are destroyed.
const LEAKY: usize = 900;
/// Enough edits to say that nothing leaks, or how much does.
const EDITS: usize = 4_000;

/// One row: how many records there are, and how many of them are edited, at random.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Records on the token.
    pub records: usize,
    /// Of those, the ones that are edited.
    pub edited: usize,
    /// The size of each value, in bytes.
    pub value: usize,
}

/// What came of a load.
#[derive(Debug, Clone, Copy)]
pub struct Wear {
    /// Objects at rest at the end, of 116.
    pub objects: usize,
    /// Edits made.
    pub edits: usize,
    /// Objects that were destroyed.
    pub destroyed: usize,
    /// Objects that were destroyed and leaked.
    pub leaky: usize,
    /// Bytes of flash that leaked.
    pub leaked: f64,
}

impl Wear {
    /// Edits until the flash is full, if it ever is.
    pub fn until_full(&self) -> Option<f64> {
        (self.leaked > 0.0)
            .then(|| FLASH / self.leaked * f64::from(u32::try_from(self.edits).unwrap_or(u32::MAX)))
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % limit
    }
}

fn put(number: usize, size: usize, dice: &mut Dice) -> PutRequest {
    let value: Vec<u8> = (0..size).map(|_| u8::try_from(dice.below(256)).unwrap_or(0)).collect();
    let data = [(Key::new("password").unwrap(), Value::new(value))].into_iter().collect();
    PutRequest {
        path: RecordPath::new(format!("secrets/namespace-x/secret-name-{number:03}")).unwrap(),
        expect: Expect::Any,
        content: Content { data, metadata: Metadata::default() },
        origin: PutOrigin::Secret,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    }
}

/// What the owner of a token does between two edits.
fn idle(world: &World, store: &mut Store<MemoryToken>) {
    loop {
        if let Some(due) = store.settle().unwrap() {
            world.clock().sleep(due);
        } else if !store.repack().unwrap() && store.pending() == 0 {
            return;
        }
    }
}

/// Runs one load on a blank token.
///
/// # Panics
/// When the store refuses what it must take: the loads are such that everything fits.
pub fn wear(load: Load) -> Wear {
    let world = World::new(Limits::SC_HSM);
    let lock = std::env::temp_dir().join(format!("hsm-store-wear-{}", std::process::id()));
    Store::format(&mut world.connect(), None, &mut world.options(&lock)).unwrap();
    let mut store = Store::open(world.connect(), world.options(&lock)).map_err(|(_, error)| error).unwrap();
    let mut dice = Dice(7);
    for number in 0..load.records {
        store.put(&put(number, load.value, &mut dice)).unwrap();
        world.clock().sleep(Duration::from_secs(30));
        idle(&world, &mut store);
    }
    world.take_destroyed();
    let mut wear = Wear { objects: 0, edits: 0, destroyed: 0, leaky: 0, leaked: 0.0 };
    while wear.edits < EDITS && wear.leaked < FLASH {
        let number = dice.below(load.edited);
        store.put(&put(number, load.value, &mut dice)).unwrap();
        world.clock().sleep(Duration::from_secs(30));
        idle(&world, &mut store);
        wear.edits += 1;
        world.take_calls();
        for size in world.take_destroyed() {
            wear.destroyed += 1;
            if size >= LEAKY {
                wear.leaky += 1;
                wear.leaked += 0.593 * f64::from(u32::try_from(size + 357).unwrap_or(u32::MAX));
            }
        }
    }
    wear.objects = store.index().counts().total();
    drop(store);
    for file in [lock.clone(), lock.with_extension("gate")] {
        drop(std::fs::remove_file(file));
    }
    wear
}

/// Prints the table, as Markdown.
///
/// # Errors
/// When `out` cannot be written to.
pub fn table(out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(
        out,
        "| records | edited | objects at rest | pages destroyed per 100 edits | edits until 1 MiB has leaked |"
    )?;
    writeln!(out, "|---|---|---|---|---|")?;
    for (records, edited) in [(10, 10), (100, 100), (300, 300), (500, 500), (500, 50)] {
        let wear = wear(Load { records, edited, value: 150 });
        let pages = 100.0 * f64::from(u32::try_from(wear.leaky).unwrap_or(0))
            / f64::from(u32::try_from(wear.edits).unwrap_or(1));
        let until = wear.until_full().map_or_else(|| "no leak".to_owned(), |edits| format!("{edits:.0}"));
        writeln!(out, "| {records} | {edited} | {} | {pages:.1} | {until} |", wear.objects)?;
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    table(&mut std::io::stdout().lock())
}
