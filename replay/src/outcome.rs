//! What an audit comes to, and the exit code that says it.

use serde::{Deserialize, Serialize};
use tinygate_store::{OpenError, ReadErrorKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every decision was recomputed alike.
    Agreed,
    Diverged,
    /// It cannot be read: no such file, not a log, the disk.
    Unreadable,
    Damaged,
    /// A newer build, or rules that this build does not know.
    NewerVersion,
    /// No decision was there to recompute.
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

    /// Of several logs the gravest: damaged, newer, diverged, unreadable, nothing
    /// checked. Of none: nothing was checked.
    pub fn gravest(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
        outcomes
            .into_iter()
            .min_by_key(|outcome| outcome.place())
            .unwrap_or(Outcome::NothingChecked)
    }

    /// The gravest first.
    const fn place(self) -> u8 {
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
        let gravest = Outcome::gravest(outcomes.iter().copied());
        assert_eq!(gravest.exit_code(), exit_code, "{name}");
        let turned = Outcome::gravest(outcomes.iter().rev().copied());
        assert_eq!(turned, gravest, "{name}, the other way round");
    }

    #[test]
    fn the_gravest_outcome_is_the_exit_code() {
        check("no log at all is no pass", &[], 5);
        check("all agree", &[Agreed, Agreed], 0);
        check("damage is gravest", &[NewerVersion, Damaged, Diverged], 3);
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
        check("then the disk", &[NothingChecked, Unreadable, Agreed], 2);
        check("an empty log among good ones", &[Agreed, NothingChecked], 5);
    }
}
