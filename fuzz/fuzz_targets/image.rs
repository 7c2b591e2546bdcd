//! See `nettriage_fuzz::image`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    nettriage_fuzz::measure::run(nettriage_fuzz::image, bytes);
});
