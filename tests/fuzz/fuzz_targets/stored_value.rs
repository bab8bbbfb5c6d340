#![no_main]
//! Any bytes as the value of an object of ours.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hsm_store::fuzzing::value(bytes));
