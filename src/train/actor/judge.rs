//! Whether a checkpoint is what the log names. Needs no libtorch.

use super::directory::{RunDirectory, is_absent, refusal};
use super::failure::Failure;
use crate::checkpoint::{Need, OPTIMIZER_FILE, RejectReason};
use crate::events::{CheckpointJudged, CheckpointRef, Rejection, StageName};
use crate::machine::JudgeCheckpoint;

/// Reads a checkpoint back from the disk.
///
/// # Errors
/// Files that are missing: they were durable when an event named them, so the disk is away rather than the checkpoint
/// wrong.
pub(super) fn judge(
    directory: &RunDirectory,
    judge: &JudgeCheckpoint,
) -> Result<CheckpointJudged, Failure> {
    // One that was given for its weights has no other file in the log.
    let whole = judge.files.iter().any(|file| file.name == OPTIMIZER_FILE);
    let need = if whole { Need::Resume } else { Need::Weights };
    let accepted = directory.accept(need, &judge.checkpoint, &judge.files);
    if let Err(reason) = &accepted
        && is_absent(reason)
    {
        let refusal = refusal(&judge.checkpoint, "to resume from", reason);
        return Err(Failure::Environment(refusal));
    }
    Ok(verdict(&judge.stage, &judge.checkpoint, accepted))
}

/// What [`RunDirectory::accept`] found, for the log.
pub(super) fn verdict(
    stage: &StageName,
    checkpoint: &CheckpointRef,
    accepted: Result<(), RejectReason>,
) -> CheckpointJudged {
    CheckpointJudged {
        stage: stage.clone(),
        checkpoint: checkpoint.clone(),
        rejected: accepted.err().map(|reason| Rejection {
            code: reason.code().to_owned(),
            text: reason.to_string(),
        }),
    }
}
