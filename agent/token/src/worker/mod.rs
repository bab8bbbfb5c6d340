//! The token worker: one child process for each token, because a PKCS#11 module is C code that can block for ever,
//! crash, and forget what it saw only by starting anew.
//!
//! The parent's side is [`WorkerToken`]; the child's is [`run_child`], which `hsm-agent token-worker` calls. They
//! speak over a socket pair whose one end is the child's standard input: PINs and values never touch the command line,
//! the environment or a file.

mod child;
mod config;
mod convert;
mod frame;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod hardening;
mod init;
mod keeper;
mod messages;
mod process;
mod token;

pub use child::{run_child, serve};
pub use config::{Deadlines, WorkerConfig, WorkerProgram};
pub use init::init_software_token;
pub use token::WorkerToken;

/// The most random bytes that one call gives.
pub const RANDOM_MAX: usize = 1 << 20;
