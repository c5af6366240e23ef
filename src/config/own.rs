//! A stage of the user's own: its name, metrics, criteria, knobs and rungs, none of which a model of
//! TinyWorlds has.
//!
//! A table is of such a stage when it names its `loss`. The knobs, and the metrics that a gate
//! asks for, are keys whose names the user chooses, so they are read from the text before the rows
//! are made.

use std::collections::BTreeMap;

use crate::events::{
    Applies, Criterion, CriterionTest, FindingTest, Knob, KnobName, KnobRange, Limit, ModelName,
    Rung, Scalar, SettingKey, SettingValue, Settings, StageName, StagePolicy,
};
use crate::presets::{self, Preset};

use super::tree::{Node, Value};

/// The key that makes a stage the user's own.
pub(super) const LOSS: &str = "loss";
/// The table of the knobs' ranges.
pub(super) const KNOBS: &str = "knobs";
/// The criteria that every stage can have.
const CRITERIA: [&str; 9] = [
    "checkpoint_valid",
    "loss_finite",
    "loss_trend",
    "loss_latest",
    "loss_not_rising",
    "loss_delta",
    "visual_structure",
    "skill",
    "metrics_fresh",
];
/// The table of the metrics that a gate asks for.
pub(super) const AT_LEAST: &str = "gate.at_least";

/// What a stage of the user's own names by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Own {
    /// Whether each knob is an integer, by name.
    pub knobs: BTreeMap<String, bool>,
    /// Metrics that a gate asks for.
    pub at_least: Vec<String>,
}

impl Own {
    /// `None`: a stage of TinyWorlds.
    ///
    /// `is_taken` says which names are those of other keys.
    pub fn of_tree(table: &Node, is_taken: impl Fn(&str) -> bool) -> Option<Own> {
        table.entry(LOSS)?;
        let mut own = Own::default();
        let knobs = table.entry(KNOBS).into_iter().flat_map(Node::entries);
        for (name, range) in knobs.filter(|(name, _)| is_name(name) && !is_taken(name)) {
            let whole = |key: &str| {
                range
                    .entry(key)
                    .is_some_and(|node| matches!(node.value, Value::Integer(_)))
            };
            own.knobs.insert(name.clone(), whole("min") && whole("max"));
        }
        let gate = table.entry("gate").and_then(|gate| gate.entry("at_least"));
        let asked = gate.into_iter().flat_map(Node::entries);
        let metrics = asked.map(|(metric, _)| metric.clone());
        own.at_least = metrics.filter(|metric| is_free(metric)).collect();
        Some(own)
    }

    /// `None`: a stage of TinyWorlds.
    pub fn of_policy(policy: &StagePolicy) -> Option<Own> {
        if presets::ModelKind::of(&policy.model).is_some() {
            return None;
        }
        let knob = |knob: &Knob| {
            let integer = matches!(knob.range, KnobRange::Integer { .. });
            (knob.name.as_str().to_owned(), integer)
        };
        let asked = policy.criteria.iter().filter_map(|criterion| {
            if let CriterionTest::MetricAtLeast { metric, .. } = &criterion.test {
                Some(metric.clone())
            } else {
                None
            }
        });
        Some(Own {
            knobs: policy.knobs.iter().map(knob).collect(),
            at_least: asked.collect(),
        })
    }

    /// The stage before its rows are read. What it cannot do without has no default.
    pub fn policy(&self, name: &str, preset: Preset) -> StagePolicy {
        let knob = |(name, integer): (&String, &bool)| Knob {
            name: KnobName::new(name.as_str()),
            range: if *integer {
                KnobRange::Integer { min: 0, max: 0 }
            } else {
                KnobRange::Number {
                    min: Scalar::new(0.0),
                    max: Scalar::new(0.0),
                }
            },
            unit: String::new(),
        };
        let value = |(name, integer): (&String, &bool)| {
            let value = if *integer {
                SettingValue::Count(0)
            } else {
                SettingValue::Real(Scalar::new(0.0))
            };
            (KnobName::new(name.as_str()), Some(value))
        };
        StagePolicy {
            name: StageName::new(name),
            model: ModelName::new(name),
            loss: String::new(),
            metrics: Vec::new(),
            skills: Vec::new(),
            in_use: None,
            findings: vec![
                FindingTest::VacuousLimit,
                FindingTest::DecidedByNoise,
                FindingTest::NoSkill,
                FindingTest::NothingToMeasure,
            ],
            batch_size_min: 1,
            knobs: self.knobs.iter().map(knob).collect(),
            settings: Settings {
                learning_rate: Scalar::new(0.0),
                n_updates: 0,
                schedule_updates: 0,
                batch_size_per_gpu: 0,
                gradient_accumulation_steps: 1,
                log_interval: 1,
                chunk_size: 1,
                checkpoint_interval: None,
                knobs: self.knobs.iter().map(value).collect(),
            },
            criteria: self
                .names_by_default()
                .iter()
                .filter_map(|name| self.criterion(preset, name))
                .collect(),
            ladder: vec![
                Rung::Multiply {
                    key: SettingKey::LearningRate,
                    factor: Scalar::new(0.5),
                },
                Rung::ExtendTarget,
            ],
            bounds: presets::bounds(),
        }
    }

    /// Names of the criteria that may stand in the stage's gate.
    pub fn criteria(&self) -> Vec<String> {
        let mut names: Vec<String> = CRITERIA.map(str::to_owned).to_vec();
        names.extend(self.at_least.iter().cloned());
        names
    }

    /// Names of those that its gate asks unless it says otherwise.
    pub fn names_by_default(&self) -> Vec<String> {
        let asked = self.at_least.iter().map(String::as_str);
        ["checkpoint_valid", "loss_finite", "loss_trend"]
            .into_iter()
            .chain(asked)
            .chain(["metrics_fresh"])
            .map(str::to_owned)
            .collect()
    }

    /// A criterion of this name, without a limit where only the user can know it.
    pub fn criterion(&self, preset: Preset, name: &str) -> Option<Criterion> {
        if self.at_least.iter().any(|metric| metric == name) {
            return Some(Criterion {
                name: name.to_owned(),
                applies: Applies::EveryGate,
                test: CriterionTest::MetricAtLeast {
                    metric: name.to_owned(),
                    limit: Limit::Constant(Scalar::new(f64::NAN)),
                },
            });
        }
        presets::common_criterion(preset, name)
    }
}

/// Whether a metric can give its name to a criterion.
fn is_free(metric: &str) -> bool {
    !metric.is_empty() && !metric.contains('.') && !CRITERIA.contains(&metric)
}

/// Whether a knob can be written so; it is a key of its stage.
fn is_name(name: &str) -> bool {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    name.starts_with(|c: char| c.is_ascii_lowercase()) && letters && name.len() <= 64
}
