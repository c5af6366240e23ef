//! The settings of a stage: the core settings of every stage, and the knobs of its policy.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};

use super::ids::KnobName;
use super::scalar::Scalar;

/// The settings of a stage that rungs and people may change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Base learning rate, before warm-up and cosine.
    pub learning_rate: Scalar,
    /// The target, in updates.
    pub n_updates: u64,
    /// Length of the learning rate's curve. Equal to the target until a failed final gate
    /// extends the target without changing the curve.
    pub schedule_updates: u64,
    /// Windows per micro-batch and rank.
    pub batch_size_per_gpu: u32,
    pub gradient_accumulation_steps: u32,
    /// Updates between samples of metrics that are not logged at every update.
    pub log_interval: u64,
    /// Updates between two gates.
    pub chunk_size: u64,
    /// Updates between checkpoints; a fifth of a chunk if not set.
    pub checkpoint_interval: Option<u64>,
    /// Values of the knobs. `None`: not a setting of this stage; older logs list `n_actions` in
    /// every stage.
    #[serde(flatten)]
    pub knobs: BTreeMap<KnobName, Option<SettingValue>>,
}

impl Settings {
    /// Updates between checkpoints.
    pub fn checkpoint_every(&self) -> u64 {
        self.checkpoint_interval
            .unwrap_or(self.chunk_size / 5)
            .max(1)
    }

    /// The value of a knob, if this stage has it.
    pub fn knob(&self, name: &KnobName) -> Option<SettingValue> {
        self.knobs.get(name).copied().flatten()
    }
}

/// A setting that a patch can change. Its name is that of the config key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SettingKey {
    LearningRate,
    NUpdates,
    ScheduleUpdates,
    BatchSizePerGpu,
    GradientAccumulationSteps,
    LogInterval,
    ChunkSize,
    CheckpointInterval,
    MaxRetries,
    /// A knob of the stage.
    Knob(KnobName),
}

impl SettingKey {
    /// The settings that every stage has.
    pub const CORE: [SettingKey; 9] = [
        SettingKey::LearningRate,
        SettingKey::NUpdates,
        SettingKey::ScheduleUpdates,
        SettingKey::BatchSizePerGpu,
        SettingKey::GradientAccumulationSteps,
        SettingKey::LogInterval,
        SettingKey::ChunkSize,
        SettingKey::CheckpointInterval,
        SettingKey::MaxRetries,
    ];

    /// The config key.
    pub fn as_str(&self) -> &str {
        match self {
            SettingKey::LearningRate => "learning_rate",
            SettingKey::NUpdates => "n_updates",
            SettingKey::ScheduleUpdates => "schedule_updates",
            SettingKey::BatchSizePerGpu => "batch_size_per_gpu",
            SettingKey::GradientAccumulationSteps => "gradient_accumulation_steps",
            SettingKey::LogInterval => "log_interval",
            SettingKey::ChunkSize => "chunk_size",
            SettingKey::CheckpointInterval => "checkpoint_interval",
            SettingKey::MaxRetries => "max_retries",
            SettingKey::Knob(name) => name.as_str(),
        }
    }

    /// The setting of this name. A name that is not in [`SettingKey::CORE`] is a knob.
    pub fn of_name(name: &str) -> SettingKey {
        SettingKey::CORE
            .into_iter()
            .find(|key| key.as_str() == name)
            .unwrap_or_else(|| SettingKey::Knob(KnobName::new(name)))
    }

    /// The key of a knob.
    pub fn knob(name: &str) -> SettingKey {
        SettingKey::Knob(KnobName::new(name))
    }
}

impl Serialize for SettingKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for SettingKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SettingKey, D::Error> {
        Ok(SettingKey::of_name(&String::deserialize(deserializer)?))
    }
}

/// The value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SettingValue {
    Count(u64),
    Real(Scalar),
}

/// A setting that only this stage has, and that its trainer knows by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knob {
    pub name: KnobName,
    pub range: KnobRange,
    /// For display, such as `actions`; empty if it has none.
    pub unit: String,
}

/// The range of a knob. Rungs are clamped to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum KnobRange {
    Integer { min: u64, max: u64 },
    Number { min: Scalar, max: Scalar },
}

impl KnobRange {
    /// Whether the value is in the range.
    pub fn contains(self, value: SettingValue) -> bool {
        match (self, value) {
            (KnobRange::Integer { min, max }, SettingValue::Count(count)) => {
                min <= count && count <= max
            }
            (KnobRange::Number { min, max }, SettingValue::Real(real)) => {
                min.get() <= real.get() && real.get() <= max.get()
            }
            (KnobRange::Integer { .. }, SettingValue::Real(_))
            | (KnobRange::Number { .. }, SettingValue::Count(_)) => false,
        }
    }
}
