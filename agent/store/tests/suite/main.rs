//! The store over the token in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod common;
mod faults;
mod limits;
mod origins;
mod records;
mod strangers;
mod tombstones;
