//! What is done with anybody's bytes: one function per reader of the program.
//!
//! A target gives the bytes to the reader, and what the reader makes of them to
//! whatever works with it in the program. It panics when a promise is broken: a
//! panic inside, an answer that does not survive being written and read again.
//! `fuzz/` hands them to libFuzzer, `tests/fuzz.rs` to a driver of its own.

mod disk;
mod events;
mod files;
mod journal;

pub use events::{frames, json, stored};
pub use files::{config, datasets, pickle};
pub use journal::journal;

/// A reader and its name, which is also that of its folder in `fuzz/corpus`.
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
