#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| observer_core_fuzz::binaries(bytes));
