#![no_main]
//! Any bytes as what parent and token worker say to each other.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hsm_token::worker::fuzzing::frames(bytes));
