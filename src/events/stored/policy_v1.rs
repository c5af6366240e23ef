//! Version 1 of the policy, used in logs without a version. Frozen, and only read.
//!
//! It only had the three models of TinyWorlds. What the rules of that time had in code for
//! each model is data now, which [`of_model`] adds.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use serde::Deserialize;

use crate as live;
use crate::{KnobName, ModelName, Scalar, SettingValue, StageName};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    preset: String,
    max_retries: u32,
    max_chunk_failures: u32,
    max_interruptions: u32,
    reset_on_pass: bool,
    retry_from: RetryFrom,
    latest_window: u32,
    keep_last: u32,
    stages: Vec<StagePolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StagePolicy {
    name: StageName,
    model: ModelKind,
    settings: Settings,
    criteria: Vec<Criterion>,
    ladder: Vec<Rung>,
    bounds: Bounds,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ModelKind {
    VideoTokenizer,
    LatentActions,
    Dynamics,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RetryFrom {
    Newest,
    LastPassed,
    Best,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    learning_rate: Scalar,
    n_updates: u64,
    schedule_updates: u64,
    batch_size_per_gpu: u32,
    gradient_accumulation_steps: u32,
    log_interval: u64,
    chunk_size: u64,
    checkpoint_interval: Option<u64>,
    n_actions: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SettingKey {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bounds {
    learning_rate_min: Scalar,
    accumulation_min: u32,
    accumulation_max: u32,
    log_interval_min_share: Scalar,
    chunk_size_min_share: Scalar,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Criterion {
    name: String,
    applies: Applies,
    test: CriterionTest,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Applies {
    EveryGate,
    AtTarget,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum CriterionTest {
    CheckpointValid,
    LossFinite,
    LossTrend {
        tolerance: Scalar,
    },
    LossLatest {
        limit: Limit,
    },
    MetricAtLeast {
        metric: String,
        limit: Limit,
    },
    LossNotRising {
        tolerance: Scalar,
        standard_errors: Scalar,
    },
    LossDelta {
        tolerance: Scalar,
        standard_errors: Scalar,
    },
    VisualStructure {
        limits: StructureLimits,
        share: Scalar,
    },
    SkillAbove {
        metric: String,
        limit: Limit,
    },
    MetricsFresh,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Limit {
    Constant(Scalar),
    Schedule(Vec<(u64, Scalar)>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StructureLimits {
    flatness_min: Scalar,
    flatness_max: Scalar,
    stripes_max: Scalar,
    blockiness_max: Scalar,
    ssim_min: Scalar,
    mse_ratio_max: Scalar,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Rung {
    Multiply { key: SettingKey, factor: Scalar },
    Add { key: SettingKey, amount: i64 },
    ExtendTarget,
    DeferFewerActions,
}

const N_ACTIONS: &str = "n_actions";
const LEARNING_RATE: &str = "learning_rate";
const UNIQUE_ACTIONS: &str = "unique_actions";
const ACTION_ENTROPY: &str = "action_entropy";

impl From<Policy> for live::Policy {
    fn from(old: Policy) -> live::Policy {
        live::Policy {
            preset: old.preset,
            max_retries: old.max_retries,
            max_chunk_failures: old.max_chunk_failures,
            max_interruptions: old.max_interruptions,
            reset_on_pass: old.reset_on_pass,
            retry_from: match old.retry_from {
                RetryFrom::Newest => live::RetryFrom::Newest,
                RetryFrom::LastPassed => live::RetryFrom::LastPassed,
                RetryFrom::Best => live::RetryFrom::Best,
            },
            latest_window: old.latest_window,
            keep_last: old.keep_last,
            stages: old
                .stages
                .into_iter()
                .map(live::StagePolicy::from)
                .collect(),
        }
    }
}

impl From<StagePolicy> for live::StagePolicy {
    fn from(old: StagePolicy) -> live::StagePolicy {
        let of_model = of_model(old.model);
        live::StagePolicy {
            name: old.name,
            model: ModelName::new(of_model.name),
            loss: "train/loss".to_owned(),
            metrics: [LEARNING_RATE, UNIQUE_ACTIONS, ACTION_ENTROPY]
                .map(ToOwned::to_owned)
                .to_vec(),
            skills: of_model.skills,
            in_use: of_model.in_use,
            findings: of_model.findings,
            batch_size_min: of_model.batch_size_min,
            knobs: if old.settings.n_actions.is_some() {
                vec![live::Knob {
                    name: KnobName::new(N_ACTIONS),
                    range: live::KnobRange::Integer { min: 2, max: 1024 },
                    unit: "actions".to_owned(),
                }]
            } else {
                Vec::new()
            },
            settings: old.settings.into(),
            criteria: old
                .criteria
                .into_iter()
                .map(live::Criterion::from)
                .collect(),
            ladder: old.ladder.into_iter().map(live::Rung::from).collect(),
            bounds: live::Bounds {
                learning_rate_min: old.bounds.learning_rate_min,
                accumulation_min: old.bounds.accumulation_min,
                accumulation_max: old.bounds.accumulation_max,
                log_interval_min_share: old.bounds.log_interval_min_share,
                chunk_size_min_share: old.bounds.chunk_size_min_share,
            },
        }
    }
}

/// What the rules of version 1 had in code for a model.
struct OfModel {
    name: &'static str,
    skills: Vec<live::Skill>,
    in_use: Option<live::InUse>,
    findings: Vec<live::FindingTest>,
    batch_size_min: u32,
}

fn of_model(model: ModelKind) -> OfModel {
    let skill = |name: &str, held_out: &str, trivial: &str, trivial_may_be_null| live::Skill {
        name: name.to_owned(),
        held_out: held_out.to_owned(),
        trivial: trivial.to_owned(),
        trivial_may_be_null,
    };
    let of_frame = skill("skill", "held_out_loss", "trivial_loss", false);
    let of_moving = skill(
        "skill_moving",
        "held_out_loss_moving",
        "trivial_loss_moving",
        true,
    );
    let findings = vec![
        live::FindingTest::VacuousLimit,
        live::FindingTest::DecidedByNoise,
        live::FindingTest::NoSkill,
        live::FindingTest::NothingToMeasure,
    ];
    match model {
        ModelKind::VideoTokenizer => OfModel {
            name: "video_tokenizer",
            skills: vec![of_frame, of_moving],
            in_use: None,
            findings,
            batch_size_min: 1,
        },
        ModelKind::LatentActions => OfModel {
            name: "latent_actions",
            skills: vec![of_frame, of_moving],
            in_use: Some(live::InUse {
                metric: UNIQUE_ACTIONS.to_owned(),
                at_least: Scalar::new(2.0),
            }),
            findings,
            batch_size_min: 2,
        },
        ModelKind::Dynamics => OfModel {
            name: "dynamics",
            skills: vec![of_frame],
            in_use: None,
            findings: findings
                .into_iter()
                .chain([live::FindingTest::Cause {
                    actions: UNIQUE_ACTIONS.to_owned(),
                    entropy: ACTION_ENTROPY.to_owned(),
                    entropy_max: Scalar::new(0.1),
                    learning_rate: LEARNING_RATE.to_owned(),
                }])
                .collect(),
            batch_size_min: 1,
        },
    }
}

impl From<Settings> for live::Settings {
    fn from(old: Settings) -> live::Settings {
        live::Settings {
            learning_rate: old.learning_rate,
            n_updates: old.n_updates,
            schedule_updates: old.schedule_updates,
            batch_size_per_gpu: old.batch_size_per_gpu,
            gradient_accumulation_steps: old.gradient_accumulation_steps,
            log_interval: old.log_interval,
            chunk_size: old.chunk_size,
            checkpoint_interval: old.checkpoint_interval,
            knobs: BTreeMap::from([(
                KnobName::new(N_ACTIONS),
                old.n_actions.map(|count| SettingValue::Count(count.into())),
            )]),
        }
    }
}

impl From<SettingKey> for live::SettingKey {
    fn from(old: SettingKey) -> live::SettingKey {
        match old {
            SettingKey::LearningRate => live::SettingKey::LearningRate,
            SettingKey::NUpdates => live::SettingKey::NUpdates,
            SettingKey::ScheduleUpdates => live::SettingKey::ScheduleUpdates,
            SettingKey::BatchSizePerGpu => live::SettingKey::BatchSizePerGpu,
            SettingKey::GradientAccumulationSteps => live::SettingKey::GradientAccumulationSteps,
            SettingKey::LogInterval => live::SettingKey::LogInterval,
            SettingKey::ChunkSize => live::SettingKey::ChunkSize,
            SettingKey::CheckpointInterval => live::SettingKey::CheckpointInterval,
            SettingKey::NActions => live::SettingKey::knob(N_ACTIONS),
            SettingKey::MaxRetries => live::SettingKey::MaxRetries,
        }
    }
}

impl From<Criterion> for live::Criterion {
    fn from(old: Criterion) -> live::Criterion {
        live::Criterion {
            name: old.name,
            applies: match old.applies {
                Applies::EveryGate => live::Applies::EveryGate,
                Applies::AtTarget => live::Applies::AtTarget,
            },
            test: old.test.into(),
        }
    }
}

impl From<CriterionTest> for live::CriterionTest {
    fn from(old: CriterionTest) -> live::CriterionTest {
        match old {
            CriterionTest::CheckpointValid => live::CriterionTest::CheckpointValid,
            CriterionTest::LossFinite => live::CriterionTest::LossFinite,
            CriterionTest::LossTrend { tolerance } => live::CriterionTest::LossTrend { tolerance },
            CriterionTest::LossLatest { limit } => live::CriterionTest::LossLatest {
                limit: limit.into(),
            },
            CriterionTest::MetricAtLeast { metric, limit } => live::CriterionTest::MetricAtLeast {
                metric,
                limit: limit.into(),
            },
            CriterionTest::LossNotRising {
                tolerance,
                standard_errors,
            } => live::CriterionTest::LossNotRising {
                tolerance,
                standard_errors,
            },
            CriterionTest::LossDelta {
                tolerance,
                standard_errors,
            } => live::CriterionTest::LossDelta {
                tolerance,
                standard_errors,
            },
            CriterionTest::VisualStructure { limits, share } => {
                live::CriterionTest::VisualStructure {
                    limits: live::StructureLimits {
                        flatness_min: limits.flatness_min,
                        flatness_max: limits.flatness_max,
                        stripes_max: limits.stripes_max,
                        blockiness_max: limits.blockiness_max,
                        ssim_min: limits.ssim_min,
                        mse_ratio_max: limits.mse_ratio_max,
                    },
                    share,
                }
            }
            CriterionTest::SkillAbove { metric, limit } => live::CriterionTest::SkillAbove {
                metric,
                limit: limit.into(),
            },
            CriterionTest::MetricsFresh => live::CriterionTest::MetricsFresh,
        }
    }
}

impl From<Limit> for live::Limit {
    fn from(old: Limit) -> live::Limit {
        match old {
            Limit::Constant(limit) => live::Limit::Constant(limit),
            Limit::Schedule(steps) => live::Limit::Schedule(steps),
        }
    }
}

impl From<Rung> for live::Rung {
    fn from(old: Rung) -> live::Rung {
        match old {
            Rung::Multiply { key, factor } => live::Rung::Multiply {
                key: key.into(),
                factor,
            },
            Rung::Add { key, amount } => live::Rung::Add {
                key: key.into(),
                amount,
            },
            Rung::ExtendTarget => live::Rung::ExtendTarget,
            Rung::DeferFewerActions => live::Rung::DeferPowerOfTwo {
                key: live::SettingKey::knob(N_ACTIONS),
                when_failed: [UNIQUE_ACTIONS, ACTION_ENTROPY]
                    .map(ToOwned::to_owned)
                    .to_vec(),
            },
        }
    }
}
