//! The store's promises through the real worker process, on a card that has the faults and limits of a Pico HSM (the
//! faulty module) and, where it applies, on SoftHSM.
//!
//! The children are this very executable, run again for one ignored test, so that nothing has to be built first.
//!
//! Which SCENARIO is shown where: 2 in `capacity`, 3 in `faults`, `provision` and `software`, 6 in `strangers`, 7 in `remains`, 8 in
//! `wear`, 26 and 34 in `recovery`, 28 in `secrets`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "clippy allows it in test functions, not in what they share; the figures are for whoever runs them"
)]

mod bed;
mod capacity;
mod faults;
mod narrow;
mod operations;
mod provision;
mod recovery;
mod remains;
mod secrets;
mod software;
mod strangers;
mod wear;

/// The variable that makes the test `child` a worker process.
const CHILD: &str = "HSM_PROOF_CHILD";

#[test]
#[ignore = "the worker process of the other tests"]
fn child() {
    if std::env::var_os(CHILD).is_some() {
        // Standard error is the parent's: a test of what is logged sends it to a file.
        if let Some(path) = std::env::var_os("HSM_PROOF_LOG") {
            secrets::log_to(path.as_ref());
        }
        let _ = hsm_token::worker::run_child();
        std::process::exit(0);
    }
}
