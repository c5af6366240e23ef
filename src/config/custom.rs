//! A custom stage: its name, metrics, criteria, knobs and rungs come from the config.
//!
//! A stage is custom if its table has the key `loss`. The user chooses the names of knobs, and of
//! metrics with a limit; both are keys, so their names are read before the rows are made.

use std::collections::BTreeMap;

use crate::events::{
    Applies, Criterion, CriterionTest, Knob, KnobName, KnobRange, ModelName, Rung, Scalar,
    SettingKey, SettingValue, Settings, StageName, StagePolicy,
};
use crate::presets::{self, Preset};

use super::tree::{Node, Value};

/// The key that makes a stage custom.
pub(super) const LOSS: &str = "loss";
/// The table of the knobs' ranges.
pub(super) const KNOBS: &str = "knobs";
/// The criteria that any custom stage can have.
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
/// The table of limits on metrics.
pub(super) const AT_LEAST: &str = "gate.at_least";

/// The names that a custom stage defines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CustomStage {
    /// The knobs; the flag says whether a knob is an integer.
    pub knobs: BTreeMap<String, bool>,
    /// The metrics for which the gate sets a limit.
    pub at_least: Vec<String>,
}

impl CustomStage {
    /// `None`: a built-in stage.
    ///
    /// `is_taken` says whether another key of the stage has a name.
    pub fn of_tree(table: &Node, is_taken: impl Fn(&str) -> bool) -> Option<CustomStage> {
        table.entry(LOSS)?;
        let mut custom = CustomStage::default();
        let knobs = table.entry(KNOBS).into_iter().flat_map(Node::entries);
        for (name, range) in knobs.filter(|(name, _)| is_name(name) && !is_taken(name)) {
            let whole = |key: &str| {
                range
                    .entry(key)
                    .is_some_and(|node| matches!(node.value, Value::Integer(_)))
            };
            custom
                .knobs
                .insert(name.clone(), whole("min") && whole("max"));
        }
        let gate = table.entry("gate").and_then(|gate| gate.entry("at_least"));
        let limits = gate.into_iter().flat_map(Node::entries);
        let metrics = limits.map(|(metric, _)| metric.clone());
        custom.at_least = metrics.filter(|metric| is_free(metric)).collect();
        Some(custom)
    }

    /// `None`: a built-in stage.
    pub fn of_policy(policy: &StagePolicy) -> Option<CustomStage> {
        if presets::ModelKind::of(&policy.model).is_some() {
            return None;
        }
        let knob = |knob: &Knob| {
            let integer = matches!(knob.range, KnobRange::Integer { .. });
            (knob.name.as_str().to_owned(), integer)
        };
        let limited = policy.criteria.iter().filter_map(|criterion| {
            if let CriterionTest::MetricAtLeast { metric, .. } = &criterion.test {
                Some(metric.clone())
            } else {
                None
            }
        });
        Some(CustomStage {
            knobs: policy.knobs.iter().map(knob).collect(),
            at_least: limited.collect(),
        })
    }

    /// The stage before its keys are read. Placeholders stand for required keys.
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
            findings: presets::common_findings(),
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

    /// Names of the criteria that the stage's gate can have.
    pub fn criteria(&self) -> Vec<String> {
        let mut names: Vec<String> = CRITERIA.map(str::to_owned).to_vec();
        names.extend(self.at_least.iter().cloned());
        names
    }

    /// Names of the criteria of its gate if the list is not set.
    pub fn names_by_default(&self) -> Vec<String> {
        let limited = self.at_least.iter().map(String::as_str);
        ["checkpoint_valid", "loss_finite", "loss_trend"]
            .into_iter()
            .chain(limited)
            .chain(["metrics_fresh"])
            .map(str::to_owned)
            .collect()
    }

    /// The criterion of this name, with an unset limit if there is no default.
    pub fn criterion(&self, preset: Preset, name: &str) -> Option<Criterion> {
        if self.at_least.iter().any(|metric| metric == name) {
            return Some(Criterion {
                name: name.to_owned(),
                applies: Applies::EveryGate,
                test: CriterionTest::MetricAtLeast {
                    metric: name.to_owned(),
                    limit: presets::unset_limit(),
                },
            });
        }
        presets::criterion(preset, None, name)
    }
}

/// Whether a criterion can be named after the metric.
fn is_free(metric: &str) -> bool {
    !metric.is_empty() && !metric.contains('.') && !CRITERIA.contains(&metric)
}

/// Whether a knob can have this name, which is also a key of its stage.
fn is_name(name: &str) -> bool {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    name.starts_with(|c: char| c.is_ascii_lowercase()) && letters && name.len() <= 64
}
