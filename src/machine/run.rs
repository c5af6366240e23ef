//! The run: its stages in order, then finished or stopped.
//!
//! ```text
//! phase     awaits or records                      next phase
//! --------  -------------------------------------  -------------------------------
//! empty     sees    run_created                    running, first stage (finishing without one)
//! running   its stage awaits or records            running
//!           records stage_started                  running
//!           sees    stage_passed                   running, next stage, or finishing
//!           sees    stage_stopped                  stopping
//! finishing records run_finished                   finished
//! stopping  records run_stopped                    stopped
//!           sees    setting_changed (max_retries)  running, the same stage
//! stopped   sees    setting_changed (max_retries)  running, the same stage
//! finished  nothing
//! ```
//!
//! Every other event leaves the phase unchanged. [`TRANSITIONS`] is the same table as
//! data; a test checks [`Machine::apply`](super::Machine::apply) against it.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::command::{Command, Decision, Idle, UpstreamModel};
use super::edition::Edition;
use super::stage::{self, FoldContext, Phase, RunPolicy, StageState};
use tinygate_events::{
    CheckpointDeleted, CheckpointRef, Event, FallbackGranted, FileRecord, InitFrom,
    InterruptReason, Policy, RunCreated, RunFinished, RunStopped, SettingChanged, SettingKey,
    SettingValue, StageName, StageStarted, Upstream,
};

/// The state of a run: the fold of its log, as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunState {
    pub phase: RunPhase,
    pub created: Option<Box<RunCreated>>,
    pub stages: Vec<StageState>,
    pub fallback: Option<FallbackGranted>,
    /// `keep_last` of a person's request to free disk space, until an event other than a deletion.
    pub prune: Option<u32>,
    pub process: ProcessState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunPhase {
    Empty,
    /// The stage with this index is running.
    Running(usize),
    Finishing,
    Stopping(usize),
    Finished,
    Stopped(usize),
}

/// A phase without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunPhaseKind {
    Empty,
    Running,
    Finishing,
    Stopping,
    Finished,
    Stopped,
}

impl RunPhase {
    pub const fn kind(self) -> RunPhaseKind {
        match self {
            RunPhase::Empty => RunPhaseKind::Empty,
            RunPhase::Running(_) => RunPhaseKind::Running,
            RunPhase::Finishing => RunPhaseKind::Finishing,
            RunPhase::Stopping(_) => RunPhaseKind::Stopping,
            RunPhase::Finished => RunPhaseKind::Finished,
            RunPhase::Stopped(_) => RunPhaseKind::Stopped,
        }
    }
}

/// Every pair of phase and event that can change the phase, with the phases that can
/// follow. Any other pair leaves the phase unchanged.
pub const TRANSITIONS: &[(RunPhaseKind, &str, &[RunPhaseKind])] = {
    use RunPhaseKind::*;
    &[
        (Empty, "run_created", &[Running, Finishing]),
        (Running, "stage_passed", &[Running, Finishing]),
        (Running, "stage_stopped", &[Running, Stopping]),
        (Finishing, "run_finished", &[Finished]),
        (Stopping, "run_stopped", &[Stopped]),
        (Stopping, "setting_changed", &[Stopping, Running]),
        (Stopped, "setting_changed", &[Stopped, Running]),
    ]
};

/// Processes and interruptions: the part of the state that depends on whether a run was
/// killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessState {
    pub starts: u32,
    /// Interruptions of the current chunk without a new checkpoint.
    pub interruptions: u32,
    /// The last process recorded why it ended, so its end does not count as an interruption.
    pub excused: bool,
}

impl RunState {
    /// The state before the first event.
    pub const fn empty() -> RunState {
        RunState {
            phase: RunPhase::Empty,
            created: None,
            stages: Vec::new(),
            fallback: None,
            prune: None,
            process: ProcessState {
                starts: 0,
                interruptions: 0,
                excused: true,
            },
        }
    }

    /// The current stage, or the one in which the run stopped.
    pub fn stage(&self) -> Option<&StageState> {
        match self.phase {
            RunPhase::Running(index) | RunPhase::Stopping(index) | RunPhase::Stopped(index) => {
                self.stages.get(index)
            }
            RunPhase::Empty | RunPhase::Finishing | RunPhase::Finished => None,
        }
    }

    pub fn stage_named(&self, name: &StageName) -> Option<&StageState> {
        self.stages.iter().find(|stage| stage.name() == name)
    }

    pub fn policy(&self) -> Option<&Policy> {
        self.created.as_ref().map(|created| &created.policy)
    }

    /// The state without the parts that a kill may change, for comparing runs.
    pub fn without_process(&self) -> RunState {
        let mut state = RunState {
            process: RunState::empty().process,
            ..self.clone()
        };
        for stage in &mut state.stages {
            // A stopped stage keeps its chunk, but where the chunk was last resumed no longer matters.
            if let (Phase::Stopped { .. }, Some(chunk)) = (&stage.phase, &mut stage.chunk) {
                chunk.resume_from = None;
                chunk.taken.clear();
            }
        }
        state
    }
}

/// The fold, which is the same in every version of the rules.
pub(super) fn apply(state: &mut RunState, event: &Event) {
    if !matches!(event, Event::CheckpointDeleted(_)) {
        state.prune = None;
    }
    match event {
        Event::RunCreated(created) => on_run_created(state, created),
        Event::ProcessStarted(_) => {
            on_process_started(state);
            to_current_stage(state, event);
        }
        Event::RunInterrupted(interrupted) => {
            state.process.excused = match &interrupted.reason {
                InterruptReason::Signal { .. } | InterruptReason::Environment { .. } => true,
            };
        }
        Event::FallbackGranted(granted) => {
            if state.fallback.is_none() {
                state.fallback = Some(granted.clone());
                to_unfinished_stages(state, event);
            }
        }
        Event::SettingChanged(changed) => on_setting_changed(state, changed, event),
        Event::CheckpointJudged(judged) => {
            let before = newest_accepted(state);
            to_stage(state, &judged.stage, event);
            if judged.rejected.is_none() && newest_accepted(state) != before {
                state.process.interruptions = 0;
            }
        }
        Event::StagePassed(passed) => {
            to_stage(state, &passed.stage, event);
            on_stage_passed(state);
        }
        Event::StageStopped(stopped) => {
            to_stage(state, &stopped.stage, event);
            if let RunPhase::Running(index) = state.phase
                && state
                    .stages
                    .get(index)
                    .is_some_and(|stage| matches!(stage.phase, Phase::Stopped { .. }))
            {
                state.phase = RunPhase::Stopping(index);
            }
        }
        Event::RunFinished(_) => {
            if state.phase == RunPhase::Finishing {
                state.phase = RunPhase::Finished;
            }
        }
        Event::RunStopped(_) => {
            if let RunPhase::Stopping(index) = state.phase {
                state.phase = RunPhase::Stopped(index);
            }
        }
        Event::ChunkStarted(started) => {
            state.process.interruptions = 0;
            to_stage(state, &started.stage, event);
        }
        Event::StageStarted(e) => to_stage(state, &e.stage, event),
        Event::StageMeasured(e) => to_stage(state, &e.stage, event),
        Event::MetricsLogged(e) => to_stage(state, &e.stage, event),
        Event::CheckpointWritten(e) => to_stage(state, &e.stage, event),
        Event::HeldOutScored(e) => to_stage(state, &e.stage, event),
        Event::PictureScored(e) => to_stage(state, &e.stage, event),
        Event::ChunkFinished(e) => to_stage(state, &e.stage, event),
        Event::ChunkFailed(e) => to_stage(state, &e.stage, event),
        Event::SamplesSuperseded(e) => to_stage(state, &e.stage, event),
        Event::GateDecided(e) => to_stage(state, &e.stage, event),
        Event::PatchApplied(e) => to_stage(state, &e.stage, event),
        Event::PatchDeferred(e) => to_stage(state, &e.stage, event),
        Event::FailureDecided(e) => to_stage(state, &e.stage, event),
        Event::StageReopened(e) => to_stage(state, &e.stage, event),
        Event::CheckpointDeleted(e) => to_stage(state, &e.stage, event),
        Event::CheckpointGivenUp(e) => to_stage(state, &e.stage, event),
        Event::PruneRequested(asked) => {
            if state.created.is_some() {
                state.prune = Some(asked.keep_last);
            }
        }
        Event::StoreRepaired(_) => {}
    }
}

/// What to do next.
pub(super) fn decide(state: &RunState, edition: Edition) -> Decision {
    let Some(created) = &state.created else {
        return Decision::Idle(Idle::NoRun);
    };
    if let Some(deleted) = pruned(state) {
        return record(deleted);
    }
    match state.phase {
        RunPhase::Empty => Decision::Idle(Idle::NoRun),
        RunPhase::Finished => Decision::Idle(Idle::Finished),
        RunPhase::Stopped(_) => Decision::Idle(Idle::Stopped),
        RunPhase::Finishing => record(Event::RunFinished(RunFinished {
            stages: state.stages.len() as u32,
        })),
        RunPhase::Stopping(index) => match state.stages.get(index) {
            Some(stage) => record(Event::RunStopped(RunStopped {
                stage: stage.name().clone(),
            })),
            None => Decision::Idle(Idle::Stopped),
        },
        RunPhase::Running(index) => match state.stages.get(index) {
            Some(stage) if stage.phase == Phase::Pending => {
                record(start_stage(state, created, stage))
            }
            Some(stage) => stage::decide(run_policy(created, state, edition), stage)
                .map_or(Decision::Idle(Idle::Stopped), |decision| {
                    with_files(state, created, decision)
                }),
            None => Decision::Idle(Idle::Finished),
        },
    }
}

/// Adds the recorded files of checkpoints that another stage wrote or the user gave.
fn with_files(state: &RunState, created: &RunCreated, decision: Decision) -> Decision {
    let files = |stage: &StageName, reference: &CheckpointRef| -> Vec<FileRecord> {
        let given = created
            .init_from
            .iter()
            .find(|init| init.stage == *stage && init.checkpoint == *reference)
            .map(|init| &init.files);
        let written = state
            .stage_named(stage)
            .and_then(|stage| stage.lineage.find(reference))
            .map(|checkpoint| &checkpoint.files)
            .filter(|files| !files.is_empty());
        written.or(given).cloned().unwrap_or_default()
    };
    let add = |upstream: &mut Vec<UpstreamModel>| {
        for model in upstream {
            model.files = files(&model.stage, &model.checkpoint);
        }
    };
    match decision {
        Decision::Act(Command::MeasureStage(mut measure)) => {
            add(&mut measure.upstream);
            Decision::Act(Command::MeasureStage(measure))
        }
        Decision::Act(Command::TrainChunk(mut train)) => {
            add(&mut train.upstream);
            if let Some(resume) = &mut train.resume {
                resume.files = files(&train.stage, &resume.checkpoint);
                resume.fresh_optimizer = created.init_from.iter().any(|init| {
                    init.stage == train.stage
                        && init.checkpoint == resume.checkpoint
                        && init.fresh_optimizer
                });
            }
            Decision::Act(Command::TrainChunk(train))
        }
        Decision::Act(Command::JudgeCheckpoint(_)) | Decision::Record(_) | Decision::Idle(_) => {
            decision
        }
    }
}

fn record(event: Event) -> Decision {
    Decision::Record(Box::new(event))
}

fn run_policy<'a>(created: &'a RunCreated, state: &RunState, edition: Edition) -> RunPolicy<'a> {
    RunPolicy {
        policy: &created.policy,
        interruptions: state.process.interruptions,
        deferred: state.stages.iter().any(|stage| stage.deferred.is_some()),
        edition,
    }
}

fn fold_context(created: &RunCreated, state: &RunState) -> FoldContext {
    FoldContext {
        max_chunk_failures: created.policy.max_chunk_failures,
        pruning: state.prune.is_some(),
    }
}

/// The next deletion that a person's request to free disk space causes.
fn pruned(state: &RunState) -> Option<Event> {
    let keep_last = state.prune?;
    state.stages.iter().find_map(|stage| {
        Some(Event::CheckpointDeleted(CheckpointDeleted {
            stage: stage.name().clone(),
            checkpoint: stage::prunable(keep_last, stage)?.reference.clone(),
        }))
    })
}

fn start_stage(state: &RunState, created: &RunCreated, stage: &StageState) -> Event {
    let in_run = |name: &StageName| state.stages.iter().any(|stage| stage.name() == name);
    let given = created
        .init_from
        .iter()
        .filter(|init| !in_run(&init.stage))
        .map(upstream_of_init);
    let passed = state.stages.iter().filter_map(|stage| {
        Some(Upstream {
            stage: stage.name().clone(),
            checkpoint: stage.passed()?.clone(),
        })
    });
    Event::StageStarted(StageStarted {
        stage: stage.name().clone(),
        settings: stage.settings.clone(),
        upstream: given.chain(passed).collect(),
        resume_from: created
            .init_from
            .iter()
            .find(|init| init.stage == *stage.name())
            .map(|init| init.checkpoint.clone()),
    })
}

fn upstream_of_init(init: &InitFrom) -> Upstream {
    Upstream {
        stage: init.stage.clone(),
        checkpoint: init.checkpoint.clone(),
    }
}

fn on_run_created(state: &mut RunState, created: &RunCreated) {
    if state.phase != RunPhase::Empty {
        return;
    }
    state.stages = created
        .policy
        .stages
        .iter()
        .map(|policy| StageState::new(policy, created.policy.max_retries))
        .collect();
    state.created = Some(Box::new(created.clone()));
    state.phase = if state.stages.is_empty() {
        RunPhase::Finishing
    } else {
        RunPhase::Running(0)
    };
}

fn on_process_started(state: &mut RunState) {
    let process = &mut state.process;
    process.starts = process.starts.saturating_add(1);
    if !process.excused {
        process.interruptions = process.interruptions.saturating_add(1);
    }
    process.excused = false;
}

fn newest_accepted(state: &RunState) -> Option<CheckpointRef> {
    let newest = state.stage()?.lineage.newest_accepted()?;
    Some(newest.reference.clone())
}

fn on_stage_passed(state: &mut RunState) {
    if let RunPhase::Running(index) = state.phase {
        if state
            .stages
            .get(index)
            .is_none_or(|stage| stage.passed().is_none())
        {
            return;
        }
        let next = index + 1;
        state.phase = if next < state.stages.len() {
            RunPhase::Running(next)
        } else {
            RunPhase::Finishing
        };
    }
}

fn on_setting_changed(state: &mut RunState, changed: &SettingChanged, event: &Event) {
    match &changed.stage {
        Some(name) => to_stage(state, name, event),
        None => {
            set_policy(state, &changed.key, changed.to);
            to_unfinished_stages(state, event);
        }
    }
    if let RunPhase::Stopping(index) | RunPhase::Stopped(index) = state.phase {
        let reopened = state
            .stages
            .get(index)
            .is_some_and(|stage| matches!(stage.phase, Phase::Reopening { .. }));
        if reopened {
            state.phase = RunPhase::Running(index);
        }
    }
}

fn set_policy(state: &mut RunState, key: &SettingKey, to: SettingValue) {
    if let (SettingKey::MaxRetries, SettingValue::Count(count), Some(created)) =
        (key, to, &mut state.created)
        && let Ok(count) = u32::try_from(count)
    {
        created.policy.max_retries = count;
    }
}

fn to_stage(state: &mut RunState, name: &StageName, event: &Event) {
    let Some(created) = &state.created else {
        return;
    };
    let run = fold_context(created, state);
    if let Some(stage) = state.stages.iter_mut().find(|stage| stage.name() == name) {
        stage::evolve(run, stage, event);
    }
}

fn to_current_stage(state: &mut RunState, event: &Event) {
    let RunPhase::Running(index) = state.phase else {
        return;
    };
    let Some(created) = &state.created else {
        return;
    };
    let run = fold_context(created, state);
    if let Some(stage) = state.stages.get_mut(index) {
        stage::evolve(run, stage, event);
    }
}

fn to_unfinished_stages(state: &mut RunState, event: &Event) {
    let Some(created) = &state.created else {
        return;
    };
    let run = fold_context(created, state);
    for stage in state
        .stages
        .iter_mut()
        .filter(|stage| stage.passed().is_none())
    {
        stage::evolve(run, stage, event);
    }
}
