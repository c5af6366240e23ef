//! A run that stopped at a gate, and what a user can do to continue it.

use std::path::{Path, PathBuf};

use crate::advice::{Advice, Hint};
use crate::events::{StageName, StopReason};
use crate::machine::{Phase, RunPhase, RunState, StageState};

/// A stopped run is resumed only when a user allows it more failures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run was stopped at a gate of `{stage}` after {failures} failures")]
pub struct StoppedRun {
    pub dir: PathBuf,
    pub stage: StageName,
    pub failures: u32,
    /// `None`: the log does not say.
    pub reason: Option<StopReason>,
}

impl StoppedRun {
    /// `None`: the run has not stopped.
    pub fn of(dir: &Path, state: &RunState) -> Option<StoppedRun> {
        let stage = stopped_stage(state)?;
        Some(StoppedRun {
            dir: dir.to_owned(),
            stage: stage.name().clone(),
            failures: stage.failures,
            reason: reason(stage).cloned(),
        })
    }

    /// What makes it continue.
    pub fn remedies(&self) -> Vec<Hint> {
        let allow = |set: Option<String>| Hint::AllowRetries {
            dir: self.dir.display().to_string(),
            set,
        };
        match &self.reason {
            Some(StopReason::RetriesExceeded { .. }) | None => vec![allow(None)],
            Some(StopReason::NoRungApplies) => vec![
                Hint::text("the ladder has nothing left to change"),
                allow(Some(format!("{}.learning_rate=RATE", self.stage))),
            ],
            Some(StopReason::ExtensionsExceeded { .. }) => vec![
                allow(None),
                allow(Some(format!("{}.n_updates=UPDATES", self.stage))),
            ],
            Some(StopReason::ChunkFailuresExceeded { .. }) => {
                vec![Hint::text("fix what made the chunk fail"), allow(None)]
            }
            Some(StopReason::OutOfMemoryAtFloor { .. }) => vec![
                Hint::text(
                    "the smallest batch does not fit: free memory, or start a run with a smaller model",
                ),
                allow(None),
            ],
            Some(StopReason::CountersExhausted) => vec![Hint::StartFromCheckpoint],
        }
    }
}

impl Advice for StoppedRun {
    fn hints(&self) -> Vec<Hint> {
        let explain = Hint::Explain {
            dir: self.dir.display().to_string(),
        };
        std::iter::once(explain).chain(self.remedies()).collect()
    }
}

pub(super) fn stopped_stage(state: &RunState) -> Option<&StageState> {
    match state.phase {
        RunPhase::Stopped(place) => state.stages.get(place),
        RunPhase::Empty
        | RunPhase::Running(_)
        | RunPhase::Finishing
        | RunPhase::Stopping(_)
        | RunPhase::Finished => None,
    }
}

fn reason(stage: &StageState) -> Option<&StopReason> {
    match &stage.phase {
        Phase::Stopped { reason, .. } | Phase::Stopping { reason, .. } => Some(reason),
        Phase::Pending
        | Phase::Measuring
        | Phase::Recording { .. }
        | Phase::Training
        | Phase::Rewinding
        | Phase::Gating
        | Phase::Failed { .. }
        | Phase::Ending { .. }
        | Phase::Reopening { .. }
        | Phase::Passed { .. } => None,
    }
}
