//! Exit codes, and which of them an error means.
//!
//! Scripts act on these numbers, so each cause has one and keeps it: a damaged
//! log is never a wrong config, and an empty log is never a pass.

use std::io;

use tinygate::controller::ControlError;
use tinygate::store::{OpenError, ReadError, ReadErrorKind, TransferError};
#[cfg(feature = "train")]
use tinygate::train::ranks::FollowError;
use tinygate_replay::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Finished, or agreed.
    Done,
    /// Stopped by a gate, diverged, or a checkpoint was refused.
    Refused,
    /// Usage, config, environment.
    Environment,
    LogDamaged,
    NewerBuild,
    /// There was nothing to check.
    NothingChecked,
    /// By a signal; resumable.
    Interrupted,
    /// The trainer hangs in this process; resumable. Nothing may wait for it.
    NoProgress,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Refused => 1,
            Exit::Environment => 2,
            Exit::LogDamaged => 3,
            Exit::NewerBuild => 4,
            Exit::NothingChecked => 5,
            Exit::Interrupted | Exit::NoProgress => 130,
        }
    }

    /// What an audit, or the gravest of several, comes to.
    pub const fn of_outcome(outcome: Outcome) -> Exit {
        match outcome {
            Outcome::Agreed => Exit::Done,
            Outcome::Diverged => Exit::Refused,
            Outcome::Unreadable => Exit::Environment,
            Outcome::Damaged => Exit::LogDamaged,
            Outcome::NewerVersion => Exit::NewerBuild,
            Outcome::NothingChecked => Exit::NothingChecked,
        }
    }
}

/// The exit of an error: that of the first cause that has one of its own.
pub fn of_error(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(of_cause)
        .unwrap_or(Exit::Environment)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<ControlError>() {
        return Some(of_control(error));
    }
    if let Some(error) = cause.downcast_ref::<TransferError>() {
        return Some(match error {
            TransferError::Log(error) => of_read(error),
            TransferError::Open(error) => of_open(error),
            TransferError::InTheWay { .. }
            | TransferError::Read { .. }
            | TransferError::Write { .. }
            | TransferError::Rename { .. } => Exit::Environment,
        });
    }
    if let Some(error) = cause.downcast_ref::<OpenError>() {
        return Some(of_open(error));
    }
    if let Some(error) = cause.downcast_ref::<ReadError>() {
        return Some(of_read(error));
    }
    #[cfg(feature = "train")]
    if let Some(FollowError::Stopped { .. }) = cause.downcast_ref::<FollowError>() {
        return Some(Exit::Interrupted);
    }
    if cause.is::<EmptyLog>() {
        return Some(Exit::NothingChecked);
    }
    if cause.is::<StoppedRun>() {
        return Some(Exit::Refused);
    }
    let error = cause.downcast_ref::<io::Error>()?;
    (error.kind() == io::ErrorKind::BrokenPipe).then_some(Exit::Done)
}

/// A log without events where some were to be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "the log of `{place}` is empty: there is no event in it\nhint: start a run with `tinygate run CONFIG --dir DIR`"
)]
pub struct EmptyLog {
    pub place: String,
}

/// A stopped run is resumed only when somebody allows it more failures.
#[derive(Debug, thiserror::Error)]
#[error(
    "the run was stopped at a gate of `{stage}` after {failures} failures\nhint: `tinygate explain {dir}` says why; {way_on}"
)]
pub struct StoppedRun {
    pub stage: String,
    pub failures: u32,
    pub dir: String,
    /// By the reason of the stop.
    pub way_on: String,
}

pub fn of_read(error: &ReadError) -> Exit {
    match &error.kind {
        ReadErrorKind::Damaged { .. } => Exit::LogDamaged,
        ReadErrorKind::NewerVersion(_) => Exit::NewerBuild,
        ReadErrorKind::Empty => Exit::NothingChecked,
        ReadErrorKind::NotALog { .. } | ReadErrorKind::Io(_) => Exit::Environment,
    }
}

pub fn of_open(error: &OpenError) -> Exit {
    match error {
        OpenError::NewerVersion(_) => Exit::NewerBuild,
        OpenError::Forked { .. } | OpenError::Damaged { .. } | OpenError::NoEventLeft => {
            Exit::LogDamaged
        }
        OpenError::Locked { .. }
        | OpenError::ReaderKeepsLock { .. }
        | OpenError::SledInUse
        | OpenError::NotALog { .. }
        | OpenError::Clock
        | OpenError::Exists
        | OpenError::DiskFull { .. }
        | OpenError::Sled { .. }
        | OpenError::Io { .. } => Exit::Environment,
    }
}

fn of_control(error: &ControlError) -> Exit {
    match error {
        ControlError::Read(error) => of_read(error),
        ControlError::UnknownRules { found, known } if known < found => Exit::NewerBuild,
        ControlError::NoRun => Exit::NothingChecked,
        ControlError::DoubledStage { .. } => Exit::LogDamaged,
        ControlError::Append(_)
        | ControlError::UnknownRules { .. }
        | ControlError::TrainerLost
        | ControlError::Misreported { .. }
        | ControlError::Stuck { .. }
        | ControlError::NeverAtRest { .. } => Exit::Environment,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, error: impl Into<anyhow::Error>, want: Exit) {
        assert_eq!(of_error(&error.into()), want, "{name}");
    }

    #[test]
    fn each_cause_keeps_its_code() {
        let closed = io::Error::from(io::ErrorKind::BrokenPipe);
        check("a reader that went away", closed, Exit::Done);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        check("a full disk", full, Exit::Environment);
        check("any other error", anyhow::anyhow!("no"), Exit::Environment);
        check(
            "a log without a run",
            ControlError::NoRun,
            Exit::NothingChecked,
        );
        let stage = tinygate::events::StageName::new("twice");
        check(
            "a log no run makes",
            ControlError::DoubledStage { stage },
            Exit::LogDamaged,
        );
        let newer = ControlError::UnknownRules { found: 9, known: 1 };
        check("rules of a later build", newer, Exit::NewerBuild);
        let sound = OpenError::Damaged {
            sound: tinygate::events::Seq::FIRST,
            what: "a bit".to_owned(),
        };
        check("a damaged log", sound, Exit::LogDamaged);
        let inside = anyhow::Error::new(OpenError::Exists).context("cannot start");
        check("a cause below a context", inside, Exit::Environment);
        let read = tinygate::store::ReadError {
            seq: tinygate::events::Seq::FIRST,
            offset: 0,
            kind: ReadErrorKind::Empty,
        };
        check(
            "an empty file, through a transfer",
            TransferError::Log(read),
            Exit::NothingChecked,
        );
    }

    #[test]
    fn outcomes_of_audits_have_their_own_codes() {
        let outcomes = [
            Outcome::Agreed,
            Outcome::Diverged,
            Outcome::Unreadable,
            Outcome::Damaged,
            Outcome::NewerVersion,
            Outcome::NothingChecked,
        ];
        for outcome in outcomes {
            assert_eq!(
                Exit::of_outcome(outcome).code(),
                outcome.exit_code(),
                "{outcome:?}"
            );
        }
    }
}
