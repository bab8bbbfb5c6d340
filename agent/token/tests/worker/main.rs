//! The worker process over a real SoftHSM. The children are this very executable, run again for one ignored test.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{ErrorClass, ObjectHandle, Pin, Token, TokenError, Visibility};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod memory;
mod messages;
mod pins;
mod port;
mod processes;
mod races;
mod selecting;

const LABEL: &str = "test";
const PIN: &str = "canary-pin-4711";
const VALUE: &[u8] = b"canary-value-0815";

fn pin(text: &str) -> Pin {
    Pin::exactly(text.to_owned())
}

/// This executable as the worker's program.
fn again(test: &str) -> WorkerProgram {
    WorkerProgram {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"].map(Into::into).to_vec(),
        env: vec![("HSM_TOKEN_TEST_CHILD".into(), "1".into())],
    }
}

/// Everything to standard error, where a test asks for it.
fn log() {
    if std::env::var_os("HSM_TOKEN_TEST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_writer(std::io::stderr)
            .init();
    }
}

fn is_child() -> bool {
    std::env::var_os("HSM_TOKEN_TEST_CHILD").is_some()
}

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if is_child() {
        log();
        let _ = hsm_token::worker::run_child();
        std::process::exit(0);
    }
}

fn softhsm() -> SoftHsm {
    SoftHsm::with_token(again("child"), LABEL, &pin(PIN)).unwrap()
}

fn config(softhsm: &SoftHsm) -> WorkerConfig {
    softhsm.config(TokenSelector::Label(LABEL.to_owned()))
}

/// A configuration that is quick to find a hang.
fn hasty(softhsm: &SoftHsm) -> WorkerConfig {
    let mut config = config(softhsm);
    config.deadlines.read = Duration::from_secs(2);
    config.deadlines.grace = Duration::from_secs(2);
    config
}

fn logged_in(softhsm: &SoftHsm) -> WorkerToken {
    let mut token = WorkerToken::open(config(softhsm)).unwrap();
    token.login(&pin(PIN)).unwrap();
    token
}

fn class<T>(result: Result<T, TokenError>) -> Option<ErrorClass> {
    result.err().map(|e| e.class)
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.try_into().unwrap()), signal).unwrap();
}

/// Stops the process, and waits until it has stopped.
fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    soon("it stops", || state(pid) == Some('T'));
}

/// Its state in proc(5).
fn state(pid: u32) -> Option<char> {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.chars().next()
}

/// Whether the process is there, and not just waiting to be reaped by somebody.
fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(20));
    }
}
