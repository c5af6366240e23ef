//! One stage: from its start through chunks and gates to passed or stopped.
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
//! Every other event leaves the phase as it is: a fact of another chunk or
//! attempt is late, doubled or void, and changes nothing. [`TRANSITIONS`] is the
//! same table as data; a test holds [`evolve`] to it.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use super::chunk::{ChunkState, Previous};
use super::command::{
    Command, Decision, JudgeCheckpoint, MeasureStage, ResumePoint, TrainChunk, UpstreamModel,
};
use super::gate::{self, Evaluation, GateInputs};
use super::ladder::{self, Climb, Situation};
use super::lineage::{Checkpoint, CheckpointGate, Lineage, Retention};
use super::rules::Edition;
use tinygate_events::{
    Action, Attempt, Blocking, CheckpointDeleted, CheckpointGivenUp, CheckpointRef,
    CheckpointWritten, ChunkFailed, ChunkFailure, ChunkFinished, ChunkNumber, ChunkStarted,
    Criterion, CriterionResult, CriterionTest, EffectiveBatch, Event, FailureAnswer, FailureCause,
    FailureDecided, GateDecided, InUse, Metric, MetricsLogged, PatchApplied, PatchDeferred,
    PatchReason, Policy, Restart, RestartCause, RestartReason, RetryFrom, SamplesSuperseded,
    Scalar, SettingKey, SettingPatch, SettingValue, Settings, StageMeasured, StageName,
    StagePassed, StagePolicy, StageReopened, StageStarted, StageStopped, Step, StopReason,
    Upstream, Verdict, metric,
};

/// Everything known of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageState {
    pub policy: StagePolicy,
    pub phase: Phase,
    /// The settings in force: as configured, then patched.
    pub settings: Settings,
    /// Windows per update that were asked for: as configured, then as rungs, people
    /// and a grant changed them; lack of memory does not.
    pub effective_batch: u64,
    pub max_retries: u32,
    pub failures: u32,
    /// Place on the ladder, counted from 0.
    pub cursor: u32,
    /// Chunks that failed in a row without a gate.
    pub chunk_failures: u32,
    /// How often the target was extended.
    pub extensions: u32,
    pub restart: Restart,
    pub last_chunk: Option<ChunkNumber>,
    /// Failing `visual_structure` gates in a row.
    pub visual_streak: u32,
    /// The next gate after a restart has no previous one.
    pub trend_reset: bool,
    pub deferred: Option<SettingPatch>,
    pub trivial: Vec<Metric>,
    pub predictor: String,
    pub upstream: Vec<Upstream>,
    pub lineage: Lineage,
    pub gates: Vec<GateSummary>,
    pub chunk: Option<ChunkState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Measuring,
    /// Patches are recorded one by one, then retention, then what is next.
    Recording {
        patches: Vec<SettingPatch>,
        deferred: Option<SettingPatch>,
        gate_step: Step,
        next: Next,
    },
    Training,
    Rewinding,
    Gating,
    Failed {
        cause: FailureCause,
        step: Step,
    },
    /// A failed chunk ends the stage: the stop is put into words as a gate's decision.
    Ending {
        reason: StopReason,
        step: Step,
    },
    Stopping {
        reason: StopReason,
        step: Step,
    },
    Stopped {
        reason: StopReason,
        step: Step,
    },
    Reopening {
        step: Step,
    },
    Passed {
        checkpoint: CheckpointRef,
    },
}

/// What follows the recording of patches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    StartChunk {
        resume_from: Option<CheckpointRef>,
    },
    /// The same range again, with the next attempt.
    RunAgain,
    HandOn {
        checkpoint: CheckpointRef,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateSummary {
    pub chunk: ChunkNumber,
    pub step: Step,
    pub decision: Action,
    pub gate_loss: Option<Scalar>,
    pub failed: Vec<CriterionResult>,
}

/// Policy of the whole run that a stage is decided by.
#[derive(Clone, Copy, Debug)]
pub struct RunPolicy<'a> {
    pub policy: &'a Policy,
    /// Interruptions of the present chunk without a new checkpoint.
    pub interruptions: u32,
    /// A stage of the run has deferred fewer actions.
    pub deferred: bool,
    /// Retention deletes on a person's request.
    pub pruning: bool,
    pub edition: Edition,
}

impl StageState {
    pub fn new(policy: &StagePolicy, max_retries: u32) -> StageState {
        StageState {
            settings: policy.settings.clone(),
            policy: policy.clone(),
            phase: Phase::Pending,
            effective_batch: effective_batch(&policy.settings),
            max_retries,
            failures: 0,
            cursor: 0,
            chunk_failures: 0,
            extensions: 0,
            restart: Restart::FIRST,
            last_chunk: None,
            visual_streak: 0,
            trend_reset: false,
            deferred: None,
            trivial: Vec::new(),
            predictor: String::new(),
            upstream: Vec::new(),
            lineage: Lineage::new(policy.in_use.is_some()),
            gates: Vec::new(),
            chunk: None,
        }
    }

    pub fn name(&self) -> &StageName {
        &self.policy.name
    }

    fn best_reference(&self) -> Option<CheckpointRef> {
        Some(self.lineage.best()?.reference.clone())
    }

    /// What the gate of a chunk may see.
    pub fn gate_inputs<'a>(
        &'a self,
        chunk: &'a ChunkState,
        latest_window: u32,
        edition: Edition,
    ) -> GateInputs<'a> {
        let checkpoint = self.lineage.at_gate(chunk.to);
        GateInputs {
            chunk,
            target: Step::new(self.settings.n_updates),
            checkpoint: checkpoint.map(|checkpoint| &checkpoint.judgement),
            trivial: &self.trivial,
            predictor: &self.predictor,
            latest_window,
            edition,
        }
    }

    /// The checkpoint it handed on, once it has passed.
    pub fn passed(&self) -> Option<&CheckpointRef> {
        if let Phase::Passed { checkpoint } = &self.phase {
            Some(checkpoint)
        } else {
            None
        }
    }

    /// Updates done that the present weights stand for.
    pub fn step(&self) -> Step {
        match (&self.phase, &self.chunk) {
            (Phase::Passed { checkpoint }, _) => checkpoint.step,
            (_, Some(chunk)) => chunk
                .samples(&self.policy.loss)
                .last()
                .map_or(chunk.start().max(chunk.from), |(step, _)| *step),
            (_, None) => self.lineage.newest_step(),
        }
    }

    /// Is this fact about the chunk that is in training now?
    fn is_current(&self, chunk: ChunkNumber, attempt: Attempt) -> bool {
        self.phase == Phase::Training
            && self
                .chunk
                .as_ref()
                .is_some_and(|now| now.number == chunk && now.attempt == attempt)
    }

    /// The chunk in training, if it is this one.
    fn current(&mut self, chunk: ChunkNumber, attempt: Attempt) -> Option<&mut ChunkState> {
        if self.is_current(chunk, attempt) {
            self.chunk.as_mut()
        } else {
            None
        }
    }
}

/// A phase without what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PhaseKind {
    Pending,
    Measuring,
    Recording,
    Training,
    Rewinding,
    Gating,
    Failed,
    Ending,
    Stopping,
    Stopped,
    Reopening,
    Passed,
}

impl Phase {
    pub const fn kind(&self) -> PhaseKind {
        match self {
            Phase::Pending => PhaseKind::Pending,
            Phase::Measuring => PhaseKind::Measuring,
            Phase::Recording { .. } => PhaseKind::Recording,
            Phase::Training => PhaseKind::Training,
            Phase::Rewinding => PhaseKind::Rewinding,
            Phase::Gating => PhaseKind::Gating,
            Phase::Failed { .. } => PhaseKind::Failed,
            Phase::Ending { .. } => PhaseKind::Ending,
            Phase::Stopping { .. } => PhaseKind::Stopping,
            Phase::Stopped { .. } => PhaseKind::Stopped,
            Phase::Reopening { .. } => PhaseKind::Reopening,
            Phase::Passed { .. } => PhaseKind::Passed,
        }
    }
}

/// Every pair of phase and event that changes the phase, or may: the phases it
/// may lead to. A pair that is not here leaves the phase as it is.
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

// ---------------------------------------------------------------- decide

/// What the stage does next. `None`: it has ended.
pub fn decide(run: RunPolicy<'_>, stage: &StageState) -> Option<Decision> {
    let name = stage.name().clone();
    match &stage.phase {
        // The run starts a stage, since it knows what came before.
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
            let event = next_record(
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
                // Its process went away before it could say so.
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
                record(Event::GateDecided(Box::new(decide_gate(run, stage, chunk))))
            }))
        }
        Phase::Failed { cause, .. } => {
            let chunk = stage.chunk.as_ref()?;
            Some(judge_first(stage).unwrap_or_else(|| fail(run.policy, stage, chunk, *cause)))
        }
        Phase::Ending { reason, step } => {
            let chunk = stage.chunk.as_ref()?;
            let mut decided = without_gate(stage, chunk, *step);
            decided.stop = Some(reason.clone());
            Some(record(Event::GateDecided(Box::new(decided))))
        }
        Phase::Stopping { reason, step } => Some(record(Event::StageStopped(StageStopped {
            stage: name,
            step: *step,
            reason: reason.clone(),
            blocking: blocking(stage, reason),
            best: stage.best_reference(),
        }))),
        Phase::Reopening { step } => Some(record(Event::StageReopened(reopen(run, stage, *step)))),
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
            // What the user gave is known to the run, not to the stage.
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

/// The models a stage builds on. Their hashes are known to the run, not to the stage.
fn upstream(stage: &StageState) -> Vec<UpstreamModel> {
    let model = |upstream: &Upstream| UpstreamModel {
        stage: upstream.stage.clone(),
        checkpoint: upstream.checkpoint.clone(),
        files: Vec::new(),
    };
    stage.upstream.iter().map(model).collect()
}

fn fail(policy: &Policy, stage: &StageState, chunk: &ChunkState, cause: FailureCause) -> Decision {
    record(Event::FailureDecided(decide_failure(
        policy, stage, chunk, cause,
    )))
}

/// A checkpoint that is not judged yet: its writer went away, or was faster.
fn judge_first(stage: &StageState) -> Option<Decision> {
    let waiting = stage.lineage.unjudged()?;
    Some(Decision::Act(Command::JudgeCheckpoint(JudgeCheckpoint {
        stage: stage.name().clone(),
        checkpoint: waiting.reference.clone(),
        files: waiting.files.clone(),
    })))
}

/// Goes on from the newest accepted checkpoint.
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

fn next_record(
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
        && is_start_lost(stage, chunk)
    {
        return Event::GateDecided(Box::new(restart_without_gate(run, stage, chunk, gate_step)));
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

/// The next checkpoint that retention lets go, given what comes next.
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

/// The next checkpoint that may go when a person asks for disk space, whatever the phase.
/// One that waits for its verdict stays.
pub(super) fn prunable(keep_last: u32, stage: &StageState) -> Option<&Checkpoint> {
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

/// A chunk further, or at the target: no chunk is too short for its gate to pass, nor
/// leaves one that is. Past the target (a checkpoint given there, a target that a
/// person lowered) it is a whole chunk further.
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
        // The checkpoint the chunk began from is gone: its range cannot be had again.
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

/// No checkpoint of the lineage is accepted any more, and the chunk began from one.
fn is_start_lost(stage: &StageState, chunk: &ChunkState) -> bool {
    stage.lineage.newest_accepted().is_none() && Step::FIRST < chunk.from
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

fn evaluate(run: RunPolicy<'_>, stage: &StageState, chunk: &ChunkState) -> Evaluation {
    let inputs = stage.gate_inputs(chunk, run.policy.latest_window, run.edition);
    gate::evaluate(&stage.policy, &inputs)
}

/// Evaluates the gate and decides; precedence: stop, restart, rung.
fn decide_gate(run: RunPolicy<'_>, stage: &StageState, chunk: &ChunkState) -> GateDecided {
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
    let streak = visual_streak(stage, &evaluation.criteria);
    let start = start_after(run, stage, chunk, &evaluation, streak);
    let climb = climb(stage, situation(run, stage, chunk, &evaluation));
    let decided = undecided(stage, chunk, evaluation);
    fail_gate(stage, chunk, decided, start, climb)
}

/// No checkpoint is left to run a failed chunk again from: the stage begins anew,
/// by one more failure and one rung, put into a gate's words.
fn restart_without_gate(
    run: RunPolicy<'_>,
    stage: &StageState,
    chunk: &ChunkState,
    step: Step,
) -> GateDecided {
    let climb = climb(stage, situation_without_gate(run, stage));
    fail_gate(
        stage,
        chunk,
        without_gate(stage, chunk, step),
        Start::FRESH,
        climb,
    )
}

/// A failure more: a rung, and where it goes on from, or the stop.
fn fail_gate(
    stage: &StageState,
    chunk: &ChunkState,
    mut decided: GateDecided,
    start: Start<'_>,
    climb: Climb,
) -> GateDecided {
    let failures = stage.failures.saturating_add(1);
    decided.failures = failures;
    decided.resume_from = start
        .resume_from
        .map(|checkpoint| checkpoint.reference.clone());
    let retry = if stage.max_retries < failures {
        Err(StopReason::RetriesExceeded {
            failures,
            max_retries: stage.max_retries,
        })
    } else if climb.rung.is_none() {
        decided.skipped = climb.skipped;
        Err(StopReason::NoRungApplies)
    } else {
        retry(stage, chunk, start, climb, may_extend(stage))
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

/// A decision to continue; a failed gate changes it.
fn undecided(stage: &StageState, chunk: &ChunkState, evaluation: Evaluation) -> GateDecided {
    GateDecided {
        stage: stage.name().clone(),
        chunk: chunk.number,
        attempt: chunk.attempt,
        gate_step: chunk.to,
        decision: Action::Continue,
        metrics: evaluation.metrics,
        resume_from: stage.lineage.newest_reference(),
        config_patch_applied: Vec::new(),
        criteria: evaluation.criteria,
        findings: evaluation.findings,
        failures: stage.failures,
        cursor: stage.cursor,
        rung: None,
        skipped: Vec::new(),
        deferred: None,
        restart: None,
        stop: None,
    }
}

/// Where the chunk after a failed gate starts, and whether that is a restart.
#[derive(Clone, Copy)]
struct Start<'a> {
    cause: Option<RestartCause>,
    resume_from: Option<&'a Checkpoint>,
}

impl Start<'_> {
    const FRESH: Start<'static> = Start {
        cause: Some(RestartCause::NoAcceptedCheckpoint),
        resume_from: None,
    };
}

/// How a failed gate goes on.
struct Retry {
    climb: Climb,
    patches: Vec<SettingPatch>,
    restart: Option<RestartReason>,
}

impl Retry {
    fn action(&self) -> Action {
        if self.restart.is_some() {
            Action::RestartStage
        } else {
            Action::Retune
        }
    }
}

fn situation<'a>(
    run: RunPolicy<'_>,
    stage: &'a StageState,
    chunk: &ChunkState,
    evaluation: &Evaluation,
) -> Situation<'a> {
    Situation {
        loss_dropping: match chunk.previous {
            Previous::None => None,
            Previous::GateLoss(previous) => Some(match (evaluation.gate_loss, previous) {
                (Some(loss), Some(previous)) => loss.get() < previous.get(),
                (None, _) | (_, None) => false,
            }),
        },
        failed_metrics: failed_metrics(&stage.policy, &evaluation.criteria),
        ..situation_without_gate(run, stage)
    }
}

fn situation_without_gate<'a>(run: RunPolicy<'_>, stage: &'a StageState) -> Situation<'a> {
    Situation {
        loss_dropping: None,
        failed_metrics: Vec::new(),
        deferred_before: run.deferred,
        may_extend: may_extend(stage),
        chunk_size_min: gate::updates_min(&stage.policy.criteria),
    }
}

fn may_extend(stage: &StageState) -> bool {
    stage.extensions < stage.max_retries
}

fn climb(stage: &StageState, situation: Situation<'_>) -> Climb {
    let policy = &stage.policy;
    ladder::climb(policy, stage.cursor, &stage.settings, &situation)
}

/// Metrics that a criterion asked for in vain.
fn failed_metrics<'a>(policy: &'a StagePolicy, criteria: &[CriterionResult]) -> Vec<&'a str> {
    let failed = |(criterion, result): (&'a Criterion, &CriterionResult)| match &criterion.test {
        CriterionTest::MetricAtLeast { metric, .. } if result.verdict == Verdict::Fail => {
            Some(metric.as_str())
        }
        _ => None,
    };
    policy
        .criteria
        .iter()
        .zip(criteria)
        .filter_map(failed)
        .collect()
}

fn retry(
    stage: &StageState,
    chunk: &ChunkState,
    start: Start<'_>,
    climb: Climb,
    may_extend: bool,
) -> Result<Retry, StopReason> {
    let restart = match start.cause {
        None => None,
        Some(cause) => Some(RestartReason {
            cause,
            restart: stage.restart.next().ok_or(StopReason::CountersExhausted)?,
            abandoned: {
                let resume_from = start.resume_from.map(|checkpoint| &checkpoint.reference);
                stage.lineage.abandoned_by(chunk.number, resume_from)
            },
        }),
    };
    Ok(Retry {
        patches: with_extension(stage, start.resume_from, climb.patch.clone(), may_extend)?,
        climb,
        restart,
    })
}

/// `streak` counts the gates in a row, with this one, at which the structure was lost.
fn start_after<'a>(
    run: RunPolicy<'_>,
    stage: &'a StageState,
    chunk: &ChunkState,
    evaluation: &Evaluation,
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
        None => retry_point(run.policy.retry_from, stage, chunk, evaluation.gate_loss),
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

/// Failing `visual_structure` gates in a row, with this one.
fn visual_streak(stage: &StageState, criteria: &[CriterionResult]) -> u32 {
    if visual_failed(&stage.policy, criteria) {
        stage.visual_streak.saturating_add(1)
    } else {
        0
    }
}

fn visual_failed(policy: &StagePolicy, criteria: &[CriterionResult]) -> bool {
    policy.criteria.iter().any(|criterion| {
        matches!(criterion.test, CriterionTest::VisualStructure { .. })
            && criteria
                .iter()
                .any(|result| result.name == criterion.name && result.verdict == Verdict::Fail)
    })
}

/// Where a retry starts; each choice falls back to the newest accepted checkpoint.
/// The gate that just failed is not noted on its checkpoint yet, and counts.
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
            let gate = checkpoint_gate(stage, chunk, gate_loss, false);
            stage.lineage.best_present_with(chunk.to, gate)
        }
    };
    chosen.or_else(|| stage.lineage.newest_accepted())
}

/// What a gate says of its checkpoint.
fn checkpoint_gate(
    stage: &StageState,
    chunk: &ChunkState,
    gate_loss: Option<Scalar>,
    passed: bool,
) -> CheckpointGate {
    let in_use = |asked: &InUse| {
        let latest = chunk.samples(&asked.metric).last();
        latest.is_some_and(|(_, value)| asked.at_least.get() <= value.get())
    };
    CheckpointGate {
        gate_loss,
        passed,
        in_use: stage.policy.in_use.as_ref().is_none_or(in_use),
    }
}

/// A failed gate whose resume step is at or past the target extends it, so that
/// there is a next chunk. A rung that extends too, but not as far, goes as far.
fn with_extension(
    stage: &StageState,
    resume_from: Option<&Checkpoint>,
    rung: Option<SettingPatch>,
    may_extend: bool,
) -> Result<Vec<SettingPatch>, StopReason> {
    let resume_step = resume_from.map_or(0, |checkpoint| checkpoint.reference.step.get());
    let mut patches: Vec<SettingPatch> = rung.into_iter().collect();
    let mut patched = stage.settings.clone();
    for patch in &patches {
        ladder::set(&mut patched, &patch.key, patch.to);
    }
    if resume_step < patched.n_updates {
        return Ok(patches);
    }
    let chunk_size = stage.policy.settings.chunk_size.max(1);
    let to = SettingValue::Count(resume_step.saturating_add(chunk_size));
    let by_rung = patches
        .iter_mut()
        .find(|patch| patch.key == SettingKey::NUpdates);
    if let Some(patch) = by_rung {
        patch.to = to;
    } else if may_extend {
        patches.push(SettingPatch {
            key: SettingKey::NUpdates,
            from: SettingValue::Count(stage.settings.n_updates),
            to,
            why: PatchReason::Extension,
        });
    } else {
        return Err(StopReason::ExtensionsExceeded {
            extensions: stage.extensions,
            max_extensions: stage.max_retries,
        });
    }
    Ok(patches)
}

fn decide_failure(
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

/// Half the batch, and accumulation raised to make up for it. `None` at the floor.
fn halve_batch(stage: &StageState) -> Option<(Vec<SettingPatch>, EffectiveBatch)> {
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

fn effective_batch(settings: &Settings) -> u64 {
    u64::from(settings.batch_size_per_gpu) * u64::from(settings.gradient_accumulation_steps)
}

/// Why a failed chunk ends its stage.
fn stop_reason(
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

/// A failed chunk's decision, put into a gate's words: to stop, until it is changed.
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

/// What was due when the stage stopped. After a gate: its rung, and from where it
/// goes on; where no rung applies, it goes on without, and the target is extended as
/// often as it takes, since a person asked for it.
/// After a chunk that failed without a gate: that chunk again, or the restart where
/// nothing is left to run it from.
fn reopen(run: RunPolicy<'_>, stage: &StageState, step: Step) -> StageReopened {
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
    if is_start_lost(stage, chunk) {
        let climb = climb(stage, situation_without_gate(run, stage));
        if let Ok(retry) = retry(stage, chunk, Start::FRESH, climb, true) {
            take(&mut reopened, retry);
        }
        return reopened;
    }
    if let Some(cause) = chunk.failed {
        let halved = halve_batch(stage).filter(|_| cause == FailureCause::OutOfMemory);
        reopened.config_patch_applied = halved.map(|(patches, _)| patches).unwrap_or_default();
        return reopened;
    }
    let evaluation = evaluate(run, stage, chunk);
    let start = start_after(run, stage, chunk, &evaluation, stage.visual_streak);
    reopened.resume_from = start
        .resume_from
        .map(|checkpoint| checkpoint.reference.clone());
    let climb = climb(stage, situation(run, stage, chunk, &evaluation));
    if let Ok(retry) = retry(stage, chunk, start, climb, true) {
        take(&mut reopened, retry);
    }
    reopened
}

fn take(reopened: &mut StageReopened, retry: Retry) {
    reopened.decision = retry.action();
    reopened.config_patch_applied = retry.patches;
    reopened.cursor = retry.climb.cursor;
    reopened.rung = retry.climb.rung;
    reopened.skipped = retry.climb.skipped;
    reopened.deferred = retry.climb.deferred;
    reopened.restart = retry.restart;
}

/// Criteria that failed at the last gate, and at how many they did. None where no
/// gate is the cause; a stop that puts a failed chunk into words is no gate.
fn blocking(stage: &StageState, reason: &StopReason) -> Vec<Blocking> {
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

// ---------------------------------------------------------------- evolve

/// Folds an event that concerns this stage.
pub fn evolve(run: RunPolicy<'_>, stage: &mut StageState, event: &Event) {
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
        // The process that trained is gone.
        Event::ProcessStarted(_) => {
            if stage.phase == Phase::Training {
                stage.phase = Phase::Rewinding;
            }
        }
        Event::SamplesSuperseded(event) => on_samples_superseded(stage, event),
        Event::GateDecided(event) => on_gate_decided(stage, event),
        Event::PatchApplied(event) => on_patch_applied(stage, &event.patch),
        Event::PatchDeferred(event) => on_patch_deferred(stage, &event.patch),
        Event::FailureDecided(event) => on_failure_decided(run.policy, stage, event),
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
        if gate::is_wanted(&stage.policy, &column.name)
            && let Some(chunk) = stage.current(event.chunk, event.attempt)
        {
            chunk.add(column);
        }
    }
}

fn on_checkpoint_deleted(run: RunPolicy<'_>, stage: &mut StageState, event: &CheckpointDeleted) {
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

/// The gate that the chunk's start belongs to: that of the chunk which wrote the
/// checkpoint, whether at its end or on its way.
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

/// Rejects the checkpoint. What was about to start from it, or to hand it on, starts from the
/// newest that is left instead; a chunk in training is rewound by the next process.
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

/// The rest of the chunk is trained by the settings in force: a person may have
/// changed some while no process ran.
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
        // The chunk stays, so that a person who allows more gets what was due.
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

/// Notes what a gate said, on its checkpoint too. What puts a failed chunk into
/// words has no criteria, and is no gate of a checkpoint.
fn note_gate(stage: &mut StageState, event: &GateDecided) {
    let failed: Vec<CriterionResult> = event
        .criteria
        .iter()
        .filter(|result| result.verdict == Verdict::Fail)
        .cloned()
        .collect();
    let gate_loss = Metric::find(&event.metrics, metric::GATE_LOSS);
    if !event.criteria.is_empty() {
        stage.visual_streak = visual_streak(stage, &event.criteria);
        let noted = stage
            .chunk
            .as_ref()
            .map(|chunk| checkpoint_gate(stage, chunk, gate_loss, failed.is_empty()));
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
    // A rung reshapes the curve; a failed final gate leaves the rate at its end value.
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

fn on_failure_decided(policy: &Policy, stage: &mut StageState, event: &FailureDecided) {
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
            reason: stop_reason(stage, event, policy.max_chunk_failures),
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
