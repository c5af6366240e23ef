#![no_main]

use libfuzzer_sys::fuzz_target;

// Our reader catches panics of third-party parsers, which are not findings, but libFuzzer's
// hook would abort first. Panics that are not caught still end the process.
fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| tinygate_testing::fuzz::datasets(data)
);
