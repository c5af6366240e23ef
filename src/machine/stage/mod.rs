//! A stage: from its start through chunks and gates until it has passed or stopped.
//!
//! ```text
//! phase       awaits or records                        next phase
//! ----------  ---------------------------------------  -----------------------------
//! pending     records stage_started                    measuring
//! measuring   awaits  stage_measured                   recording
//! recording   records patch_applied, patch_deferred,   recording, until none is left
//!                     checkpoint_deleted
//!             records chunk_started                    training
//!             records gate_decided (no start is left)  recording, stopping
//!             records stage_passed                     passed
//!             records stage_stopped (counters at end)  stopped
//! training    awaits  metrics_logged, held_out_scored, training
//!                     picture_scored, checkpoint_*
//!             awaits  chunk_finished                   gating
//!             awaits  chunk_failed                     failed
//!             sees    process_started (a crash)        rewinding
//! rewinding   awaits  checkpoint_judged                rewinding
//!             records samples_superseded               training
//!             records failure_decided (too often, or   recording, ending
//!                     the start is gone)
//! gating      awaits  checkpoint_judged                gating
//!             records gate_decided                     recording, stopping
//! failed      awaits  checkpoint_judged                failed
//!             records failure_decided                  recording, ending
//! ending      records gate_decided (stop)              stopping
//! stopping    records stage_stopped                    stopped
//! stopped     sees    setting_changed (max_retries)    reopening
//! reopening   records stage_reopened                   recording
//! passed      nothing
//! ```
//!
//! recording   sees    checkpoint_given_up              recording, from an older one
//!
//! Every other event leaves the phase unchanged: a fact about another chunk or attempt is
//! late, repeated or superseded. [`TRANSITIONS`] is the same table as data; a test checks
//! [`evolve`] against it.

mod answer;
mod context;
mod evolve;
mod failure;
mod next;
mod retry;
mod start;
mod state;

use alloc::boxed::Box;
use alloc::vec::Vec;

pub use context::{FoldContext, RunPolicy};
pub use evolve::evolve;
pub(super) use next::prunable;
pub use state::{GateSummary, Next, Phase, PhaseKind, StageState};

use super::chunk::ChunkState;
use super::command::{
    Command, Decision, JudgeCheckpoint, MeasureStage, ResumePoint, TrainChunk, UpstreamModel,
};
use tinygate_events::{
    Attempt, ChunkNumber, Event, FailureCause, Policy, SamplesSuperseded, StageStopped, Step,
    Upstream,
};

/// Every pair of phase and event that can change the phase, with the phases that can
/// follow. Any other pair leaves the phase unchanged.
pub const TRANSITIONS: &[(PhaseKind, &str, &[PhaseKind])] = {
    use PhaseKind::*;
    &[
        (Pending, "stage_started", &[Measuring]),
        (Measuring, "stage_measured", &[Recording]),
        (Recording, "patch_applied", &[Recording]),
        (Recording, "patch_deferred", &[Recording]),
        (Recording, "checkpoint_deleted", &[Recording]),
        (Recording, "checkpoint_given_up", &[Recording]),
        (Recording, "chunk_started", &[Training]),
        (Recording, "gate_decided", &[Recording, Stopping]),
        (Recording, "stage_passed", &[Passed]),
        (Recording, "stage_stopped", &[Stopped]),
        (Training, "chunk_finished", &[Gating]),
        (Training, "chunk_failed", &[Failed]),
        (Training, "process_started", &[Rewinding]),
        (Rewinding, "samples_superseded", &[Training]),
        (Rewinding, "failure_decided", &[Recording, Ending]),
        (Gating, "gate_decided", &[Recording, Stopping]),
        (Failed, "failure_decided", &[Recording, Ending]),
        (Ending, "gate_decided", &[Stopping]),
        (Stopping, "stage_stopped", &[Stopped]),
        (Stopped, "setting_changed", &[Stopped, Reopening]),
        (Reopening, "stage_reopened", &[Recording]),
    ]
};

/// What to do next. `None`: nothing, since the stage has not started or has ended.
pub fn decide(run: RunPolicy<'_>, stage: &StageState) -> Option<Decision> {
    let name = stage.name().clone();
    match &stage.phase {
        // The run starts a stage, since it knows the stages before.
        Phase::Pending | Phase::Passed { .. } | Phase::Stopped { .. } => None,
        Phase::Measuring => Some(Decision::Act(Command::MeasureStage(MeasureStage {
            stage: name,
            model: stage.policy.model.clone(),
            settings: stage.settings.clone(),
            upstream: upstream(stage),
        }))),
        Phase::Recording {
            patches,
            deferred,
            gate_step,
            next,
        } => {
            let event = next::next_record(
                run,
                stage,
                patches.first(),
                deferred.as_ref(),
                *gate_step,
                next,
            );
            Some(record(event))
        }
        Phase::Training => stage.chunk.as_ref().map(|chunk| train(stage, chunk)),
        Phase::Rewinding => Some(judge_first(stage).unwrap_or_else(|| {
            let often = run.policy.max_interruptions.max(1) <= run.interruptions;
            match &stage.chunk {
                // The process ended before it could report this.
                Some(chunk) if stage.lineage.newest_step() < chunk.from => {
                    fail(run.policy, stage, chunk, FailureCause::CheckpointUnloadable)
                }
                Some(chunk) if often => fail(run.policy, stage, chunk, FailureCause::Interrupted),
                Some(_) | None => rewind(stage),
            }
        })),
        Phase::Gating => {
            let chunk = stage.chunk.as_ref()?;
            Some(judge_first(stage).unwrap_or_else(|| {
                record(Event::GateDecided(Box::new(answer::decide_gate(
                    run, stage, chunk,
                ))))
            }))
        }
        Phase::Failed { cause, .. } => {
            let chunk = stage.chunk.as_ref()?;
            Some(judge_first(stage).unwrap_or_else(|| fail(run.policy, stage, chunk, *cause)))
        }
        Phase::Ending { reason, step } => {
            let chunk = stage.chunk.as_ref()?;
            let decided = answer::stop_without_gate(stage, chunk, *step, reason);
            Some(record(Event::GateDecided(Box::new(decided))))
        }
        Phase::Stopping { reason, step } => Some(record(Event::StageStopped(StageStopped {
            stage: name,
            step: *step,
            reason: reason.clone(),
            blocking: answer::blocking(stage, reason),
            best: stage.best_reference(),
        }))),
        Phase::Reopening { step } => Some(record(Event::StageReopened(answer::reopen(
            run, stage, *step,
        )))),
    }
}

fn record(event: Event) -> Decision {
    Decision::Record(Box::new(event))
}

fn train(stage: &StageState, chunk: &ChunkState) -> Decision {
    let resume = chunk.resume_from.as_ref().map(|reference| {
        let known = stage.lineage.find(reference);
        ResumePoint {
            checkpoint: reference.clone(),
            samples_seen: known.map_or(0, |checkpoint| checkpoint.samples_seen),
            files: known
                .map(|checkpoint| checkpoint.files.clone())
                .unwrap_or_default(),
            // Set by the run, which knows the checkpoints given by the user.
            fresh_optimizer: false,
        }
    });
    Decision::Act(Command::TrainChunk(Box::new(TrainChunk {
        stage: stage.name().clone(),
        model: stage.policy.model.clone(),
        chunk: chunk.number,
        attempt: chunk.attempt,
        restart: chunk.restart,
        from: chunk.from,
        to: chunk.to,
        settings: chunk.settings.clone(),
        resume,
        upstream: upstream(stage),
        taken: chunk.taken.clone(),
    })))
}

/// The models that a stage builds on. The run, which knows their files, adds them.
fn upstream(stage: &StageState) -> Vec<UpstreamModel> {
    let model = |upstream: &Upstream| UpstreamModel {
        stage: upstream.stage.clone(),
        checkpoint: upstream.checkpoint.clone(),
        files: Vec::new(),
    };
    stage.upstream.iter().map(model).collect()
}

fn fail(policy: &Policy, stage: &StageState, chunk: &ChunkState, cause: FailureCause) -> Decision {
    record(Event::FailureDecided(failure::decide_failure(
        policy, stage, chunk, cause,
    )))
}

/// The command to judge the first checkpoint that was not judged yet, if any.
fn judge_first(stage: &StageState) -> Option<Decision> {
    let waiting = stage.lineage.unjudged()?;
    Some(Decision::Act(Command::JudgeCheckpoint(JudgeCheckpoint {
        stage: stage.name().clone(),
        checkpoint: waiting.reference.clone(),
        files: waiting.files.clone(),
    })))
}

/// Resumes the chunk from the newest accepted checkpoint.
fn rewind(stage: &StageState) -> Decision {
    let (chunk, attempt) = stage
        .chunk
        .as_ref()
        .map_or((ChunkNumber::FIRST, Attempt::FIRST), |chunk| {
            (chunk.number, chunk.attempt)
        });
    let resume_from = stage.lineage.newest_reference();
    record(Event::SamplesSuperseded(SamplesSuperseded {
        stage: stage.name().clone(),
        chunk,
        attempt,
        after: resume_from
            .as_ref()
            .map_or(Step::FIRST, |checkpoint| checkpoint.step),
        resume_from,
    }))
}
