//! The policy of a run: everything that gates are decided by, as data.
//!
//! The machine knows kinds of criteria, rungs and findings, but no models: a stage lists these, and
//! the metrics and settings they use. A log's first event contains the policy and the version of the
//! rules that reads it, so a replay does not depend on today's defaults.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::ids::{KnobName, ModelName, StageName};
use super::scalar::Scalar;
use super::settings::{Knob, SettingKey, Settings};

/// Version 2 of the policy document in a log's first event; `stored::document` reads older ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name of the preset it was made from: `seed` or `strict`.
    pub preset: String,
    /// Retries allowed per stage; the next failure stops the run.
    pub max_retries: u32,
    /// Consecutive chunks that may fail without a gate; the next failure stops the stage.
    pub max_chunk_failures: u32,
    /// Interruptions of a chunk without a new checkpoint that count as one failure.
    pub max_interruptions: u32,
    /// Whether a passing gate sets the stage's failures to 0.
    pub reset_on_pass: bool,
    pub retry_from: RetryFrom,
    /// The latest loss is the median of this many samples.
    pub latest_window: u32,
    /// Newest checkpoints to keep, besides the best, passed and resume points.
    pub keep_last: u32,
    pub stages: Vec<StagePolicy>,
}

impl Policy {
    /// A name that two stages share. Such a policy is invalid.
    pub fn duplicate_stage(&self) -> Option<&StageName> {
        let names = self.stages.iter().map(|stage| &stage.name);
        names.enumerate().find_map(|(index, name)| {
            let before = self.stages.iter().take(index);
            before
                .into_iter()
                .any(|stage| stage.name == *name)
                .then_some(name)
        })
    }
}

/// Everything the machine knows about a stage, whatever its trainer trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePolicy {
    pub name: StageName,
    pub model: ModelName,
    /// The metric that is the loss. Gates compare it, and the best checkpoint has the lowest.
    pub loss: String,
    /// Metrics whose samples are kept, besides the loss and those of the criteria.
    pub metrics: Vec<String>,
    /// The skills that a gate computes, in this order.
    pub skills: Vec<Skill>,
    /// The best checkpoint must satisfy this, once any does.
    pub in_use: Option<InUse>,
    /// What a gate reports besides its criteria.
    pub findings: Vec<FindingTest>,
    /// Smallest micro-batch that the stage can train with, in windows.
    pub batch_size_min: u32,
    pub knobs: Vec<Knob>,
    /// The configured settings. Patches change a copy of them in the state.
    pub settings: Settings,
    pub criteria: Vec<Criterion>,
    pub ladder: Vec<Rung>,
    pub bounds: Bounds,
}

impl StagePolicy {
    /// The knob of this name.
    pub fn knob(&self, name: &KnobName) -> Option<&Knob> {
        self.knobs.iter().find(|knob| knob.name == *name)
    }
}

/// Skill: 1 - held-out loss / loss of the trivial predictor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skill {
    /// Name in the gate's output and in criteria.
    pub name: String,
    /// Metric of the model's loss on the held-out windows.
    pub held_out: String,
    /// Metric of the trivial predictor's loss on the same windows.
    pub trivial: String,
    /// Whether the trivial predictor may have no loss, for example because no pixel moves.
    pub trivial_may_be_null: bool,
}

/// Whether a model uses what it should: the latest sample of `metric` in the chunk is >= `at_least`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InUse {
    pub metric: String,
    pub at_least: Scalar,
}

/// A kind of finding that a gate may report. Findings do not affect decisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FindingTest {
    /// A limit on the loss that the trivial predictor would also meet.
    VacuousLimit,
    /// The last samples are on both sides of a limit.
    DecidedByNoise,
    /// The gate passes, but the model is no better than the trivial predictor.
    NoSkill,
    /// The gate passes, but skill cannot be measured.
    NothingToMeasure,
    /// The gate fails: whether the loss follows the actions given to the stage or its own learning rate.
    Cause {
        /// Metric of the number of actions in use.
        actions: String,
        /// Metric of their entropy, in nats.
        entropy: String,
        /// If the median entropy is below this, the actions carry no information.
        entropy_max: Scalar,
        /// Metric of the learning rate.
        learning_rate: String,
    },
}

/// Which checkpoint a retry starts from. Each falls back to the newest accepted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryFrom {
    Newest,
    LastPassed,
    Best,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    pub learning_rate_min: Scalar,
    pub accumulation_min: u32,
    pub accumulation_max: u32,
    /// Smallest log interval as a share of the chunk.
    pub log_interval_min_share: Scalar,
    /// Smallest chunk as a share of the configured one.
    pub chunk_size_min_share: Scalar,
}

/// One condition of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// Name in the gate's output.
    pub name: String,
    pub applies: Applies,
    pub test: CriterionTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    EveryGate,
    AtTarget,
}

/// The kinds of criteria.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CriterionTest {
    /// The checkpoint at the gate is accepted.
    CheckpointValid,
    /// Every loss sample of the chunk is finite.
    LossFinite,
    /// Gate loss < previous + tolerance * abs(previous).
    LossTrend { tolerance: Scalar },
    /// Latest loss <= limit.
    LossLatest { limit: Limit },
    /// Latest sample of a metric >= limit.
    MetricAtLeast { metric: String, limit: Limit },
    /// Mean of the last third <= mean of the middle third + tolerance.
    LossNotRising {
        tolerance: Scalar,
        standard_errors: Scalar,
    },
    /// Mean of the last tenth - mean of the first tenth <= tolerance.
    LossDelta {
        tolerance: Scalar,
        standard_errors: Scalar,
    },
    /// Fewer than `share` of the held-out frames have lost their structure.
    VisualStructure {
        limits: StructureLimits,
        share: Scalar,
    },
    /// `skill` or `skill_moving` of this gate > limit.
    SkillAbove { metric: String, limit: Limit },
    /// Each metric that another criterion needs was logged within the last
    /// `log_interval` updates of the chunk, and a needed picture is new.
    MetricsFresh,
}

/// A limit that may change with the gate's step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Limit {
    Constant(Scalar),
    /// `[[step, limit], ...]` with increasing steps. The first entry whose step is at
    /// least the gate's applies; after the last entry, the last.
    Schedule(Vec<(u64, Scalar)>),
}

/// When a predicted frame counts as having lost its structure. Scores are computed on the
/// differences from the data's mean image; see the scores for the formulas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StructureLimits {
    pub flatness_min: Scalar,
    pub flatness_max: Scalar,
    pub stripes_max: Scalar,
    pub blockiness_max: Scalar,
    pub ssim_min: Scalar,
    pub mse_ratio_max: Scalar,
}

/// One step of a ladder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rung {
    /// Multiplies a setting; counts are rounded down. Clamped to the bound.
    Multiply { key: SettingKey, factor: Scalar },
    /// Adds to a count. Clamped to the bound.
    Add { key: SettingKey, amount: i64 },
    /// If the loss is still dropping, extends the target and the rate's curve by a chunk.
    ExtendTarget,
    /// If a criterion on one of these metrics failed, lowers a count to the next power of two in the
    /// next full cycle.
    DeferPowerOfTwo {
        key: SettingKey,
        when_failed: Vec<String>,
    },
}
