//! `kmm_fuzz::slub` under the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kmm_fuzz::slub::run(bytes));
