//! The worker over the faulty module, which behaves as a Pico HSM does where SoftHSM does not.
//!
//! What a test needs: [`faulty_pkcs11::Machine`] makes the readers and cards, `module_path` finds the shared object,
//! `Machine::env` leads a worker to them.

#![expect(clippy::unwrap_used, reason = "clippy allows it in test functions, not in what they share")]

use faulty_pkcs11::{Action, CardOptions, Fault, Machine, ObjectKind, When, module_path};
use hsm_token::pkcs11::{Pkcs11Config, TokenSelector};
use hsm_token::worker::{WorkerConfig, WorkerProgram, WorkerToken};
use hsm_token::{ErrorClass, Limits, Pin, Token, TokenError, Visibility};

const READER: &str = "Pico HSM 00";
const PIN: &str = "648219";

fn pin() -> Pin {
    Pin::exactly(PIN.to_owned())
}

fn machine() -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new(dir.path().join("machine")).unwrap();
    machine.add_card(READER, &CardOptions::with_pin(PIN)).unwrap();
    (dir, machine)
}

/// The workers are this executable, run again for its one ignored test.
fn config(machine: &Machine) -> WorkerConfig {
    let mut worker = WorkerProgram::current_exe().unwrap();
    worker.args =
        ["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"].map(Into::into).to_vec();
    worker = worker.with_env("HSM_TOKEN_TEST_CHILD", "1");
    for (name, value) in machine.env() {
        worker = worker.with_env(name, value);
    }
    let token = Pkcs11Config { module: module_path().unwrap(), token: TokenSelector::Only };
    WorkerConfig { worker, ..WorkerConfig::new(token).unwrap() }
}

fn logged_in(machine: &Machine) -> WorkerToken {
    let mut token = WorkerToken::open(config(machine)).unwrap();
    token.login(&pin()).unwrap();
    token
}

fn class<T>(result: Result<T, TokenError>) -> Option<ErrorClass> {
    result.err().map(|e| e.class)
}

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if std::env::var_os("HSM_TOKEN_TEST_CHILD").is_some() {
        let _ = hsm_token::worker::run_child();
        std::process::exit(0);
    }
}

#[test]
fn all_of_the_port_works_on_it_as_on_hardware() {
    let (_dir, machine) = machine();
    let mut token = WorkerToken::open(config(&machine)).unwrap();
    let info = token.info().unwrap();
    assert_eq!((info.serial.as_str(), info.software), ("ESPICOHSMTR", false));
    assert_eq!((info.firmware.as_str(), info.slot_description.as_str()), ("6.6", READER));
    assert_eq!(token.limits(), Limits::SC_HSM);
    assert!(info.pin.initialized && !info.pin.count_low);
    assert_eq!(class(token.create("a", Visibility::Public, b"x")), Some(ErrorClass::PinRequired));

    token.login(&pin()).unwrap();
    let private = token.create("p", Visibility::Private, b"one").unwrap();
    let public = token.create("q", Visibility::Public, &[7; 2000]).unwrap();
    let listing = token.list().unwrap();
    let mut seen: Vec<_> = listing.data.iter().map(|o| (o.label.as_str(), o.visibility)).collect();
    seen.sort_unstable_by_key(|object| object.0);
    assert_eq!(seen, [("p", Visibility::Private), ("q", Visibility::Public)]);
    assert_eq!((*token.read(private).unwrap()).as_slice(), b"one");
    assert_eq!(*token.read(public).unwrap(), [7; 2000]);
    token.destroy(private).unwrap();
    assert_eq!(token.random(32).unwrap().len(), 32);
    token.still_there().unwrap();

    let a = token.generate_key_pair("a").unwrap();
    let b = token.generate_key_pair("b").unwrap();
    assert_eq!(token.find_key_pair("a").unwrap(), Some(a.clone()));
    let shared = token.derive("a", &b).unwrap();
    assert_eq!((shared.len(), &shared), (32, &token.derive("b", &a).unwrap()));
    assert_eq!(token.list().unwrap().others, 4, "each pair is two objects");
    token.destroy_key_pair("a").unwrap();
    assert_eq!(token.find_key_pair("a").unwrap(), None);

    // Another epoch finds what is left, and the card says the same.
    token.reopen().unwrap();
    token.login(&pin()).unwrap();
    assert_eq!(token.list().unwrap().data.len(), 1);
    assert_eq!(token.find_key_pair("b").unwrap(), Some(b));
    let kinds: Vec<_> = machine.objects(READER).unwrap().into_iter().map(|o| (o.label, o.kind)).collect();
    assert_eq!(kinds, [("q".into(), ObjectKind::Data), ("b".into(), ObjectKind::KeyPair)]);
    assert_eq!(machine.remains(READER).unwrap(), [("p".to_owned(), b"one".to_vec())]);
    assert_eq!(machine.counters(READER).unwrap().logins, 2);
}

#[test]
fn a_crash_inside_destroy_leaves_a_ghost_and_ends_the_epoch() {
    let (_dir, machine) = machine();
    let mut token = logged_in(&machine);
    let doomed = token.create("doomed", Visibility::Private, b"x").unwrap();
    token.create("other", Visibility::Private, b"y").unwrap();
    machine.script(Fault::at("C_DestroyObject", 1, When::Between, Action::Crash)).unwrap();
    assert!(token.destroy(doomed).unwrap_err().ends_epoch());
    assert_eq!(machine.struck().unwrap(), 1);
    token.reopen().unwrap();
    token.login(&pin()).unwrap();
    let listing = token.list().unwrap();
    let handle = |label| listing.data.iter().find(|o| o.label == label).unwrap().handle;
    assert_eq!(class(token.read(handle("doomed"))), Some(ErrorClass::ObjectDamaged));
    assert_eq!((*token.read(handle("other")).unwrap()).as_slice(), b"y", "the session lives");
}

#[test]
fn another_process_ends_the_login() {
    let (_dir, machine) = machine();
    let mut token = logged_in(&machine);
    token.create("mine", Visibility::Private, b"x").unwrap();
    let other = WorkerToken::open(config(&machine)).unwrap();
    assert_eq!(class(token.create("late", Visibility::Private, b"y")), Some(ErrorClass::SessionLost));
    drop(other);
    assert_eq!(machine.objects(READER).unwrap().len(), 1);
}
