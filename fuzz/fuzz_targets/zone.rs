//! `kmm_fuzz::zone` under the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kmm_fuzz::zone::run(bytes));
