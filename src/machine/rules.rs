//! The versions of the rules that this build knows.
//!
//! Invariant: a released version in [`KNOWN`] never changes. Any change to decisions needs a
//! new version after the last.

use core::fmt;

use super::command::Decision;
use super::edition::Edition;
use super::run::{self, RunState};
use tinygate_events::Event;

/// One version of the rules.
#[derive(Clone, Copy)]
pub struct Rules {
    /// The version, as in the first event of a log.
    pub number: u32,
    /// Folds an event into the state.
    pub apply: fn(&mut RunState, &Event),
    /// Returns what to do next.
    pub decide: fn(&RunState) -> Decision,
}

/// Frozen.
pub const ONE: Rules = Rules {
    number: 1,
    apply: run::apply,
    decide: |state| run::decide(state, Edition::One),
};

/// Used for new runs. Frozen with the first release.
pub const TWO: Rules = Rules {
    number: 2,
    apply: run::apply,
    decide: |state| run::decide(state, Edition::Two),
};

/// The rules that this build knows.
pub const KNOWN: KnownRules = KnownRules {
    older: &[ONE],
    newest: TWO,
};

/// Version of the rules for new runs.
pub const RULES: u32 = KNOWN.newest.number;

/// A set of versions of the rules. A [`Machine`](super::Machine) holds one, so that other rules
/// can be tried on a log without another build.
#[derive(Clone, Copy)]
pub struct KnownRules {
    pub older: &'static [Rules],
    pub newest: Rules,
}

impl KnownRules {
    pub fn find(self, number: u32) -> Option<Rules> {
        self.all().find(|rules| rules.number == number)
    }

    fn all(self) -> impl Iterator<Item = Rules> {
        self.older.iter().copied().chain([self.newest])
    }
}

// Functions cannot be compared or printed, so the version numbers represent them.

impl PartialEq for KnownRules {
    fn eq(&self, other: &KnownRules) -> bool {
        let numbers = |known: KnownRules| known.all().map(|rules| rules.number);
        numbers(*self).eq(numbers(*other))
    }
}

impl Eq for KnownRules {}

impl fmt::Debug for KnownRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all().map(|rules| rules.number))
            .finish()
    }
}
