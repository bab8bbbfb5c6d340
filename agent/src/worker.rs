//! `hsm-agent token-worker`: the child's process.

use std::process::ExitCode;

use crate::config::LogFormat;

/// Runs the child. Its other settings come from the parent's environment: nothing secret is in it.
pub fn worker_main(format: LogFormat) -> ExitCode {
    let level = std::env::var("HSM_WORKER_LOG").unwrap_or_else(|_| "warn".to_owned());
    // Without logs it still serves.
    drop(crate::log::start(format, &level));
    hsm_token::worker::run_child()
}
