//! What a record costs: `cargo run --release -p hsm-agent --example store_cost [RECORDS]…`
//!
//! Puts, gets and refreshes through a store, a worker process and SoftHSM, on a token that holds so many records.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hsm_store::{Expect, Options, PutOrigin, PutRequest, Store};
use hsm_token::pkcs11::TokenSelector;
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerProgram, WorkerToken, run_child};
use hsm_token::{Pin, Token as _};
use hsm_types::{Content, Key, Metadata, Presence, RecordPath, Value};

const SAMPLES: u32 = 20;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "token-worker") {
        return run_child();
    }
    let counts: Result<Vec<usize>, _> = args.iter().map(|arg| arg.parse()).collect();
    let counts = match counts {
        Ok(counts) if counts.is_empty() => vec![10, 100, 300, 1000],
        Ok(counts) => counts,
        Err(error) => {
            tell(&format!("numbers of records are wanted: {error}"));
            return ExitCode::from(2);
        }
    };
    match measure(&counts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "it is what this program is for")]
fn tell(line: &str) {
    println!("{line}");
}

fn measure(counts: &[usize]) -> Result<(), Box<dyn Error>> {
    let pin = Pin::exactly("a-pin-for-measuring".to_owned());
    let softhsm = SoftHsm::with_token(WorkerProgram::current_exe()?, "cost", &pin)?;
    let config = softhsm.config(TokenSelector::Only);
    let lock = softhsm.dir().join("lock");
    let mut token = WorkerToken::open(config)?;
    token.login(&pin)?;
    Store::format(&mut token, None, &mut Options::new(&lock))?;
    let mut store = Store::open(token, Options::new(&lock)).map_err(|(_, error)| error)?;
    tell("records      open       put   replace       get   refresh (milliseconds)");
    let mut there = 0;
    for count in counts {
        let begun = Instant::now();
        for number in there..*count {
            store.put(&request(number, "first")?)?;
        }
        let put = begun.elapsed() / u32::try_from(count.saturating_sub(there).max(1))?;
        there = there.max(*count);
        let spread = |sample: u32| usize::try_from(sample).map(|s| s * 7919 % there);
        let replace = each(|sample| {
            let outcome = store.put(&request(spread(sample)?, &format!("{count}"))?)?;
            outcome.written.then_some(()).ok_or_else(|| "nothing was written".into())
        })?;
        let get = each(|sample| {
            let found = store.get(&path(spread(sample)?)?)?;
            matches!(found, Presence::Present(_)).then_some(()).ok_or_else(|| "a record is not there".into())
        })?;
        let refresh = each(|_| {
            let changed = store.refresh()?;
            changed.is_empty().then_some(()).ok_or_else(|| "something has changed".into())
        })?;
        let mut token = store.into_token();
        token.reopen()?;
        token.login(&pin)?;
        let begun = Instant::now();
        store = Store::open(token, Options::new(&lock)).map_err(|(_, error)| error)?;
        let open = begun.elapsed();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        tell(&format!(
            "{there:7} {:9.2} {:9.2} {:9.2} {:9.2} {:9.2}",
            ms(open),
            ms(put),
            ms(replace),
            ms(get),
            ms(refresh)
        ));
    }
    Ok(())
}

fn each(mut work: impl FnMut(u32) -> Result<(), Box<dyn Error>>) -> Result<Duration, Box<dyn Error>> {
    let begun = Instant::now();
    (0..SAMPLES).try_for_each(&mut work)?;
    Ok(begun.elapsed() / SAMPLES)
}

fn path(number: usize) -> Result<RecordPath, Box<dyn Error>> {
    Ok(RecordPath::new(format!("secrets/ns/record-{number:05}"))?)
}

fn request(number: usize, text: &str) -> Result<PutRequest, Box<dyn Error>> {
    let pairs = [("username", format!("user-{number}")), ("password", format!("{text}-{number}"))];
    let mut data = Vec::new();
    for (key, value) in pairs {
        data.push((Key::new(key)?, Value::new(value.into_bytes())));
    }
    Ok(PutRequest {
        path: path(number)?,
        expect: Expect::Any,
        content: Content { data: data.into_iter().collect(), metadata: Metadata::default() },
        origin: PutOrigin::Token,
        parents: Vec::new(),
        begin_epoch: false,
        keep_history: 0,
    })
}
