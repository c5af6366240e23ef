//! Measures on a few updates what a run would cost.
//!
//! The updates are real: the same trainer, driven by the same machine, over a log in memory and a
//! scratch folder. The caller removes the folder; nothing is written elsewhere.

use std::path::Path;
use std::time::Instant;

use super::prepare::Draft;
use super::process::{Group, now_ms};
use crate::advice::{Advice, Hint};
use crate::checkpoint::{self, Acceptance, Need, RejectReason};
use crate::controller::{ControlError, Controller, Ending, Host, Observer};
use crate::events::{
    ChunkFailed, CriterionTest, Event, ProcessStarted, Record, RunCreated, StageName,
};
use crate::machine::RunState;
use crate::store::MemoryLog;
use crate::trainer::{NoProgress, Progress};

/// Updates measured per stage.
pub const UPDATES: u64 = 8;
/// The first of them warm caches up and do not count.
const WARM_UP: usize = 3;

/// What a stage would cost if every gate passes.
#[derive(Clone, Debug, PartialEq)]
pub struct StageCost {
    pub stage: StageName,
    /// Numbers in the model.
    pub numbers: u64,
    pub checkpoint_bytes: u64,
    /// Still to be done.
    pub updates: u64,
    /// Median.
    pub seconds_per_update: f64,
    pub gates: u64,
    /// Of the whole stage.
    pub seconds: f64,
}

/// Why the cost could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    #[error(transparent)]
    Control(#[from] ControlError),
    /// With the last failure.
    #[error("a stage could not be trained")]
    Failed(Option<Box<ChunkFailed>>),
    /// The trainer hangs in this process, which must exit without waiting for it.
    #[error("the trainer made no progress for {} s", .0.silence_seconds)]
    NoProgress(NoProgress),
    #[error("{detail}")]
    Environment { detail: String },
    #[error("no checkpoint was written")]
    NoCheckpoint,
    #[error("the checkpoint was refused: {0}")]
    Refused(Box<RejectReason>),
}

impl Advice for DryRunError {
    fn hints(&self) -> Vec<Hint> {
        match self {
            DryRunError::Control(error) => error.hints(),
            DryRunError::Refused(reason) => reason.hints(),
            DryRunError::Failed(_)
            | DryRunError::NoProgress(_)
            | DryRunError::Environment { .. }
            | DryRunError::NoCheckpoint => Vec::new(),
        }
    }
}

/// Trains a few updates of every stage in the folder `scratch`, each on what the one before wrote.
/// `begun` is called when a stage begins. `None`: the trainer was asked to stop.
///
/// # Errors
/// A stage that cannot be trained, or a machine that cannot continue.
pub fn measure(
    draft: &Draft,
    group: &Group,
    scratch: &Path,
    started: ProcessStarted,
    host: Host<'_>,
    begun: &mut dyn FnMut(&StageName),
) -> Result<Option<Vec<StageCost>>, DryRunError> {
    let created = draft.created_by(group);
    let log = MemoryLog::new();
    let mut controller = Controller::open(&log, scratch, now_ms)?;
    controller.record_fact(Event::RunCreated(Box::new(shortened(&created))))?;
    if let Some(granted) = &group.fallback {
        controller.record_fact(Event::FallbackGranted(granted.clone()))?;
    }
    let mut watch = Watch {
        begun,
        stages: Vec::new(),
        failure: None,
    };
    match controller.run(started, host, &mut watch)? {
        Ending::Finished => {}
        Ending::Stopped => return Err(DryRunError::Failed(watch.failure.map(Box::new))),
        Ending::Interrupted { .. } => return Ok(None),
        Ending::Environment { detail } => return Err(DryRunError::Environment { detail }),
        Ending::NoProgress(silent) => return Err(DryRunError::NoProgress(silent)),
    }
    let costs = watch.stages.iter();
    let costs: Result<Vec<Option<StageCost>>, DryRunError> = costs
        .map(|watched| cost(&created, scratch, watched))
        .collect();
    Ok(Some(costs?.into_iter().flatten().collect()))
}

/// The run with one short chunk in each stage, whose gate needs nothing but a checkpoint.
fn shortened(created: &RunCreated) -> RunCreated {
    let mut short = created.clone();
    short.policy.max_retries = 0;
    for stage in &mut short.policy.stages {
        stage.settings.n_updates = done(created, &stage.name).saturating_add(UPDATES);
        stage.settings.chunk_size = UPDATES;
        stage.settings.checkpoint_interval = Some(UPDATES);
        stage.settings.log_interval = UPDATES;
        stage
            .criteria
            .retain(|criterion| criterion.test == CriterionTest::CheckpointValid);
    }
    short
}

/// Updates of the checkpoint that a stage starts from.
fn done(created: &RunCreated, stage: &StageName) -> u64 {
    let mut given = created.init_from.iter();
    let given = given.find(|init| init.stage == *stage);
    given.map_or(0, |init| init.checkpoint.step.get())
}

/// Notes when each update is done.
struct Watch<'a> {
    begun: &'a mut dyn FnMut(&StageName),
    stages: Vec<Watched>,
    failure: Option<ChunkFailed>,
}

struct Watched {
    stage: StageName,
    updates: Vec<Instant>,
    end: Option<Instant>,
    checkpoint: Option<String>,
    checkpoint_bytes: u64,
}

impl Observer for Watch<'_> {
    fn recorded(&mut self, record: &Record, _: &RunState) {
        if let Event::CheckpointWritten(written) = &record.event
            && let Some(watched) = self.last(&written.stage)
        {
            watched.checkpoint = Some(written.checkpoint.path.clone());
            watched.checkpoint_bytes = written.files.iter().map(|file| file.size).sum();
        }
        if let Event::ChunkFinished(finished) = &record.event
            && let Some(watched) = self.last(&finished.stage)
        {
            watched.end = Some(Instant::now());
        }
        if let Event::StageStarted(started) = &record.event {
            (self.begun)(&started.stage);
        }
        if let Event::ChunkFailed(failed) = &record.event {
            self.failure = Some(failed.clone());
        }
    }

    fn progressed(&mut self, progress: &Progress) {
        if self.last(&progress.stage).is_none() {
            self.stages.push(Watched {
                stage: progress.stage.clone(),
                updates: Vec::new(),
                end: None,
                checkpoint: None,
                checkpoint_bytes: 0,
            });
        }
        if let Some(watched) = self.last(&progress.stage) {
            watched.updates.push(Instant::now());
        }
    }
}

impl Watch<'_> {
    fn last(&mut self, stage: &StageName) -> Option<&mut Watched> {
        let last = self.stages.last_mut();
        last.filter(|watched| watched.stage == *stage)
    }
}

/// `None`: the run has no such stage.
fn cost(
    created: &RunCreated,
    scratch: &Path,
    watched: &Watched,
) -> Result<Option<StageCost>, DryRunError> {
    let Some(path) = &watched.checkpoint else {
        return Err(DryRunError::NoCheckpoint);
    };
    let numbers = match checkpoint::accept_for(Need::Weights, &scratch.join(path), None) {
        Acceptance::Accepted(accepted) => accepted.elements,
        Acceptance::Rejected { reason } => return Err(DryRunError::Refused(Box::new(reason))),
    };
    let mut stages = created.policy.stages.iter();
    let Some(stage) = stages.find(|stage| stage.name == watched.stage) else {
        return Ok(None);
    };
    let settings = &stage.settings;
    let updates = settings
        .n_updates
        .saturating_sub(done(created, &stage.name));
    let gates = updates.div_ceil(settings.chunk_size.max(1));
    let seconds_per_update = median(&watched.updates);
    // From the last update to the end of the chunk: checkpoint, held-out losses, picture.
    let seconds_per_gate = watched.end.zip(watched.updates.last());
    let seconds_per_gate = seconds_per_gate.map_or(0.0, |(end, last)| {
        end.saturating_duration_since(*last).as_secs_f64()
    });
    Ok(Some(StageCost {
        stage: watched.stage.clone(),
        numbers,
        checkpoint_bytes: watched.checkpoint_bytes,
        updates,
        seconds_per_update,
        gates,
        seconds: seconds_per_update * updates as f64 + seconds_per_gate * gates as f64,
    }))
}

/// Median time between updates after the warm-up.
fn median(updates: &[Instant]) -> f64 {
    let counted = updates.get(WARM_UP.saturating_sub(1)..).unwrap_or_default();
    let mut gaps: Vec<f64> = counted
        .windows(2)
        .filter_map(|pair| match pair {
            [a, b] => Some(b.saturating_duration_since(*a).as_secs_f64()),
            _ => None,
        })
        .collect();
    gaps.sort_by(f64::total_cmp);
    gaps.get(gaps.len() / 2).copied().unwrap_or(0.0)
}
