#![no_main]
//! Any bytes as the body of a sealed object, a page.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hsm_store::fuzzing::body(bytes));
