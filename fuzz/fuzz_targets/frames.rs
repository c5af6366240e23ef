#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tinygate_testing::fuzz::frames(data));
