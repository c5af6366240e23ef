//! The versions of the rules that a build knows.
//!
//! Invariant: what stands in a version of [`KNOWN`] and is released stays. A change that
//! alters any decision is a new version behind the last.

use core::fmt;

use super::command::Decision;
use super::edition::Edition;
use super::run::{self, RunState};
use tinygate_events::Event;

/// One version of the rules.
#[derive(Clone, Copy)]
pub struct Rules {
    /// What the first event of a log says.
    pub number: u32,
    /// Folds an event into the state.
    pub apply: fn(&mut RunState, &Event),
    /// Says what comes next.
    pub decide: fn(&RunState) -> Decision,
}

/// Frozen.
pub const ONE: Rules = Rules {
    number: 1,
    apply: run::apply,
    decide: |state| run::decide(state, Edition::One),
};

/// Those of new runs. They freeze with the first release.
pub const TWO: Rules = Rules {
    number: 2,
    apply: run::apply,
    decide: |state| run::decide(state, Edition::Two),
};

/// The rules that this build knows.
pub const KNOWN: Known = Known {
    older: &[ONE],
    newest: TWO,
};

/// Version of the rules that new runs are decided by.
pub const RULES: u32 = KNOWN.newest.number;

/// Versions of the rules. A [`Machine`](super::Machine) carries those it may decide by, so
/// that others can be tried on a log without a build of their own.
#[derive(Clone, Copy)]
pub struct Known {
    pub older: &'static [Rules],
    pub newest: Rules,
}

impl Known {
    pub fn find(self, number: u32) -> Option<Rules> {
        self.all().find(|rules| rules.number == number)
    }

    fn all(self) -> impl Iterator<Item = Rules> {
        self.older.iter().copied().chain([self.newest])
    }
}

// Functions have no equality that holds, and nothing to show: the numbers stand for them.

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        let numbers = |known: Known| known.all().map(|rules| rules.number);
        numbers(*self).eq(numbers(*other))
    }
}

impl Eq for Known {}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.all().map(|rules| rules.number))
            .finish()
    }
}
