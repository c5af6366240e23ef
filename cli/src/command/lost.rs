//! Checkpoints that the log accepts and the disk no longer has: how a run goes on without them.
//!
//! Only the stage under way is looked at. A checkpoint that a passed stage handed on cannot be
//! given up: what was built on it would rest on nothing.

use std::path::Path;

use anyhow::bail;
use tinygate::events::{CheckpointGivenUp, CheckpointRef, StageName};
use tinygate::machine::stage::Next;
use tinygate::machine::{Checkpoint, Judgement, Phase, RunState, StageState};

/// What is missing of the stage under way.
#[derive(Debug)]
pub struct Lost {
    pub stage: StageName,
    /// Newest last; not empty.
    pub missing: Vec<CheckpointRef>,
    /// One of them without which the run cannot go on as it is.
    pub needed: Option<CheckpointRef>,
    /// The newest that is left.
    pub left: Option<CheckpointRef>,
}

impl Lost {
    /// `None`: every checkpoint of the lineage that may still be used is on the disk.
    pub fn of(dir: &Path, state: &RunState) -> Option<Lost> {
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
        Some(Lost {
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

    /// The events by which a person gives up all that is missing.
    ///
    /// # Errors
    /// No other checkpoint is left to go on from.
    pub fn give_up(&self, who: &str, why: &str) -> anyhow::Result<Vec<CheckpointGivenUp>> {
        if self.left.is_none() {
            bail!(self.none_left());
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
    /// A checkpoint that the run needs now is missing. The way on is part of the error.
    pub fn refuse(&self, dir: &Path) -> anyhow::Result<()> {
        let Some(needed) = &self.needed else {
            return Ok(());
        };
        let Some(left) = &self.left else {
            bail!(self.none_left());
        };
        bail!(
            "the checkpoint `{}` (update {}) that `{}` resumes from is missing in `{}`\n\
             hint: bring its files back, or give it up and continue from `{}` (update {}): \
             `tinygate resume {} --give-up`",
            needed.path,
            needed.step,
            self.stage,
            dir.display(),
            left.path,
            left.step,
            dir.display()
        )
    }

    /// # Errors
    /// Always: which checkpoints are to be kept cannot be told while some are missing.
    pub fn refuse_pruning(&self, dir: &Path) -> anyhow::Result<()> {
        bail!(
            "checkpoints of `{}` that the log has are missing in `{}`: {}\n\
             hint: bring their files back, or give them up with `tinygate resume {} --give-up`, before others \
             are deleted",
            self.stage,
            dir.display(),
            self.missing_paths(),
            dir.display()
        )
    }

    fn none_left(&self) -> String {
        format!(
            "every accepted checkpoint of `{}` is missing: {}\n\
             hint: bring the files of one back; without them, train the stage anew in a run of its own \
             (`tinygate run CONFIG --stage {} --dir DIR`)",
            self.stage,
            self.missing_paths(),
            self.stage
        )
    }

    fn missing_paths(&self) -> String {
        let paths: Vec<String> = self
            .missing
            .iter()
            .map(|checkpoint| format!("`{}`", checkpoint.path))
            .collect();
        paths.join(", ")
    }
}

/// # Errors
/// A checkpoint of a passed stage that the stage under way builds on is missing.
pub fn refuse_missing_upstream(dir: &Path, state: &RunState) -> anyhow::Result<()> {
    let Some(stage) = state.stage() else {
        return Ok(());
    };
    for upstream in &stage.upstream {
        let path = dir.join(&upstream.checkpoint.path);
        if !path.exists() {
            bail!(
                "the checkpoint `{}` that `{}` handed on is missing, and `{}` builds on it\n\
                 hint: bring its files back to `{}`; it cannot be given up",
                upstream.checkpoint.path,
                upstream.stage,
                stage.name(),
                path.display()
            );
        }
    }
    Ok(())
}

/// The checkpoint from which the stage goes on.
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

/// The folder, or a file that the log names, is not there. What is there and was changed is for
/// acceptance to find.
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
