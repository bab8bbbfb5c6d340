//! The store over the token in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::ref_option, unreachable_pub)]

mod common;
mod faults;
mod faults_pages;
mod history;
mod limits;
mod model;
mod origins;
mod packing;
mod plain;
mod records;
mod seams;
mod strangers;
mod tombstones;
mod wild;
