//! The answer to a gate, and to reopening a stage that stopped there.

use alloc::vec::Vec;

use super::context::RunPolicy;
use super::failure::halve_batch;
use super::retry::{Retry, climb_after_gate, climb_without_gate, may_extend};
use super::start::Start;
use super::state::{GateSummary, StageState};
use crate::chunk::ChunkState;
use crate::gate::{self, Evaluation};
use crate::ladder::Climb;
use tinygate_events::{
    Action, Blocking, FailureCause, GateDecided, StageReopened, Step, StopReason,
};

fn evaluate(run: RunPolicy<'_>, stage: &StageState, chunk: &ChunkState) -> Evaluation {
    let inputs = stage.gate_inputs(chunk, run.policy.latest_window, run.edition);
    gate::evaluate(&stage.policy, &inputs)
}

/// Evaluates the gate and decides. A stop takes precedence over a restart, and a restart over a rung.
pub fn decide_gate(run: RunPolicy<'_>, stage: &StageState, chunk: &ChunkState) -> GateDecided {
    let evaluation = evaluate(run, stage, chunk);
    if evaluation.passed() {
        let failures = if run.policy.reset_on_pass {
            0
        } else {
            stage.failures
        };
        let mut decided = undecided(stage, chunk, evaluation);
        decided.failures = failures;
        return decided;
    }
    let streak = stage.streak_with(&evaluation.criteria);
    let start = Start::after_gate(run, stage, chunk, evaluation.gate_loss, streak);
    let climb = climb_after_gate(run, stage, chunk, &evaluation);
    let decided = undecided(stage, chunk, evaluation);
    fail_gate(stage, chunk, decided, start, climb)
}

/// Restarts the stage from fresh weights, since no checkpoint is left from which the failed chunk could
/// run again. Counts as a failure, applies a rung, and is recorded as a gate's decision.
pub fn restart_without_gate(
    run: RunPolicy<'_>,
    stage: &StageState,
    chunk: &ChunkState,
    step: Step,
) -> GateDecided {
    let climb = climb_without_gate(run, stage);
    fail_gate(
        stage,
        chunk,
        without_gate(stage, chunk, step),
        Start::FRESH,
        climb,
    )
}

/// Counts a failure: applies a rung and chooses the checkpoint to resume from, or stops.
fn fail_gate(
    stage: &StageState,
    chunk: &ChunkState,
    mut decided: GateDecided,
    start: Start<'_>,
    climb: Climb,
) -> GateDecided {
    let failures = stage.failures.saturating_add(1);
    decided.failures = failures;
    decided.resume_from = start.resume_from().cloned();
    let retry = if stage.max_retries < failures {
        Err(StopReason::RetriesExceeded {
            failures,
            max_retries: stage.max_retries,
        })
    } else if climb.rung.is_none() {
        decided.skipped = climb.skipped;
        Err(StopReason::NoRungApplies)
    } else {
        Retry::new(stage, chunk, start, climb, may_extend(stage))
    };
    match retry {
        Ok(retry) => {
            decided.decision = retry.action();
            decided.config_patch_applied = retry.patches;
            decided.cursor = retry.climb.cursor;
            decided.rung = retry.climb.rung;
            decided.skipped = retry.climb.skipped;
            decided.deferred = retry.climb.deferred;
            decided.restart = retry.restart;
        }
        Err(stop) => {
            decided.decision = Action::Stop;
            decided.stop = Some(stop);
        }
    }
    decided
}

/// A decision to continue, which a failed gate changes.
fn undecided(stage: &StageState, chunk: &ChunkState, evaluation: Evaluation) -> GateDecided {
    GateDecided {
        decision: Action::Continue,
        metrics: evaluation.metrics,
        criteria: evaluation.criteria,
        findings: evaluation.findings,
        ..without_gate(stage, chunk, chunk.to)
    }
}

/// The stop of a stage after a failed chunk, recorded as a gate's decision.
pub fn stop_without_gate(
    stage: &StageState,
    chunk: &ChunkState,
    step: Step,
    reason: &StopReason,
) -> GateDecided {
    let mut decided = without_gate(stage, chunk, step);
    decided.stop = Some(reason.clone());
    decided
}

/// A gate's decision for a chunk without a gate. It stops, unless the caller changes that.
fn without_gate(stage: &StageState, chunk: &ChunkState, step: Step) -> GateDecided {
    GateDecided {
        stage: stage.name().clone(),
        chunk: chunk.number,
        attempt: chunk.attempt,
        gate_step: step,
        decision: Action::Stop,
        metrics: Vec::new(),
        resume_from: stage.lineage.newest_reference(),
        config_patch_applied: Vec::new(),
        criteria: Vec::new(),
        findings: Vec::new(),
        failures: stage.failures,
        cursor: stage.cursor,
        rung: None,
        skipped: Vec::new(),
        deferred: None,
        restart: None,
        stop: None,
    }
}

/// Does what was due when the stage stopped.
///
/// After a gate: applies its rung and resumes from a checkpoint. If no rung applies, the stage
/// continues without one. The target may be extended beyond the limit, since a person asked for it.
/// After a chunk that failed without a gate: runs the chunk again, or restarts if no checkpoint is
/// left to run it from.
pub fn reopen(run: RunPolicy<'_>, stage: &StageState, step: Step) -> StageReopened {
    let mut reopened = StageReopened {
        stage: stage.name().clone(),
        gate_step: step,
        decision: Action::Retune,
        resume_from: stage.lineage.newest_reference(),
        config_patch_applied: Vec::new(),
        cursor: stage.cursor,
        rung: None,
        skipped: Vec::new(),
        deferred: None,
        restart: None,
    };
    let Some(chunk) = &stage.chunk else {
        return reopened;
    };
    if stage.is_start_lost(chunk) {
        let climb = climb_without_gate(run, stage);
        if let Ok(retry) = Retry::new(stage, chunk, Start::FRESH, climb, true) {
            apply_retry(&mut reopened, retry);
        }
        return reopened;
    }
    if let Some(cause) = chunk.failed {
        let halved = halve_batch(stage).filter(|_| cause == FailureCause::OutOfMemory);
        reopened.config_patch_applied = halved.map(|(patches, _)| patches).unwrap_or_default();
        return reopened;
    }
    let evaluation = evaluate(run, stage, chunk);
    let start = Start::after_gate(run, stage, chunk, evaluation.gate_loss, stage.visual_streak);
    reopened.resume_from = start.resume_from().cloned();
    let climb = climb_after_gate(run, stage, chunk, &evaluation);
    if let Ok(retry) = Retry::new(stage, chunk, start, climb, true) {
        apply_retry(&mut reopened, retry);
    }
    reopened
}

fn apply_retry(reopened: &mut StageReopened, retry: Retry) {
    reopened.decision = retry.action();
    reopened.config_patch_applied = retry.patches;
    reopened.cursor = retry.climb.cursor;
    reopened.rung = retry.climb.rung;
    reopened.skipped = retry.climb.skipped;
    reopened.deferred = retry.climb.deferred;
    reopened.restart = retry.restart;
}

/// The criteria that failed at the last gate, each with the number of gates at which it failed. Empty
/// if the stage did not stop because of gates. The decision on a failed chunk is not a gate.
pub fn blocking(stage: &StageState, reason: &StopReason) -> Vec<Blocking> {
    let by_gates = match reason {
        StopReason::RetriesExceeded { .. }
        | StopReason::NoRungApplies
        | StopReason::ExtensionsExceeded { .. } => true,
        StopReason::ChunkFailuresExceeded { .. }
        | StopReason::OutOfMemoryAtFloor { .. }
        | StopReason::CountersExhausted => false,
    };
    let is_gate =
        |gate: &&GateSummary| gate.decision == Action::Continue || !gate.failed.is_empty();
    let last = stage.gates.iter().rfind(is_gate).filter(|_| by_gates);
    let failed = last.into_iter().flat_map(|gate| &gate.failed);
    let gates = |name: &str| {
        let failed = |gate: &&GateSummary| gate.failed.iter().any(|result| result.name == name);
        stage.gates.iter().filter(failed).count() as u32
    };
    failed
        .map(|result| Blocking {
            criterion: result.name.clone(),
            value: result.value,
            limit: result.limit,
            gates: gates(&result.name),
        })
        .collect()
}
