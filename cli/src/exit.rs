//! Exit codes, and which of them an error means.
//!
//! Scripts act on these numbers, so they never change. A damaged log is never reported as an invalid
//! config, and an empty log never as a pass.

use std::io;

use tinygate::controller::ControlError;
use tinygate::run::dry_run::DryRunError;
use tinygate::run::retrain::RetrainError;
use tinygate::run::{EmptyLog, NewRunError, NextCycleError, ResumeError};
use tinygate::store::{OpenError, ReadError, ReadErrorKind, TransferError};
#[cfg(feature = "train")]
use tinygate::train::ranks::FollowError;
use tinygate_replay::Outcome;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Finished or agreed.
    Done,
    /// Stopped by a gate, diverged, or a checkpoint was refused.
    Refused,
    /// Usage, config, environment.
    Environment,
    LogDamaged,
    NewerBuild,
    /// There was nothing to check.
    NothingChecked,
    /// By a signal; can be resumed.
    Interrupted,
    /// The trainer hangs in this process, which must not wait for it; can be resumed.
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

    /// The exit code of an audit, or of the most severe outcome of several.
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

/// The exit of the first cause that has one.
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
            TransferError::FileExists { .. }
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
    if let Some(exit) = of_run(cause) {
        return Some(exit);
    }
    let error = cause.downcast_ref::<io::Error>()?;
    (error.kind() == io::ErrorKind::BrokenPipe).then_some(Exit::Done)
}

/// The exit of an error of `tinygate::run`; `None`: that of its source.
fn of_run(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if cause.is::<EmptyLog>() {
        return Some(Exit::NothingChecked);
    }
    if let Some(NewRunError::Control(error)) = cause.downcast_ref::<NewRunError>() {
        return Some(of_control(error));
    }
    if let Some(NextCycleError::Empty(_)) = cause.downcast_ref::<NextCycleError>() {
        return Some(Exit::NothingChecked);
    }
    if let Some(RetrainError::Empty(_)) = cause.downcast_ref::<RetrainError>() {
        return Some(Exit::NothingChecked);
    }
    if let Some(DryRunError::Control(error)) = cause.downcast_ref::<DryRunError>() {
        return Some(of_control(error));
    }
    match cause.downcast_ref::<ResumeError>()? {
        ResumeError::Empty(_) => Some(Exit::NothingChecked),
        ResumeError::Stopped(_) => Some(Exit::Refused),
        ResumeError::Control(error) => Some(of_control(error)),
        ResumeError::Open { .. }
        | ResumeError::Config(_)
        | ResumeError::RetriesOfFinishedRun
        | ResumeError::RetriesWithoutStop
        | ResumeError::ChangeOfFinishedRun { .. }
        | ResumeError::ChangeOfPassedStage(_)
        | ResumeError::Lost(_)
        | ResumeError::DataMoved { .. }
        | ResumeError::Setup(_)
        | ResumeError::OtherData { .. } => None,
    }
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
        ControlError::DuplicateStage { .. } => Exit::LogDamaged,
        ControlError::Append(_)
        | ControlError::UnknownRules { .. }
        | ControlError::TrainerLost
        | ControlError::Misreported { .. }
        | ControlError::Stuck { .. }
        | ControlError::EndlessDecisions { .. } => Exit::Environment,
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
            ControlError::DuplicateStage { stage },
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
    fn errors_of_runs_keep_the_codes_of_their_causes() {
        let dir = std::path::PathBuf::from("run");
        let empty = || tinygate::run::EmptyLog { path: dir.clone() };
        check("an empty log", empty(), Exit::NothingChecked);
        let resume = ResumeError::from(empty());
        check("an empty log, resumed", resume, Exit::NothingChecked);
        let retrain = RetrainError::from(empty());
        check("an empty log, trained again", retrain, Exit::NothingChecked);
        let newer = || ControlError::UnknownRules { found: 9, known: 1 };
        let resume = ResumeError::Control(newer());
        check("rules of a later build, resumed", resume, Exit::NewerBuild);
        let create = NewRunError::Control(newer());
        check("rules of a later build, created", create, Exit::NewerBuild);
        let stopped = tinygate::run::StoppedRun {
            dir: dir.clone(),
            stage: tinygate::events::StageName::new("dynamics"),
            failures: 6,
            reason: None,
        };
        let resume = ResumeError::Stopped(stopped);
        check("a stopped run", resume, Exit::Refused);
        let resume = ResumeError::Open {
            dir,
            source: OpenError::NoEventLeft,
        };
        check("a damaged log, resumed", resume, Exit::LogDamaged);
        let retries = anyhow::Error::new(ResumeError::RetriesWithoutStop);
        check(
            "a request without effect",
            retries.context("`--retries`"),
            Exit::Environment,
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
