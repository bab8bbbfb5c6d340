//! SCENARIO 28: the PIN and what records hold are in no argument, environment, log line, call log, file or core of the
//! worker or of its parent, and another process of the same user cannot look into the worker's memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use faulty_pkcs11::{Action, Fault, When};
use hsm_store::{Expect, Store};
use hsm_token::worker::WorkerToken;
use hsm_token::{Pin, Token as _};

use crate::bed::*;
use crate::narrow::Narrow;

const WRONG: &str = "canary-wrong-1";
const NEXT: &str = "canary-next-22";
const VALUE: &str = "canary-value-0815";
const KEY: &str = "canary-key";
const NAME: &str = "secrets/canary-team/canary-name";

/// What may be nowhere; names may not be where payloads may not.
const CANARIES: [&str; 6] = [PIN, WRONG, NEXT, VALUE, KEY, "canary-team"];

/// All that a worker says, to a file.
pub(crate) fn log_to(path: &Path) {
    let file = fs::File::options().create(true).append(true).open(path).unwrap();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .init();
}

fn shows(bytes: &[u8], canary: &str) -> bool {
    bytes.windows(canary.len()).any(|window| window == canary.as_bytes())
}

fn check(what: &str, bytes: &[u8]) {
    for canary in CANARIES {
        assert!(!shows(bytes, canary), "{canary} is in {what}");
    }
}

/// Arguments and environment of a process, as anybody with its user sees them.
fn check_process(pid: u32) {
    for file in ["cmdline", "environ"] {
        // Closed to us is good, too.
        if let Ok(bytes) = fs::read(format!("/proc/{pid}/{file}")) {
            assert!(!bytes.is_empty());
            check(&format!("/proc/{pid}/{file}"), &bytes);
        }
    }
}

fn files(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, all) } else { all.push(path) }
    }
}

fn config(world: &World, log: &Path) -> Narrow {
    let mut config = world.config();
    config.worker = config.worker.with_env("HSM_PROOF_LOG", log);
    Narrow::new(WorkerToken::new(config).unwrap(), None)
}

#[test]
fn nothing_secret_is_said_or_left() {
    let world = World::formatted();
    let log = world.dir.path().join("worker.log");
    let mut token = config(&world, &log);
    // Wrong and right values, a change, errors of every kind that a value could be quoted in.
    let refused = token.login(&Pin::exactly(WRONG.to_owned())).unwrap_err();
    check("an error", format!("{refused} {refused:?}").as_bytes());
    token.login(&pin()).unwrap();
    check_process(token.worker.pid().unwrap());
    check_process(std::process::id());
    let mut opened = store(Store::open(token, world.options()));
    let value = VALUE.repeat(200);
    for text in [VALUE, &value] {
        opened.put(&put(NAME, &[(KEY, text.as_bytes())])).unwrap();
        world.settle(&mut opened);
    }
    values(&mut opened, &path(NAME)).unwrap().unwrap();
    for (number, (action, when)) in (0_u8..).zip([
        (Action::Fail("CKR_GENERAL_ERROR".to_owned()), When::Before),
        (Action::Fail("CKR_ARGUMENTS_BAD".to_owned()), When::After),
        (Action::Crash, When::Between),
    ]) {
        world.machine.script(Fault::at("C_CreateObject", 1, when, action)).unwrap();
        let value = format!("{VALUE}-{number}");
        let error = opened.put(&put(NAME, &[(KEY, value.as_bytes())])).unwrap_err();
        check("an error", format!("{error} {error:?}").as_bytes());
        world.machine.clear_script().unwrap();
        let mut token = opened.into_token();
        token.worker.reopen().unwrap();
        token.login(&pin()).unwrap();
        opened = store(Store::open(token, world.options()));
    }
    check("the index", format!("{:?}", opened.index().damaged()).as_bytes());
    let _ = opened.delete(&path(NAME), Expect::Any);
    let mut token = opened.into_token();
    token.worker.change_pin(&pin(), &Pin::exactly(NEXT.to_owned())).unwrap();
    drop(token);

    let said = fs::read(&log).unwrap();
    assert!(shows(&said, "The command is done.") && shows(&said, "The command failed."), "it was logged");
    let calls = world.machine.log().unwrap();
    assert!(calls.iter().any(|call| call.function == "C_Login") && calls.len() > 100);
    let mut all = Vec::new();
    files(world.dir.path(), &mut all);
    assert!(all.contains(&log) && all.iter().any(|file| file.ends_with("failed-pins")));
    for file in &all {
        let name = file.file_name().unwrap();
        // The card itself knows its PIN. What is in its flash is the subject of `remains`.
        if name != "head" {
            check(&file.display().to_string(), &fs::read(file).unwrap());
        }
        assert!(!name.to_string_lossy().starts_with("core"), "{}", file.display());
    }
}

/// A program that is run without any capability, so that only its user counts; `None` where that cannot be had.
fn without_rights() -> Option<Vec<String>> {
    if !nix::unistd::geteuid().is_root() {
        return Some(Vec::new());
    }
    let prefix = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"].map(str::to_owned).to_vec();
    let works = Command::new(&prefix[0]).args(&prefix[1..]).arg("true").status();
    works.is_ok_and(|status| status.success()).then_some(prefix)
}

fn run(prefix: &[String], program: &[&str]) -> Command {
    let words: Vec<&str> = prefix.iter().map(String::as_str).chain(program.iter().copied()).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// Whether a process of the same user, without other rights, can open this process's memory.
fn readable(prefix: &[String], pid: u32) -> bool {
    let memory = format!("/proc/{pid}/maps");
    run(prefix, &["head", "-c1", &memory]).output().unwrap().status.success()
}

struct Sleeper(Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// PR_SET_DUMPABLE and RLIMIT_CORE, seen from outside.
#[test]
fn nobody_looks_into_the_workers_memory_and_no_core_is_written() {
    let Some(prefix) = without_rights() else {
        eprintln!("not shown: root without setpriv(1) may read every process's memory");
        return;
    };
    // What may be looked into is looked into, so that the look says something.
    let sleeper = Sleeper(run(&prefix, &["sleep", "600"]).spawn().unwrap());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !readable(&prefix, sleeper.0.id()) {
        assert!(std::time::Instant::now() < end, "another program's memory cannot be read either");
    }

    let world = World::formatted();
    let mut config = world.config();
    if let Some(setpriv) = prefix.first() {
        let ours = config.worker.program.clone().into_os_string();
        let rest = prefix[1..].iter().map(Into::into).chain([ours]);
        config.worker.args = rest.chain(config.worker.args).collect();
        config.worker.program = setpriv.into();
    }
    let mut worker = WorkerToken::open(config).unwrap();
    worker.login(&pin()).unwrap();
    let pid = worker.pid().unwrap();
    assert!(!readable(&prefix, pid), "its memory can be read");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"));
    if let Ok(limits) = limits {
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}
