//! The controller: watches feed an index, a pure core decides, a shell executes.
//!
//! It owns the API server's side and the calls to the agents; it never touches a token itself, and never keeps a
//! value longer than one turn of one secret.

pub mod agents;
pub mod base;
pub mod config;
mod device_status;
pub mod digest;
mod digest_key;
mod dispatch;
mod http;
pub mod index;
pub mod key;
pub mod logs;
pub mod metrics;
pub mod queue;
mod random;
mod reconcile;
mod run;
mod watch;

pub use run::run;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, where the build says so.
pub const COMMIT: &str = match option_env!("HSM_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
