//! Newtypes for the names and counts of a run.
//!
//! Sequence numbers, updates, chunk numbers and attempts are all small integers that are
//! easily confused. They have no arithmetic, only `next`, which returns `None` at the end
//! of the range.

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
            /// The first number.
            pub const FIRST: $name = $name($first);

            pub const fn new(value: $inner) -> $name {
                $name(value)
            }

            pub const fn get(self) -> $inner {
                self.0
            }

            /// The next number, or `None` at the end of the range.
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
    /// Position of an event in its log, counted from 0 without gaps.
    Seq(u64), first = 0
);
count!(
    /// Updates done in a stage: the optimizer steps that led to the current weights.
    Step(u64), first = 0
);
count!(
    /// Number of a chunk in its stage, counted from 1; it never repeats.
    ChunkNumber(u32), first = 1
);
count!(
    /// Number of an attempt at a chunk, counted from 1. Resuming after a crash continues
    /// the same attempt; after a failure the chunk gets the next one.
    Attempt(u32), first = 1
);
count!(
    /// How many times a stage was restarted; part of the key of all randomness.
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
    /// Name of a stage, such as `video_tokenizer`: lower-case letters, digits and `_`.
    StageName
);
name!(
    /// What a stage trains, as its trainer calls it, such as `dynamics`. No decision depends on it.
    ModelName
);
name!(
    /// Name of a knob, such as `n_actions`: lower-case letters, digits and `_`, and not the name of another setting.
    KnobName
);
