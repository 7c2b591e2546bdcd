//! See `nettriage_fuzz::pickle`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    nettriage_fuzz::measure::run(nettriage_fuzz::pickle, bytes);
});
