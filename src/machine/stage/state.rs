//! The state of a stage, as plain data.

use alloc::string::String;
use alloc::vec::Vec;

use crate::chunk::ChunkState;
use crate::edition::Edition;
use crate::gate_inputs::GateInputs;
use crate::lineage::{CheckpointGate, Lineage};
use tinygate_events::{
    Action, Attempt, CheckpointRef, ChunkNumber, CriterionResult, CriterionTest, FailureCause,
    InUse, Metric, Restart, Scalar, SettingPatch, Settings, StageName, StagePolicy, Step,
    StopReason, Upstream, Verdict,
};

/// The state of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageState {
    pub policy: StagePolicy,
    pub phase: Phase,
    /// The current settings: as configured, then patched.
    pub settings: Settings,
    /// The intended windows per update: as configured, then as changed by rungs, people and a
    /// fallback to fewer devices, but not by a lack of memory.
    pub effective_batch: u64,
    pub max_retries: u32,
    pub failures: u32,
    /// Position on the ladder, counted from 0.
    pub cursor: u32,
    /// Consecutive chunks that failed without a gate.
    pub chunk_failures: u32,
    /// How many times the target was extended.
    pub extensions: u32,
    pub restart: Restart,
    pub last_chunk: Option<ChunkNumber>,
    /// Consecutive gates at which `visual_structure` failed.
    pub visual_streak: u32,
    /// Set after a restart: the next gate has no previous one.
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
    /// Records patches one by one, then deletions, then what is next.
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
    /// A failed chunk ends the stage; first the stop is recorded as a gate's decision.
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

/// A phase without its data.
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

/// What follows once patches and deletions are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    StartChunk {
        resume_from: Option<CheckpointRef>,
    },
    /// The same range again, with the next attempt.
    RunAgain,
    /// The stage passes with this checkpoint.
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

    pub(super) fn best_reference(&self) -> Option<CheckpointRef> {
        Some(self.lineage.best()?.reference.clone())
    }

    /// The inputs of a chunk's gate.
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

    /// The checkpoint with which it passed, if it has passed.
    pub fn passed(&self) -> Option<&CheckpointRef> {
        if let Phase::Passed { checkpoint } = &self.phase {
            Some(checkpoint)
        } else {
            None
        }
    }

    /// The number of updates that led to the current weights.
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

    /// Whether the chunk started from a checkpoint, but the lineage has no accepted one left.
    pub(super) fn is_start_lost(&self, chunk: &ChunkState) -> bool {
        self.lineage.newest_accepted().is_none() && Step::FIRST < chunk.from
    }

    /// Consecutive gates at which `visual_structure` failed, including one with these results.
    pub(super) fn streak_with(&self, criteria: &[CriterionResult]) -> u32 {
        let failed = self.policy.criteria.iter().any(|criterion| {
            matches!(criterion.test, CriterionTest::VisualStructure { .. })
                && criteria
                    .iter()
                    .any(|result| result.name == criterion.name && result.verdict == Verdict::Fail)
        });
        if failed {
            self.visual_streak.saturating_add(1)
        } else {
            0
        }
    }

    /// The result of a chunk's gate for its checkpoint.
    pub(super) fn checkpoint_gate(
        &self,
        chunk: &ChunkState,
        gate_loss: Option<Scalar>,
        passed: bool,
    ) -> CheckpointGate {
        let is_met = |in_use: &InUse| {
            let latest = chunk.samples(&in_use.metric).last();
            latest.is_some_and(|(_, value)| in_use.at_least.get() <= value.get())
        };
        CheckpointGate {
            gate_loss,
            passed,
            in_use: self.policy.in_use.as_ref().is_none_or(is_met),
        }
    }

    /// Whether a fact about this chunk and attempt is about the one in training.
    pub(super) fn is_current(&self, chunk: ChunkNumber, attempt: Attempt) -> bool {
        self.phase == Phase::Training
            && self
                .chunk
                .as_ref()
                .is_some_and(|now| now.number == chunk && now.attempt == attempt)
    }

    /// The chunk in training, if it is this one.
    pub(super) fn current(
        &mut self,
        chunk: ChunkNumber,
        attempt: Attempt,
    ) -> Option<&mut ChunkState> {
        if self.is_current(chunk, attempt) {
            self.chunk.as_mut()
        } else {
            None
        }
    }
}

/// Windows per update with these settings.
pub(super) fn effective_batch(settings: &Settings) -> u64 {
    u64::from(settings.batch_size_per_gpu) * u64::from(settings.gradient_accumulation_steps)
}
