//! Chooses where the chunk after a failed gate starts.

use super::context::RunPolicy;
use super::state::StageState;
use crate::chunk::ChunkState;
use crate::edition::Edition;
use crate::lineage::Checkpoint;
use tinygate_events::{CheckpointRef, RestartCause, RetryFrom, Scalar};

/// Where a chunk starts, and whether that is a restart.
#[derive(Clone, Copy)]
pub struct Start<'a> {
    /// Why it is a restart. `None`: it is not.
    pub cause: Option<RestartCause>,
    resume_from: Option<&'a Checkpoint>,
}

impl<'a> Start<'a> {
    /// From fresh weights, since no checkpoint is left.
    pub const FRESH: Start<'static> = Start {
        cause: Some(RestartCause::NoAcceptedCheckpoint),
        resume_from: None,
    };

    /// The start after a failed gate. `streak` is the number of consecutive gates, including this one,
    /// at which the structure was lost.
    pub fn after_gate(
        run: RunPolicy<'_>,
        stage: &'a StageState,
        chunk: &ChunkState,
        gate_loss: Option<Scalar>,
        streak: u32,
    ) -> Start<'a> {
        let cause = if chunk
            .values(&stage.policy.loss)
            .iter()
            .any(|loss| !loss.is_finite())
        {
            Some(RestartCause::NonFiniteLoss)
        } else if 2 <= streak {
            Some(RestartCause::StructureLost)
        } else if stage.lineage.newest_accepted().is_none() {
            Some(RestartCause::NoAcceptedCheckpoint)
        } else {
            None
        };
        let resume_from = match cause {
            None => retry_point(run.policy.retry_from, stage, chunk, gate_loss),
            Some(RestartCause::NoAcceptedCheckpoint) => None,
            Some(RestartCause::NonFiniteLoss | RestartCause::StructureLost) => match run.edition {
                Edition::One => stage.lineage.best_passed(),
                Edition::Two => {
                    let passed = stage.lineage.best_passed();
                    passed.or_else(|| stage.lineage.given())
                }
            },
        };
        Start { cause, resume_from }
    }

    pub fn resume_from(&self) -> Option<&'a CheckpointRef> {
        self.resume_from.map(|checkpoint| &checkpoint.reference)
    }
}

/// Where a retry starts. Each choice falls back to the newest accepted checkpoint. The gate
/// that just failed counts, although its checkpoint does not have the result yet.
fn retry_point<'a>(
    retry_from: RetryFrom,
    stage: &'a StageState,
    chunk: &ChunkState,
    gate_loss: Option<Scalar>,
) -> Option<&'a Checkpoint> {
    let chosen = match retry_from {
        RetryFrom::Newest => None,
        RetryFrom::LastPassed => stage.lineage.newest_passed(),
        RetryFrom::Best => {
            let gate = stage.checkpoint_gate(chunk, gate_loss, false);
            stage.lineage.best_present_with(chunk.to, gate)
        }
    };
    chosen.or_else(|| stage.lineage.newest_accepted())
}
