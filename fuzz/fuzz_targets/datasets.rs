#![no_main]

use libfuzzer_sys::fuzz_target;

// A parser of somebody else may panic where our reader catches it, and that is no
// finding: libFuzzer's hook would end the process before. What is not caught still
// ends it.
fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| tinygate_testing::fuzz::datasets(data)
);
