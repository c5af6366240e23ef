//! TinyWorlds' three stages under the built-in policies `seed` and `strict`, as plain data.
//!
//! A preset is a set of defaults. A config file can change any of them, and the result is
//! stored in a log's first event, so a replay reads nothing from here. No clock, file,
//! environment or float function is used.
//!
//! Invariant: every stage lists its criteria in the same order: the checkpoint, the finite
//! loss, those specific to the stage, skill, and the freshness of the metrics.

use serde::{Deserialize, Serialize};
use tinygate_events::metric;
use tinygate_events::{
    Applies, Bounds, Criterion, CriterionTest, FindingTest, InUse, Knob, KnobName, KnobRange,
    Limit, ModelName, Policy, RetryFrom, Rung, Scalar, SettingKey, SettingValue, Settings, Skill,
    StageName, StagePolicy, StructureLimits,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The original limits. Skill is reported in findings but not required.
    Seed,
    /// For real runs: uses a median instead of the last sample, allows for noise, requires skill.
    Strict,
}

impl Preset {
    pub const ALL: [Preset; 2] = [Preset::Seed, Preset::Strict];

    /// The config's value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Preset::Seed => "seed",
            Preset::Strict => "strict",
        }
    }

    pub fn from_name(name: &str) -> Option<Preset> {
        Preset::ALL.into_iter().find(|p| p.as_str() == name)
    }
}

/// The three models of TinyWorlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    VideoTokenizer,
    LatentActions,
    Dynamics,
}

impl ModelKind {
    /// In the order in which they are trained.
    pub const ALL: [ModelKind; 3] = [
        ModelKind::VideoTokenizer,
        ModelKind::LatentActions,
        ModelKind::Dynamics,
    ];

    /// The config's name of a model, which is also the default name of its stage.
    pub const fn as_str(self) -> &'static str {
        match self {
            ModelKind::VideoTokenizer => "video_tokenizer",
            ModelKind::LatentActions => "latent_actions",
            ModelKind::Dynamics => "dynamics",
        }
    }

    /// `None`: not a model of TinyWorlds.
    pub fn from_name(name: &str) -> Option<ModelKind> {
        ModelKind::ALL
            .into_iter()
            .find(|model| model.as_str() == name)
    }

    /// The model of a stage, if it is one of TinyWorlds'.
    pub fn of(model: &ModelName) -> Option<ModelKind> {
        ModelKind::from_name(model.as_str())
    }
}

/// The whole policy of a preset: the three stages in order.
pub fn policy(preset: Preset) -> Policy {
    let strict = preset == Preset::Strict;
    Policy {
        preset: preset.as_str().to_owned(),
        max_retries: 5,
        max_chunk_failures: 3,
        max_interruptions: 3,
        reset_on_pass: strict,
        retry_from: RetryFrom::Newest,
        latest_window: if strict { 25 } else { 1 },
        keep_last: 5,
        stages: ModelKind::ALL.map(|model| stage(preset, model)).to_vec(),
    }
}

/// A preset's stage for a model, under the model's name.
pub fn stage(preset: Preset, model: ModelKind) -> StagePolicy {
    StagePolicy {
        name: StageName::new(model.as_str()),
        model: ModelName::new(model.as_str()),
        loss: metric::LOSS.to_owned(),
        metrics: metrics(model),
        skills: skills(model),
        in_use: in_use(model),
        findings: findings(model),
        batch_size_min: batch_size_min(model),
        knobs: knobs(model),
        settings: settings(model),
        criteria: criteria_names(preset, model)
            .iter()
            .filter_map(|name| criterion(preset, Some(model), name))
            .collect(),
        ladder: ladder(model),
        bounds: bounds(),
    }
}

/// Metrics that are kept of a model besides its loss.
pub fn metrics(model: ModelKind) -> Vec<String> {
    let names: &[&str] = match model {
        ModelKind::VideoTokenizer => &[metric::LEARNING_RATE],
        ModelKind::LatentActions | ModelKind::Dynamics => &[
            metric::LEARNING_RATE,
            metric::UNIQUE_ACTIONS,
            metric::ACTION_ENTROPY,
        ],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Skill on whole frames, and on moving pixels, of which there may be none. Dynamics predicts
/// tokens, so it has no skill on pixels.
pub fn skills(model: ModelKind) -> Vec<Skill> {
    let frame = Skill {
        name: metric::SKILL.to_owned(),
        held_out: metric::HELD_OUT_LOSS.to_owned(),
        trivial: metric::TRIVIAL_LOSS.to_owned(),
        trivial_may_be_null: false,
    };
    let moving = Skill {
        name: metric::SKILL_MOVING.to_owned(),
        held_out: metric::HELD_OUT_LOSS_MOVING.to_owned(),
        trivial: metric::TRIVIAL_LOSS_MOVING.to_owned(),
        trivial_may_be_null: true,
    };
    match model {
        ModelKind::VideoTokenizer | ModelKind::LatentActions => vec![frame, moving],
        ModelKind::Dynamics => vec![frame],
    }
}

/// Latent actions that have collapsed into a single action can have a low loss but are useless.
pub fn in_use(model: ModelKind) -> Option<InUse> {
    match model {
        ModelKind::VideoTokenizer | ModelKind::Dynamics => None,
        ModelKind::LatentActions => Some(InUse {
            metric: metric::UNIQUE_ACTIONS.to_owned(),
            at_least: Scalar::new(2.0),
        }),
    }
}

/// The findings that apply to any stage.
pub fn common_findings() -> Vec<FindingTest> {
    vec![
        FindingTest::VacuousLimit,
        FindingTest::DecidedByNoise,
        FindingTest::NoSkill,
        FindingTest::NothingToMeasure,
    ]
}

/// The findings of a model's gates. Dynamics may also fail because of the actions it is given.
pub fn findings(model: ModelKind) -> Vec<FindingTest> {
    let mut findings = common_findings();
    if model == ModelKind::Dynamics {
        findings.push(FindingTest::Cause {
            actions: metric::UNIQUE_ACTIONS.to_owned(),
            entropy: metric::ACTION_ENTROPY.to_owned(),
            entropy_max: Scalar::new(0.1),
            learning_rate: metric::LEARNING_RATE.to_owned(),
        });
    }
    findings
}

/// Smallest micro-batch in windows. The variance penalty of latent actions needs two.
pub const fn batch_size_min(model: ModelKind) -> u32 {
    match model {
        ModelKind::VideoTokenizer | ModelKind::Dynamics => 1,
        ModelKind::LatentActions => 2,
    }
}

/// Name of the knob that is the number of latent actions.
pub const N_ACTIONS: &str = "n_actions";

/// Settings that only this model has.
pub fn knobs(model: ModelKind) -> Vec<Knob> {
    match model {
        ModelKind::VideoTokenizer | ModelKind::Dynamics => Vec::new(),
        ModelKind::LatentActions => vec![Knob {
            name: KnobName::new(N_ACTIONS),
            range: KnobRange::Integer { min: 2, max: 1024 },
            unit: "actions".to_owned(),
        }],
    }
}

/// TinyWorlds' settings, with the chunk sizes and targets of the gates.
pub fn settings(model: ModelKind) -> Settings {
    struct Row {
        learning_rate: f64,
        n_updates: u64,
        chunk_size: u64,
        log_interval: u64,
        batch_size_per_gpu: u32,
        n_actions: Option<u64>,
    }
    let row = match model {
        ModelKind::VideoTokenizer => Row {
            learning_rate: 1e-3,
            n_updates: 40_000,
            chunk_size: 5_000,
            log_interval: 2_500,
            batch_size_per_gpu: 350,
            n_actions: None,
        },
        ModelKind::LatentActions => Row {
            learning_rate: 1e-4,
            n_updates: 10_000,
            chunk_size: 1_000,
            log_interval: 500,
            batch_size_per_gpu: 350,
            n_actions: Some(4),
        },
        ModelKind::Dynamics => Row {
            learning_rate: 1e-2,
            n_updates: 300_000,
            chunk_size: 5_000,
            log_interval: 2_000,
            batch_size_per_gpu: 500,
            n_actions: None,
        },
    };
    Settings {
        learning_rate: Scalar::new(row.learning_rate),
        n_updates: row.n_updates,
        schedule_updates: row.n_updates,
        batch_size_per_gpu: row.batch_size_per_gpu,
        gradient_accumulation_steps: 1,
        log_interval: row.log_interval,
        chunk_size: row.chunk_size,
        checkpoint_interval: None,
        knobs: row
            .n_actions
            .map(|count| (KnobName::new(N_ACTIONS), Some(SettingValue::Count(count))))
            .into_iter()
            .collect(),
    }
}

/// Names of the criteria of a preset's stage, in their order.
pub const fn criteria_names(preset: Preset, model: ModelKind) -> &'static [&'static str] {
    match (preset, model) {
        (Preset::Seed, ModelKind::VideoTokenizer) => &[
            "checkpoint_valid",
            "loss_finite",
            "loss_trend",
            "loss_latest",
            "metrics_fresh",
        ],
        (Preset::Seed, ModelKind::LatentActions) => &[
            "checkpoint_valid",
            "loss_finite",
            "loss_latest",
            "unique_actions",
            "action_entropy",
            "metrics_fresh",
        ],
        (Preset::Seed, ModelKind::Dynamics) => &[
            "checkpoint_valid",
            "loss_finite",
            "loss_not_rising",
            "loss_delta",
            "visual_structure",
            "metrics_fresh",
        ],
        (Preset::Strict, ModelKind::VideoTokenizer) => &[
            "checkpoint_valid",
            "loss_finite",
            "loss_trend",
            "loss_latest",
            "skill",
            "metrics_fresh",
        ],
        (Preset::Strict, ModelKind::LatentActions) => &[
            "checkpoint_valid",
            "loss_finite",
            "loss_latest",
            "unique_actions",
            "action_entropy",
            "skill",
            "metrics_fresh",
        ],
        (Preset::Strict, ModelKind::Dynamics) => &[
            "checkpoint_valid",
            "loss_finite",
            "loss_not_rising",
            "loss_delta",
            "visual_structure",
            "skill",
            "metrics_fresh",
        ],
    }
}

/// A criterion with the preset's limit. `model` is `None` for a custom stage. The limit is
/// [unset](unset_limit) if only the user can choose it. `None`: there is no such criterion.
pub fn criterion(preset: Preset, model: Option<ModelKind>, name: &str) -> Option<Criterion> {
    let strict = preset == Preset::Strict;
    let constant = |limit: f64| Limit::Constant(Scalar::new(limit));
    let test = match name {
        "checkpoint_valid" => CriterionTest::CheckpointValid,
        "loss_finite" => CriterionTest::LossFinite,
        "metrics_fresh" => CriterionTest::MetricsFresh,
        "loss_trend" => CriterionTest::LossTrend {
            tolerance: Scalar::new(if strict { 0.01 } else { 0.0 }),
        },
        "loss_latest" => CriterionTest::LossLatest {
            limit: match model {
                Some(ModelKind::VideoTokenizer) => constant(0.01),
                Some(ModelKind::LatentActions) => constant(0.06),
                Some(ModelKind::Dynamics) | None => unset_limit(),
            },
        },
        "unique_actions" => CriterionTest::MetricAtLeast {
            metric: metric::UNIQUE_ACTIONS.to_owned(),
            limit: constant(2.0),
        },
        "action_entropy" => CriterionTest::MetricAtLeast {
            metric: metric::ACTION_ENTROPY.to_owned(),
            limit: constant(0.4),
        },
        "codebook_usage" => CriterionTest::MetricAtLeast {
            metric: metric::CODEBOOK_USAGE.to_owned(),
            limit: unset_limit(),
        },
        "loss_not_rising" => CriterionTest::LossNotRising {
            tolerance: Scalar::new(0.02),
            standard_errors: Scalar::new(standard_errors(preset)),
        },
        "loss_delta" => CriterionTest::LossDelta {
            tolerance: Scalar::new(0.02),
            standard_errors: Scalar::new(standard_errors(preset)),
        },
        "visual_structure" => CriterionTest::VisualStructure {
            limits: structure_limits(),
            share: Scalar::new(0.5),
        },
        "skill" => CriterionTest::SkillAbove {
            metric: metric::SKILL.to_owned(),
            limit: constant(0.0),
        },
        "skill_moving" => CriterionTest::SkillAbove {
            metric: metric::SKILL_MOVING.to_owned(),
            limit: constant(0.0),
        },
        _ => return None,
    };
    Some(Criterion {
        name: name.to_owned(),
        applies: applies(preset, name),
        test,
    })
}

/// A limit that the user must still choose. No finished config has one.
pub fn unset_limit() -> Limit {
    Limit::Constant(Scalar::new(f64::NAN))
}

pub fn is_unset(limit: &Limit) -> bool {
    matches!(limit, Limit::Constant(x) if x.get().is_nan())
}

/// When a criterion is evaluated. Reaching an absolute limit takes the whole training, so
/// `strict` evaluates those only at the target.
pub fn applies(preset: Preset, name: &str) -> Applies {
    match (preset, name) {
        (Preset::Strict, "loss_latest" | "skill" | "skill_moving") => Applies::AtTarget,
        (Preset::Seed | Preset::Strict, _) => Applies::EveryGate,
    }
}

/// When a predicted frame counts as having lost its structure. Found by experiment on two
/// games: the limits lie between fake frames and the worst predictions that still show the
/// scene. `tests/structure_scores.rs` checks both.
pub const fn structure_limits() -> StructureLimits {
    StructureLimits {
        flatness_min: Scalar::new(0.05),
        flatness_max: Scalar::new(5.0),
        stripes_max: Scalar::new(0.5),
        blockiness_max: Scalar::new(6.0),
        ssim_min: Scalar::new(0.25),
        mse_ratio_max: Scalar::new(2.0),
    }
}

const fn standard_errors(preset: Preset) -> f64 {
    match preset {
        Preset::Seed => 0.0,
        Preset::Strict => 2.0,
    }
}

/// The rungs of a model's ladder, first to last.
pub fn ladder(model: ModelKind) -> Vec<Rung> {
    let multiply = |key, factor| Rung::Multiply {
        key,
        factor: Scalar::new(factor),
    };
    let accumulate = |amount| Rung::Add {
        key: SettingKey::GradientAccumulationSteps,
        amount,
    };
    match model {
        ModelKind::VideoTokenizer => vec![
            multiply(SettingKey::LearningRate, 0.5),
            accumulate(1),
            multiply(SettingKey::LogInterval, 0.5),
        ],
        ModelKind::LatentActions => vec![
            multiply(SettingKey::LearningRate, 0.8),
            Rung::ExtendTarget,
            defer_fewer_actions(),
        ],
        ModelKind::Dynamics => vec![
            multiply(SettingKey::LearningRate, 0.2),
            accumulate(-1),
            multiply(SettingKey::LogInterval, 0.5),
            multiply(SettingKey::ChunkSize, 0.5),
        ],
    }
}

/// If the actions have collapsed, the next full cycle uses fewer of them.
pub fn defer_fewer_actions() -> Rung {
    Rung::DeferPowerOfTwo {
        key: SettingKey::knob(N_ACTIONS),
        when_failed: [metric::UNIQUE_ACTIONS, metric::ACTION_ENTROPY]
            .map(str::to_owned)
            .to_vec(),
    }
}

/// Bounds on what rungs change.
pub const fn bounds() -> Bounds {
    Bounds {
        learning_rate_min: Scalar::new(1e-6),
        accumulation_min: 1,
        accumulation_max: 64,
        log_interval_min_share: Scalar::new(0.01),
        chunk_size_min_share: Scalar::new(0.125),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_criterion_has_a_default() {
        for preset in Preset::ALL {
            for model in ModelKind::ALL {
                let stage = stage(preset, model);
                let names: Vec<&str> = stage.criteria.iter().map(|c| c.name.as_str()).collect();
                assert_eq!(names, criteria_names(preset, model));
                for criterion in &stage.criteria {
                    let limit = if let CriterionTest::LossLatest { limit }
                    | CriterionTest::MetricAtLeast { limit, .. }
                    | CriterionTest::SkillAbove { limit, .. } = &criterion.test
                    {
                        Some(limit)
                    } else {
                        None
                    };
                    assert!(!limit.is_some_and(is_unset), "{}", criterion.name);
                }
            }
        }
    }

    #[track_caller]
    fn check(name: &str, preset: Preset, model: ModelKind, criterion: &str, want: Option<Applies>) {
        let found = stage(preset, model)
            .criteria
            .into_iter()
            .find(|c| c.name == criterion)
            .map(|c| c.applies);
        assert_eq!(found, want, "{name}");
    }

    #[test]
    fn when_each_criterion_applies() {
        use Applies::{AtTarget, EveryGate};
        use ModelKind::{Dynamics, LatentActions, VideoTokenizer};
        use Preset::{Seed, Strict};
        check(
            "seed: at every gate",
            Seed,
            VideoTokenizer,
            "loss_latest",
            Some(EveryGate),
        );
        check("seed: no skill", Seed, VideoTokenizer, "skill", None);
        check(
            "strict: absolute limits late",
            Strict,
            LatentActions,
            "loss_latest",
            Some(AtTarget),
        );
        check(
            "strict: skill late",
            Strict,
            Dynamics,
            "skill",
            Some(AtTarget),
        );
        check(
            "strict: trend always",
            Strict,
            VideoTokenizer,
            "loss_trend",
            Some(EveryGate),
        );
        check(
            "strict: actions always",
            Strict,
            LatentActions,
            "unique_actions",
            Some(EveryGate),
        );
        check(
            "dynamics has no absolute limit",
            Seed,
            Dynamics,
            "loss_latest",
            None,
        );
    }
}
