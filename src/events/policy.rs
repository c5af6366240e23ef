//! The policy of a run: every number by which gates are decided, as data.
//!
//! The machine knows kinds of criteria and kinds of rungs; a stage is a list of
//! them. The policy in force is part of a log's first event, so it is read by
//! the rules version that stands beside it and never from today's defaults.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::ids::StageName;
use super::scalar::Scalar;

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePolicy {
    pub name: StageName,
    pub model: ModelKind,
    /// Settings as configured; patches change a copy of them in the state.
    pub settings: Settings,
    pub criteria: Vec<Criterion>,
    pub ladder: Vec<Rung>,
    pub bounds: Bounds,
}

/// The three models of TinyWorlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    VideoTokenizer,
    LatentActions,
    Dynamics,
}

/// Which checkpoint a retry starts from. Each falls back to the newest accepted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryFrom {
    Newest,
    LastPassed,
    Best,
}

/// The settings of a stage that a rung or a person may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Base learning rate, before warm-up and cosine.
    pub learning_rate: Scalar,
    /// The target, in updates.
    pub n_updates: u64,
    /// The updates that shape the learning-rate curve. Equal to the target until
    /// a failed final gate extends the target without reshaping the curve.
    pub schedule_updates: u64,
    /// Windows per micro-batch and rank.
    pub batch_size_per_gpu: u32,
    pub gradient_accumulation_steps: u32,
    /// Updates between samples of the metrics that are not logged at every update.
    pub log_interval: u64,
    /// Updates between two gates.
    pub chunk_size: u64,
    /// Updates between checkpoints; a fifth of a chunk when not set.
    pub checkpoint_interval: Option<u64>,
    /// Latent actions only: how many actions there are.
    pub n_actions: Option<u32>,
}

impl Settings {
    /// Updates between checkpoints.
    pub fn checkpoint_every(&self) -> u64 {
        self.checkpoint_interval
            .unwrap_or(self.chunk_size / 5)
            .max(1)
    }
}

/// A setting that a patch names. Each is the config key of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingKey {
    LearningRate,
    NUpdates,
    ScheduleUpdates,
    BatchSizePerGpu,
    GradientAccumulationSteps,
    LogInterval,
    ChunkSize,
    CheckpointInterval,
    NActions,
    MaxRetries,
}

impl SettingKey {
    /// The config key.
    pub const fn as_str(self) -> &'static str {
        match self {
            SettingKey::LearningRate => "learning_rate",
            SettingKey::NUpdates => "n_updates",
            SettingKey::ScheduleUpdates => "schedule_updates",
            SettingKey::BatchSizePerGpu => "batch_size_per_gpu",
            SettingKey::GradientAccumulationSteps => "gradient_accumulation_steps",
            SettingKey::LogInterval => "log_interval",
            SettingKey::ChunkSize => "chunk_size",
            SettingKey::CheckpointInterval => "checkpoint_interval",
            SettingKey::NActions => "n_actions",
            SettingKey::MaxRetries => "max_retries",
        }
    }
}

/// Value of a setting: a count or a real number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SettingValue {
    Count(u64),
    Real(Scalar),
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
    /// If entropy collapsed: `n_actions` to the next lower power of two, in the
    /// next full cycle only.
    DeferFewerActions,
}
