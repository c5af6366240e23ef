//! Whether a checkpoint is what the log names. The host judges, not the trainer that wrote it.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, Need, OPTIMIZER_FILE, RejectReason};
use crate::events::{CheckpointJudged, CheckpointRef, FileRecord, Rejection, StageName};
use crate::machine::JudgeCheckpoint;

/// Who looks at checkpoints.
pub trait Judge {
    /// `weights_only`: the optimizer's file is not asked for.
    fn judge(&self, checkpoint: &JudgeCheckpoint, weights_only: bool) -> Verdict;
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Judged(CheckpointJudged),
    /// Its files are missing. Where they were durable when an event named them, the disk is away
    /// rather than the checkpoint wrong.
    Absent {
        verdict: CheckpointJudged,
        detail: String,
    },
}

/// Reads checkpoints back from a run's directory.
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
        // One that was given for its weights has no other file in the log.
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

/// Reads a checkpoint of a run back from the disk: it must be what the log names.
///
/// # Errors
/// Why it is not accepted.
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

/// What was found, for the log.
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

/// Whether there is nothing to judge: a file system is not mounted, a folder was moved.
pub fn is_absent(reason: &RejectReason) -> bool {
    matches!(
        reason,
        RejectReason::MissingFile { .. } | RejectReason::Unreadable { .. }
    )
}

/// That a checkpoint cannot be used for something, in words.
pub fn refusal(checkpoint: &CheckpointRef, purpose: &str, reason: &RejectReason) -> String {
    let found = if is_absent(reason) {
        "is not there"
    } else {
        "is no longer what the log names"
    };
    format!(
        "the checkpoint `{}` {purpose} {found}: {reason}",
        checkpoint.path
    )
}
