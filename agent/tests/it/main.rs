//! The built program on SoftHSM: command line, mTLS, trouble and recovery.

// The lints know test functions, not the functions that those call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod canary;
mod cards;
mod cli;
mod hangs;
mod hardware;
mod node;
mod packing;
mod pki;
mod serve;
mod several;
mod trouble;
mod wild;
