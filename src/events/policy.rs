//! The policy of a run: every number by which gates are decided, as data.
//!
//! The machine knows kinds of criteria, rungs and findings, and no model: a stage is lists of
//! these over metrics and settings that it names. The policy in force is part of a log's first event, so it is read by
//! the rules version that stands beside it and never from today's defaults.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::ids::{KnobName, ModelName, StageName};
use super::scalar::Scalar;
use super::settings::{Knob, SettingKey, Settings};

/// Version 2 of the document in a log's first event; `stored::document` reads the older ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Name of the preset it was made from: `seed` or `strict`.
    pub preset: String,
    /// Retries allowed per stage; the failure after the last one stops.
    pub max_retries: u32,
    /// Chunks that may fail in a row without a gate before the stage stops.
    pub max_chunk_failures: u32,
    /// Interruptions of one chunk without a new checkpoint that count as a failure.
    pub max_interruptions: u32,
    /// Whether a passing gate sets the stage's failures to 0.
    pub reset_on_pass: bool,
    pub retry_from: RetryFrom,
    /// Samples in the median that is the latest loss.
    pub latest_window: u32,
    /// Newest checkpoints kept besides best, passed and resume points.
    pub keep_last: u32,
    pub stages: Vec<StagePolicy>,
}

impl Policy {
    /// A stage's name that another one has too; no run is made with such a policy.
    pub fn doubled_stage(&self) -> Option<&StageName> {
        let names = self.stages.iter().map(|stage| &stage.name);
        names.enumerate().find_map(|(place, name)| {
            let before = self.stages.iter().take(place);
            before
                .into_iter()
                .any(|stage| stage.name == *name)
                .then_some(name)
        })
    }
}

/// A stage, as the machine knows it: whatever a trainer trains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePolicy {
    pub name: StageName,
    pub model: ModelName,
    /// Metric that is the loss: gates compare it, and the best known checkpoint has the lowest.
    pub loss: String,
    /// Metrics whose samples are kept besides the loss and what criteria name.
    pub metrics: Vec<String>,
    /// What a gate says of skill, in this order.
    pub skills: Vec<Skill>,
    /// The best known checkpoint is one where this holds, as soon as there is one.
    pub in_use: Option<InUse>,
    /// What a gate looks for besides its criteria.
    pub findings: Vec<FindingTest>,
    /// Fewest windows of a micro-batch that the stage can train with.
    pub batch_size_min: u32,
    pub knobs: Vec<Knob>,
    /// Settings as configured; patches change a copy of them in the state.
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
    /// Name in the gate's output, and for criteria.
    pub name: String,
    /// Metric of the model's loss on the held-out windows.
    pub held_out: String,
    /// Metric of the trivial predictor's loss on the same.
    pub trivial: String,
    /// Whether the trivial predictor may have no loss, since there may be nothing to predict:
    /// no pixel moves, say.
    pub trivial_may_be_null: bool,
}

/// What a model has learnt to use: the latest sample of `metric` in the chunk >= `at_least`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InUse {
    pub metric: String,
    pub at_least: Scalar,
}

/// What a gate looks for. A finding decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum FindingTest {
    /// A limit on the loss that the trivial predictor meets.
    VacuousLimit,
    /// The last samples lie on both sides of a limit.
    DecidedByNoise,
    /// A passing gate is no better than the trivial predictor.
    NoSkill,
    /// A passing gate where no skill can be measured.
    NothingToMeasure,
    /// A failing gate: whether the loss follows what the stage is given or its own learning rate.
    Cause {
        /// How many actions are in use.
        actions: String,
        /// Their entropy, in nats.
        entropy: String,
        /// Median entropy below which the actions say nothing.
        entropy_max: Scalar,
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
    /// gate loss < previous + tolerance * abs(previous).
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
    /// Each metric another criterion needs was logged within the last
    /// `log_interval` updates of the chunk, and a needed picture is new.
    MetricsFresh,
}

/// A limit that may change with the gate's step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Limit {
    Constant(Scalar),
    /// `[[step, limit], ...]`, steps rising: the first entry whose step is not
    /// below the gate's; past the last entry, the last.
    Schedule(Vec<(u64, Scalar)>),
}

/// When a predicted frame counts as having lost its structure. Scores are of the
/// differences from the data's mean image; the formulas stand with the scores.
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
    /// Multiplies a setting; counts are rounded down. Held at its bound.
    Multiply { key: SettingKey, factor: Scalar },
    /// Adds to a count. Held at its bound.
    Add { key: SettingKey, amount: i64 },
    /// If the loss is still dropping: target += chunk size, and the rate's curve with it.
    ExtendTarget,
    /// Where a criterion on one of these metrics failed: a count to the next lower power of two, in
    /// the next full cycle only.
    DeferPowerOfTwo {
        key: SettingKey,
        when_failed: Vec<String>,
    },
}
