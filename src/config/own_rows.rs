//! The keys of a stage of the user's own.

use crate::events::{
    CriterionTest, InUse, Knob, KnobName, KnobRange, ModelName, Scalar, SettingKey, SettingValue,
    Skill, metric,
};

use super::given::Given;
use super::kind::Kind;
use super::own::{AT_LEAST, KNOBS, LOSS, Own};
use super::row::{Change, Fallback, Field, Row, Stage, always, computed, field, row};

const SHAPE: Change = Change::SHAPE;
const RULES: Change = Change::RULES;

/// The keys that only this stage has, in the order of a config file. They stand before
/// those that every stage has.
#[rustfmt::skip]
pub(super) fn rows(own: &Own) -> Vec<Row<Stage>> {
    let mut rows = vec![
        row("model", Kind::Text, "", "what the stage trains, in its trainer's words; by default the stage's name", SHAPE, computed(|stage: &Stage| stage.policy.name.as_str().to_owned()), model()),
        row(LOSS, Kind::Text, "", "the metric that is the loss; a stage that names it is your own", RULES, Fallback::Required("the metric that is the loss"), field!(Stage, policy.loss)),
        row("metrics", Kind::Texts, "", "metrics whose samples are kept besides the loss and what the gate asks for", RULES, always(Vec::<String>::new()), field!(Stage, policy.metrics)),
        row("batch_size_min", Kind::Count { least: 1, most: 1_000_000 }, "windows", "smallest micro-batch that the stage can train with", RULES, always(1_u32), field!(Stage, policy.batch_size_min)),
    ];
    for (name, integer) in &own.knobs {
        rows.push(knob_row(name, *integer));
    }
    rows
}

/// Those that stand in tables of their own, after the keys that every stage has.
#[rustfmt::skip]
pub(super) fn tables(own: &Own) -> Vec<Row<Stage>> {
    let mut rows = vec![
        row("skill.held_out", Kind::Text, "", "metric of the loss on held-out data; with `skill.trivial` it gives the skill", RULES, always(String::new()), skill(|skill| &skill.held_out, |skill, text| skill.held_out = text)),
        row("skill.trivial", Kind::Text, "", "metric of the trivial predictor's loss on the same data", RULES, always(String::new()), skill(|skill| &skill.trivial, |skill, text| skill.trivial = text)),
        row("in_use.metric", Kind::Text, "", "the best checkpoint is one where this metric reaches `in_use.at_least`", RULES, always(String::new()), in_use(|in_use| Given::Text(in_use.metric.clone()), |in_use, given| if let Some(text) = given.text() { in_use.metric = text.to_owned() })),
        row("in_use.at_least", Kind::Real { above: None, least: -1e9, most: 1e9 }, "", "least value of `in_use.metric`", RULES, always(Scalar::new(0.0)), in_use(|in_use| Given::Real(in_use.at_least), |in_use, given| if let Given::Real(least) = given { in_use.at_least = *least })),
    ];
    for (name, integer) in &own.knobs {
        rows.extend(range_rows(name, *integer));
    }
    rows
}

/// The limits of the metrics that the gate asks for.
#[rustfmt::skip]
pub(super) fn limits(own: &Own) -> Vec<Row<Stage>> {
    let limits = own.at_least.iter().map(|metric| {
        row(format!("{AT_LEAST}.{metric}"), Kind::Limit { least: -1e9, most: 1e9 }, "", "the latest sample of this metric >= this", RULES, Fallback::Preset, limit(metric.clone())).read_by([metric.clone()])
    });
    limits.collect()
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
