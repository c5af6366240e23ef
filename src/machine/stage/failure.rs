//! The answer to a chunk that failed without a gate.

use alloc::vec;
use alloc::vec::Vec;

use super::state::StageState;
use crate::chunk::ChunkState;
use tinygate_events::{
    EffectiveBatch, FailureAnswer, FailureCause, FailureDecided, PatchReason, Policy, SettingKey,
    SettingPatch, SettingValue, StopReason,
};

/// Decides whether to run the chunk again or to stop the stage.
pub fn decide_failure(
    policy: &Policy,
    stage: &StageState,
    chunk: &ChunkState,
    cause: FailureCause,
) -> FailureDecided {
    let mut decided = FailureDecided {
        stage: stage.name().clone(),
        chunk: chunk.number,
        attempt: chunk.attempt,
        cause,
        answer: FailureAnswer::RunAgain,
        failures: stage.failures,
        chunk_failures: stage.chunk_failures,
        patches: Vec::new(),
        effective_batch: None,
    };
    match cause {
        FailureCause::OutOfMemory => {
            decided.failures = stage.failures.saturating_add(1);
            match halve_batch(stage) {
                Some((patches, effective)) => {
                    decided.patches = patches;
                    decided.effective_batch = Some(effective);
                }
                None => decided.answer = FailureAnswer::Stop,
            }
        }
        FailureCause::Interrupted => decided.failures = stage.failures.saturating_add(1),
        FailureCause::WorkerExited
        | FailureCause::WorkerTimedOut
        | FailureCause::NoProgress
        | FailureCause::CheckpointUnloadable => {
            decided.chunk_failures = stage.chunk_failures.saturating_add(1);
        }
    }
    if stage.max_retries < decided.failures || policy.max_chunk_failures < decided.chunk_failures {
        decided.answer = FailureAnswer::Stop;
        decided.patches.clear();
        decided.effective_batch = None;
    }
    decided
}

/// Halves the batch and raises accumulation to compensate. `None`: the batch is at its minimum.
pub fn halve_batch(stage: &StageState) -> Option<(Vec<SettingPatch>, EffectiveBatch)> {
    let floor = u64::from(stage.policy.batch_size_min.max(1));
    let batch = u64::from(stage.settings.batch_size_per_gpu);
    let accumulation = u64::from(stage.settings.gradient_accumulation_steps);
    let halved = (batch / 2).max(floor);
    if batch <= halved {
        return None;
    }
    let raised = stage
        .effective_batch
        .div_ceil(halved)
        .min(u64::from(u32::MAX));
    let patch = |key, from, to| SettingPatch {
        key,
        from: SettingValue::Count(from),
        to: SettingValue::Count(to),
        why: PatchReason::OutOfMemory,
    };
    let mut patches = vec![patch(SettingKey::BatchSizePerGpu, batch, halved)];
    if raised != accumulation {
        patches.push(patch(
            SettingKey::GradientAccumulationSteps,
            accumulation,
            raised,
        ));
    }
    Some((
        patches,
        EffectiveBatch {
            before: batch * accumulation,
            after: halved * raised,
        },
    ))
}

/// Why a failed chunk ends its stage.
pub fn stop_reason(
    stage: &StageState,
    decided: &FailureDecided,
    max_chunk_failures: u32,
) -> StopReason {
    if stage.max_retries < decided.failures {
        StopReason::RetriesExceeded {
            failures: decided.failures,
            max_retries: stage.max_retries,
        }
    } else if decided.cause == FailureCause::OutOfMemory {
        StopReason::OutOfMemoryAtFloor {
            batch_size_per_gpu: stage.settings.batch_size_per_gpu,
        }
    } else {
        StopReason::ChunkFailuresExceeded {
            failures: decided.chunk_failures,
            max_chunk_failures,
        }
    }
}
