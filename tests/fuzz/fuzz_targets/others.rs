#![no_main]
//! Any bytes as label and value of an object that somebody else made.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hsm_store::fuzzing::others(bytes));
