//! The built program on SoftHSM: command line, mTLS, trouble and recovery.

// The lints know test functions, not the functions that those call.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod canary;
mod cards;
mod cli;
mod cli_cards;
mod cli_compact;
mod cli_export;
mod cli_history;
mod cli_killed;
mod cli_migrate;
mod cli_pin;
mod hangs;
mod hardware;
mod kill;
mod node;
mod packing;
mod pki;
mod serve;
mod several;
mod trouble;
mod wild;
