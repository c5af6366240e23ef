//! What is recorded after a decision: patches, deletions, then a chunk or the end of the stage.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::answer;
use super::context::RunPolicy;
use super::state::{Next, Phase, StageState};
use crate::gate;
use crate::lineage::{Checkpoint, Retention};
use tinygate_events::{
    Attempt, CheckpointDeleted, CheckpointRef, ChunkNumber, ChunkStarted, Event, PatchApplied,
    PatchDeferred, SettingPatch, StagePassed, StageStopped, Step, StopReason,
};

/// The next event in the phase `Recording`.
pub fn next_record(
    run: RunPolicy<'_>,
    stage: &StageState,
    patch: Option<&SettingPatch>,
    deferred: Option<&SettingPatch>,
    gate_step: Step,
    next: &Next,
) -> Event {
    let name = stage.name().clone();
    if let Some(patch) = patch {
        return Event::PatchApplied(PatchApplied {
            stage: name,
            gate_step,
            patch: patch.clone(),
        });
    }
    if let Some(patch) = deferred {
        return Event::PatchDeferred(PatchDeferred {
            stage: name,
            gate_step,
            patch: patch.clone(),
        });
    }
    if let (Next::RunAgain, Some(chunk)) = (next, &stage.chunk)
        && stage.is_start_lost(chunk)
    {
        return Event::GateDecided(Box::new(answer::restart_without_gate(
            run, stage, chunk, gate_step,
        )));
    }
    if let Some(checkpoint) = expendable(run.policy.keep_last, stage, Some(next), true) {
        return Event::CheckpointDeleted(CheckpointDeleted {
            stage: name,
            checkpoint: checkpoint.reference.clone(),
        });
    }
    match next {
        Next::StartChunk { resume_from } => start_chunk(stage, resume_from.as_ref()),
        Next::RunAgain => run_again(stage),
        Next::HandOn { checkpoint } => Event::StagePassed(StagePassed {
            stage: name,
            checkpoint: checkpoint.clone(),
        }),
    }
}

/// The next checkpoint that retention may delete, given what comes next.
fn expendable<'a>(
    keep_last: u32,
    stage: &'a StageState,
    next: Option<&'a Next>,
    unjudged: bool,
) -> Option<&'a Checkpoint> {
    let needed = match next {
        Some(Next::StartChunk { resume_from }) => resume_from.as_ref(),
        Some(Next::RunAgain) | None => {
            let newest = stage.lineage.newest_accepted();
            newest.map(|checkpoint| &checkpoint.reference)
        }
        Some(Next::HandOn { checkpoint }) => Some(checkpoint),
    };
    stage.lineage.expendable(Retention {
        keep_last,
        needed,
        unjudged,
    })
}

/// The next checkpoint to delete when a person asks to free disk space, in any phase. Checkpoints
/// that were not judged yet are kept.
pub fn prunable(keep_last: u32, stage: &StageState) -> Option<&Checkpoint> {
    let next = match &stage.phase {
        Phase::Recording { next, .. } => Some(next),
        Phase::Pending
        | Phase::Measuring
        | Phase::Training
        | Phase::Rewinding
        | Phase::Gating
        | Phase::Failed { .. }
        | Phase::Ending { .. }
        | Phase::Stopping { .. }
        | Phase::Stopped { .. }
        | Phase::Reopening { .. }
        | Phase::Passed { .. } => None,
    };
    expendable(keep_last, stage, next, false)
}

fn start_chunk(stage: &StageState, resume_from: Option<&CheckpointRef>) -> Event {
    let from = resume_from.map_or(Step::FIRST, |checkpoint| checkpoint.step);
    let to = next_gate(stage, from.get());
    let chunk = stage
        .last_chunk
        .map_or(Some(ChunkNumber::FIRST), ChunkNumber::next);
    let Some(chunk) = chunk.filter(|_| from.get() < to) else {
        return exhausted(stage, from);
    };
    Event::ChunkStarted(ChunkStarted {
        stage: stage.name().clone(),
        chunk,
        attempt: Attempt::FIRST,
        restart: stage.restart,
        from,
        to: Step::new(to),
        samples_seen: samples_seen(stage, resume_from),
        resume_from: resume_from.cloned(),
        settings: stage.settings.clone(),
    })
}

/// The step of the next gate: one chunk further, but at most the target. Neither this chunk
/// nor the one after it may be too short for its gate to pass. Past the target, for example
/// because a person lowered it, the gate is always one chunk further.
fn next_gate(stage: &StageState, from: u64) -> u64 {
    let target = stage.settings.n_updates;
    let least = gate::updates_min(&stage.policy.criteria);
    let grid = from.saturating_add(stage.settings.chunk_size.max(least));
    if target <= from || grid.saturating_add(least) <= target {
        return grid;
    }
    target.max(from.saturating_add(least))
}

fn run_again(stage: &StageState) -> Event {
    let Some(chunk) = &stage.chunk else {
        return exhausted(stage, stage.step());
    };
    let resume_from = stage.lineage.newest_reference();
    let start = stage.lineage.newest_step();
    if start < chunk.from {
        // The checkpoint from which the chunk started is gone, so its range cannot be trained again.
        return start_chunk(stage, resume_from.as_ref());
    }
    let Some(attempt) = chunk.attempt.next() else {
        return exhausted(stage, start);
    };
    Event::ChunkStarted(ChunkStarted {
        stage: stage.name().clone(),
        chunk: chunk.number,
        attempt,
        restart: stage.restart,
        from: chunk.from,
        to: chunk.to,
        samples_seen: samples_seen(stage, resume_from.as_ref()),
        resume_from,
        settings: stage.settings.clone(),
    })
}

fn exhausted(stage: &StageState, step: Step) -> Event {
    Event::StageStopped(StageStopped {
        stage: stage.name().clone(),
        step,
        reason: StopReason::CountersExhausted,
        blocking: Vec::new(),
        best: stage.best_reference(),
    })
}

fn samples_seen(stage: &StageState, resume_from: Option<&CheckpointRef>) -> u64 {
    resume_from
        .and_then(|reference| stage.lineage.find(reference))
        .map_or(0, |checkpoint| checkpoint.samples_seen)
}
