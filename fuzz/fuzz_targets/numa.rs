//! `kmm_fuzz::numa` under the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kmm_fuzz::numa::run(bytes));
