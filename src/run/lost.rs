//! Checkpoints that the log accepts and whose files are missing: how a run continues without them.
//!
//! Only the current stage is considered. A checkpoint that a passed stage handed on cannot be given
//! up, since the current stage builds on it.

use std::path::Path;

use super::error::LostError;
use crate::events::{CheckpointGivenUp, CheckpointRef, StageName};
use crate::machine::stage::Next;
use crate::machine::{Checkpoint, Judgement, Phase, RunState, StageState};

/// Checkpoints of the current stage whose files are missing.
#[derive(Clone, Debug)]
pub struct LostCheckpoints {
    pub stage: StageName,
    /// Newest last; not empty.
    pub missing: Vec<CheckpointRef>,
    /// The newest of them without which the run cannot resume: it starts there, or must judge it first.
    pub needed: Option<CheckpointRef>,
    /// The newest accepted one that is not missing.
    pub left: Option<CheckpointRef>,
}

impl LostCheckpoints {
    /// `None`: no checkpoint that may still be used is missing.
    pub fn of(dir: &Path, state: &RunState) -> Option<LostCheckpoints> {
        let stage = state.stage()?;
        let (missing, there): (Vec<&Checkpoint>, Vec<&Checkpoint>) = stage
            .lineage
            .present()
            .filter(|checkpoint| !checkpoint.deleted)
            .filter(|checkpoint| !matches!(checkpoint.judgement, Judgement::Rejected(_)))
            .partition(|checkpoint| is_missing(dir, checkpoint));
        if missing.is_empty() {
            return None;
        }
        // A newer one that waits for its verdict may be where the run resumes.
        let start = start(stage).filter(|start| {
            !there.iter().any(|checkpoint| {
                checkpoint.judgement == Judgement::Pending && start.step < checkpoint.reference.step
            })
        });
        let is_needed = |checkpoint: &&&Checkpoint| {
            checkpoint.judgement == Judgement::Pending || Some(&checkpoint.reference) == start
        };
        let newest = there
            .iter()
            .rfind(|checkpoint| checkpoint.judgement == Judgement::Accepted);
        Some(LostCheckpoints {
            stage: stage.name().clone(),
            needed: missing
                .iter()
                .rfind(is_needed)
                .map(|checkpoint| checkpoint.reference.clone()),
            left: newest.map(|checkpoint| checkpoint.reference.clone()),
            missing: missing
                .into_iter()
                .map(|checkpoint| checkpoint.reference.clone())
                .collect(),
        })
    }

    /// The events with which a user gives up all that are missing.
    ///
    /// # Errors
    /// No other checkpoint is left to continue from.
    pub fn give_up(&self, who: &str, why: &str) -> Result<Vec<CheckpointGivenUp>, LostError> {
        if self.left.is_none() {
            return Err(self.none_left());
        }
        let event = |checkpoint: &CheckpointRef| CheckpointGivenUp {
            stage: self.stage.clone(),
            checkpoint: checkpoint.clone(),
            who: who.to_owned(),
            why: why.to_owned(),
        };
        Ok(self.missing.iter().map(event).collect())
    }

    /// # Errors
    /// The checkpoint that the run resumes from is missing.
    pub fn refuse_needed(&self, dir: &Path) -> Result<(), LostError> {
        let Some(needed) = &self.needed else {
            return Ok(());
        };
        let Some(left) = &self.left else {
            return Err(self.none_left());
        };
        Err(LostError::Needed {
            dir: dir.to_owned(),
            stage: self.stage.clone(),
            needed: needed.clone(),
            left: left.clone(),
        })
    }

    /// The error of pruning a run while these are missing: those that are left may be needed.
    pub fn pruning_error(&self, dir: &Path) -> LostError {
        LostError::Pruning {
            dir: dir.to_owned(),
            stage: self.stage.clone(),
            missing: self.missing.clone(),
        }
    }

    fn none_left(&self) -> LostError {
        LostError::NoneLeft {
            stage: self.stage.clone(),
            missing: self.missing.clone(),
        }
    }
}

/// # Errors
/// A checkpoint of a passed stage that the current stage builds on is missing.
pub(super) fn refuse_missing_upstream(dir: &Path, state: &RunState) -> Result<(), LostError> {
    let Some(stage) = state.stage() else {
        return Ok(());
    };
    let missing = |path: &str| !dir.join(path).exists();
    let mut upstream = stage.upstream.iter();
    match upstream.find(|upstream| missing(&upstream.checkpoint.path)) {
        None => Ok(()),
        Some(upstream) => Err(LostError::Upstream {
            path: dir.join(&upstream.checkpoint.path),
            checkpoint: upstream.checkpoint.path.clone(),
            upstream: upstream.stage.clone(),
            stage: stage.name().clone(),
        }),
    }
}

/// The checkpoint that the stage resumes from.
fn start(stage: &StageState) -> Option<&CheckpointRef> {
    if let Phase::Recording { next, .. } = &stage.phase {
        match next {
            Next::StartChunk { resume_from } => return resume_from.as_ref(),
            Next::HandOn { checkpoint } => return Some(checkpoint),
            Next::RunAgain => {}
        }
    }
    stage
        .lineage
        .newest_accepted()
        .map(|checkpoint| &checkpoint.reference)
}

/// Whether the folder or one of the files in the log is missing. Files that were changed are found
/// when the checkpoint is judged.
fn is_missing(dir: &Path, checkpoint: &Checkpoint) -> bool {
    let folder = dir.join(&checkpoint.reference.path);
    // A given checkpoint may be one file.
    if folder.is_file() {
        return false;
    }
    !folder.exists()
        || checkpoint
            .files
            .iter()
            .any(|file| !folder.join(&file.name).exists())
}
