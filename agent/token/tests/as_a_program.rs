//! The worker as the agent runs it: the same executable with the argument `token-worker`, on its first thread.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test with a main of its own")]

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use hsm_token::pkcs11::TokenSelector;
use hsm_token::testing::SoftHsm;
use hsm_token::worker::{WorkerProgram, WorkerToken, run_child};
use hsm_token::{Pin, Token as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("token-worker") {
        return run_child();
    }
    signals_do_not_end_it();
    no_core_is_written();
    println!("test result: ok. 2 passed");
    ExitCode::SUCCESS
}

fn open() -> (SoftHsm, WorkerToken, Pid) {
    let pin = Pin::exactly("1234".to_owned());
    let softhsm = SoftHsm::with_token(WorkerProgram::current_exe().unwrap(), "test", &pin).unwrap();
    let token = WorkerToken::open(softhsm.config(TokenSelector::Only)).unwrap();
    let pid = Pid::from_raw(token.pid().unwrap().try_into().unwrap());
    (softhsm, token, pid)
}

/// Ctrl-C, a closed terminal, a service manager that signals the whole group: a write under way is finished.
fn signals_do_not_end_it() {
    let (_softhsm, mut token, pid) = open();
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGTERM] {
        kill(pid, signal).unwrap();
    }
    sleep(Duration::from_millis(300));
    token.info().unwrap();
    assert_eq!((token.epoch(), token.restarts()), (1, 0));
    drop(token);
    assert!(kill(pid, None).is_err(), "it is gone with its handle");
}

fn no_core_is_written() {
    let (_softhsm, _token, pid) = open();
    // Not dumpable: its files in /proc belong to root, so that only root can look.
    let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) else {
        return;
    };
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}
