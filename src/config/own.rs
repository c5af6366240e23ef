//! A stage of the user's own: its name, metrics, criteria, knobs and rungs, none of which a model of
//! TinyWorlds has.
//!
//! A table is of such a stage when it names its `loss`. The knobs, and the metrics that a gate
//! asks for, are keys whose names the user chooses, so they are read from the text before the rows
//! are made.

use std::collections::BTreeMap;

use crate::events::{
    Applies, Criterion, CriterionTest, FindingTest, InUse, Knob, KnobName, KnobRange, Limit,
    ModelName, Rung, Scalar, SettingKey, SettingValue, Settings, Skill, StageName, StagePolicy,
    metric,
};
use crate::presets::{self, Preset};

use super::given::Given;
use super::keys;
use super::kind::Kind;
use super::row::{Change, Fallback, Field, Row, Stage, StageKind, always, computed, field, row};
use super::tree::{Node, Value};

/// The key that makes a stage the user's own.
pub(super) const LOSS: &str = "loss";
/// The table of the knobs' ranges.
const KNOBS: &str = "knobs";
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

const SHAPE: Change = Change::SHAPE;
const RULES: Change = Change::RULES;

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
    pub fn of_tree(table: &Node) -> Option<Own> {
        table.entry(LOSS)?;
        let mut own = Own::default();
        let knobs = table.entry(KNOBS).into_iter().flat_map(Node::entries);
        for (name, range) in knobs.filter(|(name, _)| is_knob_name(name)) {
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

    /// The keys that only this stage has, in the order of a config file. They stand before
    /// those that every stage has.
    #[rustfmt::skip]
    pub fn rows(&self) -> Vec<Row<Stage>> {
        let mut rows = vec![
            row("model", Kind::Text, "", "what the stage trains, in its trainer's words; by default the stage's name", SHAPE, computed(|stage: &Stage| stage.policy.name.as_str().to_owned()), model()),
            row(LOSS, Kind::Text, "", "the metric that is the loss; a stage that names it is your own", RULES, Fallback::Required("the metric that is the loss"), field!(Stage, policy.loss)),
            row("metrics", Kind::Texts, "", "metrics whose samples are kept besides the loss and what the gate asks for", RULES, always(Vec::<String>::new()), field!(Stage, policy.metrics)),
            row("batch_size_min", Kind::Count { least: 1, most: 1_000_000 }, "windows", "smallest micro-batch that the stage can train with", RULES, always(1_u32), field!(Stage, policy.batch_size_min)),
        ];
        for (name, integer) in &self.knobs {
            rows.push(knob_row(name, *integer));
        }
        rows
    }

    /// Those that stand in tables of their own, after the keys that every stage has.
    #[rustfmt::skip]
    pub fn tables(&self) -> Vec<Row<Stage>> {
        let mut rows = vec![
            row("skill.held_out", Kind::Text, "", "metric of the loss on held-out data; with `skill.trivial` it gives the skill", RULES, always(String::new()), skill(|skill| &skill.held_out, |skill, text| skill.held_out = text)),
            row("skill.trivial", Kind::Text, "", "metric of the trivial predictor's loss on the same data", RULES, always(String::new()), skill(|skill| &skill.trivial, |skill, text| skill.trivial = text)),
            row("in_use.metric", Kind::Text, "", "the best checkpoint is one where this metric reaches `in_use.at_least`", RULES, always(String::new()), in_use(|in_use| Given::Text(in_use.metric.clone()), |in_use, given| if let Some(text) = given.text() { in_use.metric = text.to_owned() })),
            row("in_use.at_least", Kind::Real { above: None, least: -1e9, most: 1e9 }, "", "least value of `in_use.metric`", RULES, always(Scalar::new(0.0)), in_use(|in_use| Given::Real(in_use.at_least), |in_use, given| if let Given::Real(least) = given { in_use.at_least = *least })),
        ];
        for (name, integer) in &self.knobs {
            rows.extend(range_rows(name, *integer));
        }
        rows
    }

    /// The limits of the metrics that the gate asks for.
    #[rustfmt::skip]
    pub fn limits(&self) -> Vec<Row<Stage>> {
        let limits = self.at_least.iter().map(|metric| {
            row(format!("{AT_LEAST}.{metric}"), Kind::Limit { least: -1e9, most: 1e9 }, "", "the latest sample of this metric >= this", RULES, Fallback::Preset, limit(metric.clone())).read_by([metric.clone()])
        });
        limits.collect()
    }
}

/// Whether a knob can have this name: it is a key of the stage, beside the others.
fn is_knob_name(name: &str) -> bool {
    let letters = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let rows = keys::of_stage(&StageKind::Own(Own::default()));
    let taken = |row: &Row<Stage>| row.key.path.split('.').next() == Some(name);
    let core = SettingKey::CORE.iter().any(|key| key.as_str() == name);
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && letters
        && name.len() <= 64
        && name != KNOBS
        && !core
        && !rows.iter().any(taken)
}

/// Whether a metric can give its name to a criterion.
fn is_free(metric: &str) -> bool {
    !metric.is_empty() && !metric.contains('.') && !CRITERIA.contains(&metric)
}

fn knob_kind(integer: bool) -> Kind {
    if integer {
        Kind::Count {
            least: 0,
            most: i64::MAX as u64,
        }
    } else {
        Kind::Real {
            above: None,
            least: -1e300,
            most: 1e300,
        }
    }
}

/// The value of a knob.
#[rustfmt::skip]
fn knob_row(name: &str, integer: bool) -> Row<Stage> {
    row(name.to_owned(), knob_kind(integer), "", "a knob of the stage", Change::Setting(SettingKey::knob(name)), Fallback::Required("a value to begin with"), knob_value(name))
}

/// The range of a knob.
#[rustfmt::skip]
fn range_rows(name: &str, integer: bool) -> Vec<Row<Stage>> {
    let at = |bound: &str| format!("{KNOBS}.{name}.{bound}");
    let range = "a range that rungs are held in";
    vec![
        row(at("min"), knob_kind(integer), "", "smallest value of the knob", RULES, Fallback::Required(range), range_end(name, true)),
        row(at("max"), knob_kind(integer), "", "largest value of the knob", RULES, Fallback::Required(range), range_end(name, false)),
        row(at("unit"), Kind::Text, "", "unit of the knob, for people", RULES, always(String::new()), knob_unit(name)),
    ]
}

fn model() -> Field<Stage> {
    Field::new(
        |stage: &Stage| Some(Given::Text(stage.policy.model.as_str().to_owned())),
        |stage, given| {
            if let Some(name) = given.text() {
                stage.policy.model = ModelName::new(name);
            }
        },
    )
}

/// The stage's one skill, there as soon as one of its metrics is named.
fn skill(get: fn(&Skill) -> &String, set: fn(&mut Skill, String)) -> Field<Stage> {
    Field::new(
        move |stage: &Stage| {
            let text = stage.policy.skills.first().map(get).cloned();
            Some(Given::Text(text.unwrap_or_default()))
        },
        move |stage, given| {
            let Some(text) = given.text() else {
                return;
            };
            let skills = &mut stage.policy.skills;
            if skills.is_empty() && !text.is_empty() {
                skills.push(Skill {
                    name: metric::SKILL.to_owned(),
                    held_out: String::new(),
                    trivial: String::new(),
                    trivial_may_be_null: false,
                });
            }
            if let Some(skill) = skills.first_mut() {
                set(skill, text.to_owned());
            }
        },
    )
}

/// What must be in use, there as soon as its metric is named.
fn in_use(get: fn(&InUse) -> Given, set: fn(&mut InUse, &Given)) -> Field<Stage> {
    const NOTHING: InUse = InUse {
        metric: String::new(),
        at_least: Scalar::new(0.0),
    };
    Field::new(
        move |stage: &Stage| Some(get(stage.policy.in_use.as_ref().unwrap_or(&NOTHING))),
        move |stage, given| {
            let mut in_use = stage.policy.in_use.clone().unwrap_or(NOTHING);
            set(&mut in_use, given);
            stage.policy.in_use = Some(in_use).filter(|in_use| !in_use.metric.is_empty());
        },
    )
}

fn limit(metric: String) -> Field<Stage> {
    let asked = metric.clone();
    Field::new(
        move |stage: &Stage| {
            let criterion = stage.policy.criteria.iter().find(|c| c.name == asked)?;
            if let CriterionTest::MetricAtLeast { limit, .. } = &criterion.test {
                Some(Given::Limit(limit.clone()))
            } else {
                None
            }
        },
        move |stage, given| {
            let criterion = stage.policy.criteria.iter_mut().find(|c| c.name == metric);
            if let Some(criterion) = criterion
                && let CriterionTest::MetricAtLeast { limit, .. } = &mut criterion.test
                && let Given::Limit(given) = given
            {
                *limit = given.clone();
            }
        },
    )
}

fn knob_of<'a>(stage: &'a mut Stage, name: &str) -> Option<&'a mut Knob> {
    let mut knobs = stage.policy.knobs.iter_mut();
    knobs.find(|knob| knob.name.as_str() == name)
}

fn range_end(name: &str, is_min: bool) -> Field<Stage> {
    let (of, to) = (KnobName::new(name), name.to_owned());
    Field::new(
        move |stage: &Stage| {
            Some(match stage.policy.knob(&of)?.range {
                KnobRange::Integer { min, max } => Given::Count(if is_min { min } else { max }),
                KnobRange::Number { min, max } => Given::Real(if is_min { min } else { max }),
            })
        },
        move |stage, given| {
            let Some(knob) = knob_of(stage, &to) else {
                return;
            };
            match (&mut knob.range, given) {
                (KnobRange::Integer { min, max }, Given::Count(count)) => {
                    *(if is_min { min } else { max }) = *count;
                }
                (KnobRange::Number { min, max }, Given::Real(real)) => {
                    *(if is_min { min } else { max }) = *real;
                }
                (KnobRange::Integer { .. } | KnobRange::Number { .. }, _) => {}
            }
        },
    )
}

fn knob_unit(name: &str) -> Field<Stage> {
    let (of, to) = (KnobName::new(name), name.to_owned());
    Field::new(
        move |stage: &Stage| Some(Given::Text(stage.policy.knob(&of)?.unit.clone())),
        move |stage, given| {
            if let (Some(knob), Some(unit)) = (knob_of(stage, &to), given.text()) {
                unit.clone_into(&mut knob.unit);
            }
        },
    )
}

fn knob_value(name: &str) -> Field<Stage> {
    let (of, to) = (KnobName::new(name), KnobName::new(name));
    Field::new(
        move |stage: &Stage| match stage.policy.settings.knob(&of)? {
            SettingValue::Count(count) => Some(Given::Count(count)),
            SettingValue::Real(real) => Some(Given::Real(real)),
        },
        move |stage, given| {
            let value = match given {
                Given::Count(count) => SettingValue::Count(*count),
                Given::Real(real) => SettingValue::Real(*real),
                Given::Auto
                | Given::Flag(_)
                | Given::Text(_)
                | Given::Texts(_)
                | Given::Limit(_)
                | Given::Ladder(_) => return,
            };
            let knobs = &mut stage.policy.settings.knobs;
            knobs.insert(to.clone(), Some(value));
        },
    )
}
