//! Checks that a checkpoint matches the log. The host does this, not the trainer that wrote it.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, Need, OPTIMIZER_FILE, RejectReason};
use crate::events::{CheckpointJudged, CheckpointRef, FileRecord, Rejection, StageName};
use crate::machine::JudgeCheckpoint;

/// Judges checkpoints.
pub trait Judge {
    /// With `weights_only`, the optimizer's file is not required.
    fn judge(&self, checkpoint: &JudgeCheckpoint, weights_only: bool) -> Verdict;
}

/// The result of judging a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Judged(CheckpointJudged),
    /// Its files are missing. If they were durable before, the disk is probably not mounted, and
    /// the checkpoint itself is not at fault.
    Absent {
        verdict: CheckpointJudged,
        detail: String,
    },
}

/// Judges checkpoints by reading them back from the run's directory.
pub struct FileJudge {
    directory: PathBuf,
}

impl FileJudge {
    pub fn new(directory: &Path) -> FileJudge {
        FileJudge {
            directory: directory.to_owned(),
        }
    }
}

impl Judge for FileJudge {
    fn judge(&self, asked: &JudgeCheckpoint, weights_only: bool) -> Verdict {
        // If only its weights are used, the log does not list the optimizer's file.
        let whole = asked.files.iter().any(|file| file.name == OPTIMIZER_FILE);
        let need = if whole && !weights_only {
            Need::Resume
        } else {
            Need::Weights
        };
        let accepted = accept(&self.directory, need, &asked.checkpoint, &asked.files);
        match accepted {
            Err(reason) if is_absent(&reason) => Verdict::Absent {
                detail: refusal(&asked.checkpoint, "to resume from", &reason),
                verdict: judged(&asked.stage, &asked.checkpoint, Err(reason)),
            },
            accepted => Verdict::Judged(judged(&asked.stage, &asked.checkpoint, accepted)),
        }
    }
}

/// Reads a checkpoint of a run back from disk, and checks that it matches the log.
///
/// # Errors
/// Why it is rejected.
pub fn accept(
    directory: &Path,
    need: Need,
    checkpoint: &CheckpointRef,
    files: &[FileRecord],
) -> Result<(), RejectReason> {
    let path = directory.join(&checkpoint.path);
    let files: Vec<_> = files.iter().map(Into::into).collect();
    match checkpoint::accept_for(need, &path, Some(&files)) {
        checkpoint::Acceptance::Accepted(_) => Ok(()),
        checkpoint::Acceptance::Rejected { reason } => Err(reason),
    }
}

/// The event that records a verdict.
pub fn judged(
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

/// Whether files are missing or unreadable, for example because a file system is not mounted.
pub fn is_absent(reason: &RejectReason) -> bool {
    matches!(
        reason,
        RejectReason::MissingFile { .. } | RejectReason::Unreadable { .. }
    )
}

/// The message that a checkpoint cannot be used for a purpose.
pub fn refusal(checkpoint: &CheckpointRef, purpose: &str, reason: &RejectReason) -> String {
    let found = if is_absent(reason) {
        "is missing"
    } else {
        "no longer matches the log"
    };
    format!(
        "the checkpoint `{}` {purpose} {found}: {reason}",
        checkpoint.path
    )
}
