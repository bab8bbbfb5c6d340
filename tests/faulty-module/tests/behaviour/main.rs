//! Each behaviour that is modelled, through cryptoki against the built module, in processes of its own. A test is
//! named by what it shows; its comment names the row of the README's table.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]
#![expect(clippy::expect_used, reason = "tests, and what they share")]

use faulty_pkcs11::{CardOptions, Machine, Settings};

mod faults;
mod limits;
mod pins;
mod power;
mod readers;
mod remote;
mod views;

use remote::Remote;

const READER: &str = "Pico HSM 00";
const PIN: &str = "648219";

#[test]
#[ignore = "the other process of the tests"]
fn remote_process() {
    if std::env::var_os("FAULTY_TEST_REMOTE").is_some() {
        remote::serve();
    }
}

/// A machine with one card; the folder goes with the first of the two.
fn machine() -> (tempfile::TempDir, Machine) {
    machine_with(|_| {})
}

fn machine_with(change: impl FnOnce(&mut Settings)) -> (tempfile::TempDir, Machine) {
    let dir = tempfile::tempdir().unwrap();
    let machine = Machine::new(dir.path().join("machine")).unwrap();
    machine.set(change).unwrap();
    machine.add_card(READER, &CardOptions::with_pin(PIN)).unwrap();
    (dir, machine)
}

/// The handle of the only object with this label.
fn handle(remote: &mut Remote, label: &str) -> String {
    let found = remote.ok(&format!("find {label}"));
    assert!(!found.is_empty() && !found.contains(','), "{label}: {found:?}");
    found
}
