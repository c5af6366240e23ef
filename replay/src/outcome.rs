//! The outcome of an audit, and its exit code.

use serde::{Deserialize, Serialize};
use tinygate_store::{OpenError, ReadErrorKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every recomputed decision is equal to the recorded one.
    Agreed,
    Diverged,
    /// The log cannot be read: no such file, not a log, or a disk error.
    Unreadable,
    Damaged,
    /// A newer build wrote it, or its rules are unknown to this build.
    NewerVersion,
    /// There was no decision to recompute.
    NothingChecked,
}

impl Outcome {
    /// The program's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Outcome::Agreed => 0,
            Outcome::Diverged => 1,
            Outcome::Unreadable => 2,
            Outcome::Damaged => 3,
            Outcome::NewerVersion => 4,
            Outcome::NothingChecked => 5,
        }
    }

    /// The most severe of several outcomes: damaged, newer, diverged, unreadable, nothing
    /// checked. Without any, nothing was checked.
    pub fn most_severe(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
        outcomes
            .into_iter()
            .min_by_key(|outcome| outcome.rank())
            .unwrap_or(Outcome::NothingChecked)
    }

    /// The most severe is the lowest.
    const fn rank(self) -> u8 {
        match self {
            Outcome::Damaged => 0,
            Outcome::NewerVersion => 1,
            Outcome::Diverged => 2,
            Outcome::Unreadable => 3,
            Outcome::NothingChecked => 4,
            Outcome::Agreed => 5,
        }
    }
}

impl From<&ReadErrorKind> for Outcome {
    fn from(kind: &ReadErrorKind) -> Outcome {
        match kind {
            ReadErrorKind::Damaged { .. } => Outcome::Damaged,
            ReadErrorKind::NewerVersion(_) => Outcome::NewerVersion,
            ReadErrorKind::Empty => Outcome::NothingChecked,
            ReadErrorKind::NotALog { .. } | ReadErrorKind::Io(_) => Outcome::Unreadable,
        }
    }
}

impl From<&OpenError> for Outcome {
    fn from(error: &OpenError) -> Outcome {
        match error {
            OpenError::Forked { .. } | OpenError::Damaged { .. } | OpenError::NoEventLeft => {
                Outcome::Damaged
            }
            OpenError::NewerVersion(_) => Outcome::NewerVersion,
            OpenError::Locked { .. }
            | OpenError::ReaderKeepsLock { .. }
            | OpenError::SledInUse
            | OpenError::NotALog { .. }
            | OpenError::Clock
            | OpenError::Exists
            | OpenError::DiskFull { .. }
            | OpenError::Sled { .. }
            | OpenError::Io { .. } => Outcome::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{self, *};

    #[track_caller]
    fn check(name: &str, outcomes: &[Outcome], exit_code: u8) {
        let most_severe = Outcome::most_severe(outcomes.iter().copied());
        assert_eq!(most_severe.exit_code(), exit_code, "{name}");
        let reversed = Outcome::most_severe(outcomes.iter().rev().copied());
        assert_eq!(reversed, most_severe, "{name}, reversed");
    }

    #[test]
    fn the_most_severe_outcome_is_the_exit_code() {
        check("no log does not count as agreement", &[], 5);
        check("all agree", &[Agreed, Agreed], 0);
        check(
            "damage is most severe",
            &[NewerVersion, Damaged, Diverged],
            3,
        );
        check(
            "then a newer build",
            &[Diverged, NewerVersion, Unreadable],
            4,
        );
        check(
            "then a divergence",
            &[Unreadable, Diverged, NothingChecked],
            1,
        );
        check(
            "then an unreadable log",
            &[NothingChecked, Unreadable, Agreed],
            2,
        );
        check("an empty log among good ones", &[Agreed, NothingChecked], 5);
    }
}
