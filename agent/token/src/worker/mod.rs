//! The token worker: one child process for each token, because a PKCS#11 module is C code that can block for ever,
//! crash, and forget what it saw only by starting anew.
//!
//! The parent's side is [`WorkerToken`]; the child's is [`run_child`], which `hsm-agent token-worker` calls. They
//! speak over a socket pair whose one end is the child's standard input: PINs and values never touch the command line,
//! the environment or a file.

mod card;
mod child;
mod config;
mod convert;
mod frame;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod hardening;
mod keeper;
mod messages;
mod one_shot;
mod opensc_conf;
mod process;
mod token;

pub use child::{run_child, serve};
pub use config::{Deadlines, WorkerConfig, WorkerProgram};
pub use hardening::protect_memory;
pub use one_shot::{card_status, ghosts, init_sc_hsm, init_software_token, readers, repair_ghosts, survey};
pub use opensc_conf::OpenscSettings;
pub use token::WorkerToken;

/// The most random bytes that one call gives.
pub const RANDOM_MAX: usize = 1 << 20;
