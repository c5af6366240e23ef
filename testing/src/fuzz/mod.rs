//! Fuzz targets: one function per reader of untrusted bytes.
//!
//! A target passes the bytes to the reader, and the result to the code that uses it in the
//! program. It panics if that code panics, or if a result does not survive a round trip.
//! `fuzz/` runs the targets with libFuzzer, and `tests/fuzz.rs` with its own driver.

mod disk;
mod events;
mod files;
mod journal;

pub use events::{frames, json, stored};
pub use files::{config, datasets, pickle};
pub use journal::journal;

/// A target, and its name, which is also the name of its folder in `fuzz/corpus`.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: [Target; 7] = [
    target("journal", journal),
    target("frames", frames),
    target("stored", stored),
    target("json", json),
    target("pickle", pickle),
    target("datasets", datasets),
    target("config", config),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}
