//! Folds events into the state of a stage.

use alloc::vec::Vec;

use super::context::FoldContext;
use super::failure::stop_reason;
use super::state::{GateSummary, Next, Phase, StageState, effective_batch};
use crate::chunk::{ChunkState, Previous};
use crate::gate;
use crate::ladder;
use tinygate_events::{
    Action, CheckpointDeleted, CheckpointGivenUp, CheckpointRef, CheckpointWritten, ChunkFailed,
    ChunkFailure, ChunkFinished, ChunkStarted, CriterionResult, Event, FailureAnswer, FailureCause,
    FailureDecided, GateDecided, Metric, MetricsLogged, PatchReason, RestartReason,
    SamplesSuperseded, SettingKey, SettingPatch, SettingValue, StageMeasured, StagePassed,
    StageReopened, StageStarted, StageStopped, Step, StopReason, Verdict, metric,
};

/// Folds an event that concerns this stage.
pub fn evolve(run: FoldContext, stage: &mut StageState, event: &Event) {
    match event {
        Event::StageStarted(event) => on_stage_started(stage, event),
        Event::StageMeasured(event) => on_stage_measured(stage, event),
        Event::ChunkStarted(event) => on_chunk_started(stage, event),
        Event::MetricsLogged(event) => on_metrics_logged(stage, event),
        Event::CheckpointWritten(event) => on_checkpoint_written(stage, event),
        Event::CheckpointJudged(event) => stage
            .lineage
            .judge(&event.checkpoint, event.rejected.as_ref()),
        Event::HeldOutScored(event) => {
            if let Some(chunk) = stage.current(event.chunk, event.attempt) {
                chunk.held_out = Some(event.clone());
            }
        }
        Event::PictureScored(event) => {
            if let Some(chunk) = stage.current(event.chunk, event.attempt) {
                chunk.picture = Some(event.clone());
            }
        }
        Event::ChunkFinished(event) => on_chunk_finished(stage, event),
        Event::ChunkFailed(event) => on_chunk_failed(stage, event),
        // The process that was training has ended.
        Event::ProcessStarted(_) => {
            if stage.phase == Phase::Training {
                stage.phase = Phase::Rewinding;
            }
        }
        Event::SamplesSuperseded(event) => on_samples_superseded(stage, event),
        Event::GateDecided(event) => on_gate_decided(stage, event),
        Event::PatchApplied(event) => on_patch_applied(stage, &event.patch),
        Event::PatchDeferred(event) => on_patch_deferred(stage, &event.patch),
        Event::FailureDecided(event) => on_failure_decided(run, stage, event),
        Event::StageReopened(event) => on_stage_reopened(stage, event),
        Event::CheckpointDeleted(event) => on_checkpoint_deleted(run, stage, event),
        Event::CheckpointGivenUp(event) => on_checkpoint_given_up(stage, event),
        Event::StagePassed(event) => on_stage_passed(stage, event),
        Event::StageStopped(event) => on_stage_stopped(stage, event),
        Event::SettingChanged(event) => on_setting_changed(stage, &event.key, event.to),
        Event::FallbackGranted(event) => {
            let raised = stage
                .settings
                .gradient_accumulation_steps
                .saturating_mul(event.accumulation_factor.max(1));
            stage.settings.gradient_accumulation_steps = raised;
            stage.effective_batch = stage
                .effective_batch
                .saturating_mul(u64::from(event.accumulation_factor.max(1)));
        }
        Event::RunCreated(_)
        | Event::RunInterrupted(_)
        | Event::StoreRepaired(_)
        | Event::PruneRequested(_)
        | Event::RunFinished(_)
        | Event::RunStopped(_) => {}
    }
}

fn recording(gate_step: Step, next: Next) -> Phase {
    Phase::Recording {
        patches: Vec::new(),
        deferred: None,
        gate_step,
        next,
    }
}

fn on_stage_started(stage: &mut StageState, event: &StageStarted) {
    if stage.phase != Phase::Pending {
        return;
    }
    stage.settings = event.settings.clone();
    stage.upstream = event.upstream.clone();
    if let Some(given) = &event.resume_from {
        stage.lineage.give(given);
    }
    stage.phase = Phase::Measuring;
}

fn on_stage_measured(stage: &mut StageState, event: &StageMeasured) {
    if stage.phase == Phase::Measuring {
        stage.trivial = event.trivial.clone();
        stage.predictor = event.predictor.clone();
        let resume_from = stage.lineage.newest_reference();
        stage.phase = recording(Step::FIRST, Next::StartChunk { resume_from });
    }
}

fn on_metrics_logged(stage: &mut StageState, event: &MetricsLogged) {
    for column in &event.columns {
        if gate::keeps_samples(&stage.policy, &column.name)
            && let Some(chunk) = stage.current(event.chunk, event.attempt)
        {
            chunk.add(column);
        }
    }
}

fn on_checkpoint_deleted(run: FoldContext, stage: &mut StageState, event: &CheckpointDeleted) {
    if run.pruning || matches!(stage.phase, Phase::Recording { .. }) {
        stage.lineage.delete(&event.checkpoint);
    }
}

fn on_stage_passed(stage: &mut StageState, event: &StagePassed) {
    if matches!(stage.phase, Phase::Recording { .. }) {
        stage.chunk = None;
        stage.phase = Phase::Passed {
            checkpoint: event.checkpoint.clone(),
        };
    }
}

fn on_stage_stopped(stage: &mut StageState, event: &StageStopped) {
    let stops = matches!(
        stage.phase,
        Phase::Stopping { .. } | Phase::Recording { .. }
    );
    if stops {
        stage.phase = Phase::Stopped {
            reason: event.reason.clone(),
            step: event.step,
        };
    }
}

fn on_chunk_started(stage: &mut StageState, event: &ChunkStarted) {
    if !matches!(stage.phase, Phase::Recording { .. }) {
        return;
    }
    let previous = previous_of(stage, event.resume_from.as_ref());
    let before = stage.chunk.take();
    stage
        .lineage
        .start_chunk(event.chunk, event.resume_from.as_ref());
    stage.last_chunk = stage.last_chunk.max(Some(event.chunk));
    stage.restart = event.restart;
    stage.settings = event.settings.clone();
    let taken = stage.lineage.taken_after(event.resume_from.as_ref());
    stage.chunk = Some(ChunkState::begin(event, previous, taken, before));
    stage.phase = Phase::Training;
}

/// The gate of the chunk that wrote the checkpoint from which this chunk starts, whether it
/// wrote it at its end or before.
fn previous_of(stage: &StageState, resume_from: Option<&CheckpointRef>) -> Previous {
    if stage.trend_reset {
        return Previous::None;
    }
    let chunk = resume_from
        .and_then(|reference| stage.lineage.find(reference))
        .and_then(|checkpoint| checkpoint.chunk);
    let gate = chunk.and_then(|chunk| stage.gates.iter().rfind(|gate| gate.chunk == chunk));
    gate.map_or(Previous::None, |gate| Previous::GateLoss(gate.gate_loss))
}

fn on_checkpoint_written(stage: &mut StageState, event: &CheckpointWritten) {
    let step = event.checkpoint.step;
    let inside = stage
        .chunk
        .as_ref()
        .is_some_and(|chunk| chunk.from < step && step <= chunk.to);
    if stage.is_current(event.chunk, event.attempt) && inside {
        stage.lineage.write(event);
    }
}

/// Rejects the checkpoint. If the stage was about to start a chunk from it or to pass with it, it
/// starts a chunk from the newest remaining one instead. The next process rewinds a chunk in training.
fn on_checkpoint_given_up(stage: &mut StageState, event: &CheckpointGivenUp) {
    if !stage.lineage.give_up(event) {
        return;
    }
    let newest = stage.lineage.newest_reference();
    if let Phase::Recording { next, .. } = &mut stage.phase {
        let lost = match next {
            Next::StartChunk { resume_from } => resume_from.as_ref() == Some(&event.checkpoint),
            Next::HandOn { checkpoint } => *checkpoint == event.checkpoint,
            Next::RunAgain => false,
        };
        if lost {
            *next = Next::StartChunk {
                resume_from: newest,
            };
        }
    }
}

fn on_chunk_finished(stage: &mut StageState, event: &ChunkFinished) {
    let at_end = stage
        .chunk
        .as_ref()
        .is_some_and(|chunk| chunk.to == event.step);
    if stage.is_current(event.chunk, event.attempt) && at_end {
        stage.chunk_failures = 0;
        stage.phase = Phase::Gating;
    }
}

fn on_chunk_failed(stage: &mut StageState, event: &ChunkFailed) {
    if stage.is_current(event.chunk, event.attempt) {
        let cause = match &event.failure {
            ChunkFailure::OutOfMemory { .. } => FailureCause::OutOfMemory,
            ChunkFailure::WorkerExited { .. } => FailureCause::WorkerExited,
            ChunkFailure::WorkerTimedOut { .. } => FailureCause::WorkerTimedOut,
            ChunkFailure::NoProgress { .. } => FailureCause::NoProgress,
            ChunkFailure::CheckpointUnloadable { .. } => FailureCause::CheckpointUnloadable,
        };
        stage.phase = Phase::Failed {
            cause,
            step: event.step,
        };
    }
}

/// The rest of the chunk uses the current settings, since a person may have changed some
/// while no process was running.
fn on_samples_superseded(stage: &mut StageState, event: &SamplesSuperseded) {
    if stage.phase != Phase::Rewinding {
        return;
    }
    let resume_from = event.resume_from.as_ref();
    let start = resume_from.map_or(Step::FIRST, |checkpoint| checkpoint.step);
    let Some(mut chunk) = stage.chunk.take_if(|chunk| chunk.from <= start) else {
        return;
    };
    stage.lineage.rewind_chunk(chunk.number, resume_from);
    chunk.settings = stage.settings.clone();
    chunk.supersede(
        event.resume_from.clone(),
        stage.lineage.taken_after(resume_from),
    );
    stage.chunk = Some(chunk);
    stage.phase = Phase::Training;
}

fn on_gate_decided(stage: &mut StageState, event: &GateDecided) {
    let stops = event.decision == Action::Stop;
    let expected = match &stage.phase {
        Phase::Gating => true,
        Phase::Ending { .. } => stops,
        Phase::Recording { next, .. } => {
            *next == Next::RunAgain && (stops || event.decision == Action::RestartStage)
        }
        Phase::Pending
        | Phase::Measuring
        | Phase::Training
        | Phase::Rewinding
        | Phase::Failed { .. }
        | Phase::Stopping { .. }
        | Phase::Stopped { .. }
        | Phase::Reopening { .. }
        | Phase::Passed { .. } => false,
    };
    if !expected {
        return;
    }
    note_gate(stage, event);
    stage.failures = event.failures;
    stage.cursor = event.cursor;
    match event.decision {
        Action::Continue => {
            stage.trend_reset = false;
            stage.chunk = None;
            let done = stage.settings.n_updates <= event.gate_step.get();
            let next = match &event.resume_from {
                Some(checkpoint) if done => Next::HandOn {
                    checkpoint: checkpoint.clone(),
                },
                resume_from => Next::StartChunk {
                    resume_from: resume_from.clone(),
                },
            };
            stage.phase = recording(event.gate_step, next);
        }
        Action::Retune | Action::RestartStage => retry_after(
            stage,
            event.gate_step,
            &event.config_patch_applied,
            event.deferred.as_ref(),
            event.restart.as_ref(),
            event.resume_from.as_ref(),
        ),
        // The chunk is kept, so that a reopened stage can do what was due.
        Action::Stop => {
            if let Some(chunk) = &mut stage.chunk {
                chunk.forget_resumes();
            }
            stage.phase = Phase::Stopping {
                reason: event.stop.clone().unwrap_or(StopReason::NoRungApplies),
                step: event.gate_step,
            };
        }
    }
}

/// Records a gate's result, also on its checkpoint. A decision without criteria is about a
/// failed chunk, not a gate, so it does not concern a checkpoint.
fn note_gate(stage: &mut StageState, event: &GateDecided) {
    let failed: Vec<CriterionResult> = event
        .criteria
        .iter()
        .filter(|result| result.verdict == Verdict::Fail)
        .cloned()
        .collect();
    let gate_loss = Metric::find(&event.metrics, metric::GATE_LOSS);
    if !event.criteria.is_empty() {
        stage.visual_streak = stage.streak_with(&event.criteria);
        let noted = stage
            .chunk
            .as_ref()
            .map(|chunk| stage.checkpoint_gate(chunk, gate_loss, failed.is_empty()));
        stage.lineage.note_gate(event.gate_step, noted);
    }
    stage.gates.push(GateSummary {
        chunk: event.chunk,
        step: event.gate_step,
        decision: event.decision,
        gate_loss,
        failed,
    });
}

fn retry_after(
    stage: &mut StageState,
    gate_step: Step,
    patches: &[SettingPatch],
    deferred: Option<&SettingPatch>,
    restart: Option<&RestartReason>,
    resume_from: Option<&CheckpointRef>,
) {
    stage.trend_reset = restart.is_some();
    if let Some(restart) = restart {
        stage.restart = restart.restart;
        stage.visual_streak = 0;
        stage.lineage.abandon(&restart.abandoned);
    }
    stage.chunk = None;
    stage.phase = Phase::Recording {
        patches: patches.to_vec(),
        deferred: deferred.cloned(),
        gate_step,
        next: Next::StartChunk {
            resume_from: resume_from.cloned(),
        },
    };
}

fn on_patch_applied(stage: &mut StageState, patch: &SettingPatch) {
    let Phase::Recording { patches, .. } = &mut stage.phase else {
        return;
    };
    if !patches.is_empty() {
        patches.remove(0);
    }
    let target = stage.settings.n_updates;
    ladder::set(&mut stage.settings, &patch.key, patch.to);
    if patch.why != PatchReason::OutOfMemory {
        note_batch(stage, &patch.key);
    }
    if target < stage.settings.n_updates {
        stage.extensions = stage.extensions.saturating_add(1);
    }
    // A rung also extends the curve; after a failed final gate the rate stays at its end value.
    if patch.key == SettingKey::NUpdates && matches!(patch.why, PatchReason::Rung(_)) {
        stage.settings.schedule_updates = stage.settings.n_updates;
    }
}

fn note_batch(stage: &mut StageState, key: &SettingKey) {
    let of_batch = [
        SettingKey::BatchSizePerGpu,
        SettingKey::GradientAccumulationSteps,
    ];
    if of_batch.contains(key) {
        stage.effective_batch = effective_batch(&stage.settings);
    }
}

fn on_patch_deferred(stage: &mut StageState, patch: &SettingPatch) {
    if let Phase::Recording { deferred, .. } = &mut stage.phase {
        *deferred = None;
        stage.deferred = Some(patch.clone());
    }
}

fn on_failure_decided(run: FoldContext, stage: &mut StageState, event: &FailureDecided) {
    let failed_at = if let Phase::Failed { step, .. } = stage.phase {
        Some(step)
    } else {
        (stage.phase == Phase::Rewinding).then(|| stage.step())
    };
    let Some(step) = failed_at else {
        return;
    };
    stage.phase = match event.answer {
        FailureAnswer::RunAgain => Phase::Recording {
            patches: event.patches.clone(),
            deferred: None,
            gate_step: step,
            next: Next::RunAgain,
        },
        FailureAnswer::Stop => Phase::Ending {
            reason: stop_reason(stage, event, run.max_chunk_failures),
            step,
        },
    };
    stage.failures = event.failures;
    stage.chunk_failures = event.chunk_failures;
    if let Some(chunk) = &mut stage.chunk {
        chunk.failed = Some(event.cause);
    }
}

fn on_stage_reopened(stage: &mut StageState, event: &StageReopened) {
    if !matches!(stage.phase, Phase::Reopening { .. }) {
        return;
    }
    stage.cursor = event.cursor;
    stage.chunk_failures = 0;
    let failed = stage.chunk.as_ref().and_then(|chunk| chunk.failed);
    if failed.is_some() && event.restart.is_none() {
        stage.phase = Phase::Recording {
            patches: event.config_patch_applied.clone(),
            deferred: event.deferred.clone(),
            gate_step: event.gate_step,
            next: Next::RunAgain,
        };
        return;
    }
    retry_after(
        stage,
        event.gate_step,
        &event.config_patch_applied,
        event.deferred.as_ref(),
        event.restart.as_ref(),
        event.resume_from.as_ref(),
    );
}

fn on_setting_changed(stage: &mut StageState, key: &SettingKey, to: SettingValue) {
    if let (SettingKey::MaxRetries, SettingValue::Count(count)) = (key, to) {
        let Ok(count) = u32::try_from(count) else {
            return;
        };
        if let (true, Phase::Stopped { step, .. }) = (stage.max_retries < count, &stage.phase) {
            stage.phase = Phase::Reopening { step: *step };
        }
        stage.max_retries = count;
        return;
    }
    ladder::set(&mut stage.settings, key, to);
    note_batch(stage, key);
    if *key == SettingKey::NUpdates && ladder::value_of(&stage.settings, key) == Some(to) {
        stage.settings.schedule_updates = stage.settings.n_updates;
    }
}
