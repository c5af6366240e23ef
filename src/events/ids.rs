//! Names and counts of a run, each a type of its own.
//!
//! A sequence number, an update, a chunk's number and an attempt are all small
//! integers that are easily swapped. None of them adds: each has a `next` that
//! answers `None` at the end of its range.

use alloc::string::String;

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! count {
    ($(#[$doc:meta])* $name:ident($inner:ty), first = $first:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// The first of its kind.
            pub const FIRST: $name = $name($first);

            pub const fn new(value: $inner) -> $name {
                $name(value)
            }

            pub const fn get(self) -> $inner {
                self.0
            }

            /// The next one, or `None` when the range is used up.
            pub const fn next(self) -> Option<$name> {
                match self.0.checked_add(1) {
                    Some(value) => Some($name(value)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

count!(
    /// Place of an event in its log, counted from 0 without gaps.
    Seq(u64), first = 0
);
count!(
    /// Updates done in a stage: the optimizer steps behind the present weights.
    Step(u64), first = 0
);
count!(
    /// Number of a chunk in its stage, counted from 1; it never repeats.
    ChunkNumber(u32), first = 1
);
count!(
    /// How often a chunk was begun over the same range, counted from 1. A crash
    /// and resume goes on with the same attempt; a failed chunk gets the next.
    Attempt(u32), first = 1
);
count!(
    /// How often a stage was restarted; part of the randomness.
    Restart(u32), first = 0
);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(name: impl Into<String>) -> $name {
                $name(name.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

name!(
    /// Name of a stage, such as `video_tokenizer`: lower case, digits and `_`.
    StageName
);
name!(
    /// What a stage trains, in its trainer's own words, such as `dynamics`. Nothing is decided by it.
    ModelName
);
name!(
    /// Name of a knob, such as `n_actions`: lower case, digits and `_`, and no name of another setting.
    KnobName
);
