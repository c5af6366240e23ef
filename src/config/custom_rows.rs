//! The keys of a custom stage.

use crate::events::{
    CriterionTest, InUse, Knob, KnobName, KnobRange, ModelName, Scalar, SettingKey, SettingValue,
    Skill, metric,
};

use super::custom::{AT_LEAST, CustomStage, KNOBS, LOSS};
use super::key_value::KeyValue;
use super::kind::Kind;
use super::row::{Change, Fallback, Field, Row, StageDraft, always, computed, field, row};

const SHAPE: Change = Change::SHAPE;
const RULES: Change = Change::RULES;

/// The keys that only a custom stage has, in the order of a config file. They come
/// before the keys that every stage has.
#[rustfmt::skip]
pub(super) fn rows(custom: &CustomStage) -> Vec<Row<StageDraft>> {
    let mut rows = vec![
        row("model", Kind::Text, "", "model that the stage trains, as its trainer calls it; by default the stage's name", SHAPE, computed(|stage: &StageDraft| stage.policy.name.as_str().to_owned()), model()),
        row(LOSS, Kind::Text, "", "metric that is the loss; setting it makes the stage custom", RULES, Fallback::Required("the metric that is the loss"), field!(StageDraft, policy.loss)),
        row("metrics", Kind::Texts, "", "metrics whose samples are kept, besides the loss and those the gate needs", RULES, always(Vec::<String>::new()), field!(StageDraft, policy.metrics)),
        row("batch_size_min", Kind::Count { least: 1, most: 1_000_000 }, "windows", "smallest micro-batch that the stage can train with", RULES, always(1_u32), field!(StageDraft, policy.batch_size_min)),
    ];
    for (name, integer) in &custom.knobs {
        rows.push(knob_row(name, *integer));
    }
    rows
}

/// The keys in tables of their own, after the keys that every stage has.
#[rustfmt::skip]
pub(super) fn tables(custom: &CustomStage) -> Vec<Row<StageDraft>> {
    let mut rows = vec![
        row("skill.held_out", Kind::Text, "", "metric of the loss on held-out data; needs `skill.trivial`", RULES, always(String::new()), skill(|skill| &skill.held_out, |skill, text| skill.held_out = text)),
        row("skill.trivial", Kind::Text, "", "metric of the trivial predictor's loss on the same data", RULES, always(String::new()), skill(|skill| &skill.trivial, |skill, text| skill.trivial = text)),
        row("in_use.metric", Kind::Text, "", "only a checkpoint at which this metric reaches `in_use.at_least` can be the best", RULES, always(String::new()), in_use(|in_use| KeyValue::Text(in_use.metric.clone()), |in_use, given| if let Some(text) = given.text() { in_use.metric = text.to_owned() })),
        row("in_use.at_least", Kind::Real { above: None, least: -1e9, most: 1e9 }, "", "smallest value of `in_use.metric`", RULES, always(Scalar::new(0.0)), in_use(|in_use| KeyValue::Real(in_use.at_least), |in_use, given| if let KeyValue::Real(least) = given { in_use.at_least = *least })),
    ];
    for (name, integer) in &custom.knobs {
        rows.extend(range_rows(name, *integer));
    }
    rows
}

/// The limits on metrics.
#[rustfmt::skip]
pub(super) fn limits(custom: &CustomStage) -> Vec<Row<StageDraft>> {
    let limits = custom.at_least.iter().map(|metric| {
        row(format!("{AT_LEAST}.{metric}"), Kind::Limit { least: -1e9, most: 1e9 }, "", "the latest sample of this metric must be >= this", RULES, Fallback::Preset, limit(metric.clone())).read_by([metric.clone()])
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
fn knob_row(name: &str, integer: bool) -> Row<StageDraft> {
    row(name.to_owned(), knob_kind(integer), "", "a knob of the stage", Change::Setting(SettingKey::knob(name)), Fallback::Required("the initial value of the knob"), knob_value(name))
}

/// The range of a knob.
#[rustfmt::skip]
fn range_rows(name: &str, integer: bool) -> Vec<Row<StageDraft>> {
    let at = |bound: &str| format!("{KNOBS}.{name}.{bound}");
    let range = "the range of the knob, which rungs do not leave";
    vec![
        row(at("min"), knob_kind(integer), "", "smallest value of the knob", RULES, Fallback::Required(range), range_end(name, true)),
        row(at("max"), knob_kind(integer), "", "largest value of the knob", RULES, Fallback::Required(range), range_end(name, false)),
        row(at("unit"), Kind::Text, "", "unit of the knob, for display", RULES, always(String::new()), knob_unit(name)),
    ]
}

fn model() -> Field<StageDraft> {
    Field::new(
        |stage: &StageDraft| Some(KeyValue::Text(stage.policy.model.as_str().to_owned())),
        |stage, given| {
            if let Some(name) = given.text() {
                stage.policy.model = ModelName::new(name);
            }
        },
    )
}

/// A field of the stage's only skill, which exists once one of its metrics is set.
fn skill(get: fn(&Skill) -> &String, set: fn(&mut Skill, String)) -> Field<StageDraft> {
    Field::new(
        move |stage: &StageDraft| {
            let text = stage.policy.skills.first().map(get).cloned();
            Some(KeyValue::Text(text.unwrap_or_default()))
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

/// A field of the stage's `in_use`, which exists once its metric is set.
fn in_use(get: fn(&InUse) -> KeyValue, set: fn(&mut InUse, &KeyValue)) -> Field<StageDraft> {
    const NOTHING: InUse = InUse {
        metric: String::new(),
        at_least: Scalar::new(0.0),
    };
    Field::new(
        move |stage: &StageDraft| Some(get(stage.policy.in_use.as_ref().unwrap_or(&NOTHING))),
        move |stage, given| {
            let mut in_use = stage.policy.in_use.clone().unwrap_or(NOTHING);
            set(&mut in_use, given);
            stage.policy.in_use = Some(in_use).filter(|in_use| !in_use.metric.is_empty());
        },
    )
}

fn limit(metric: String) -> Field<StageDraft> {
    let asked = metric.clone();
    Field::new(
        move |stage: &StageDraft| {
            let criterion = stage.policy.criteria.iter().find(|c| c.name == asked)?;
            if let CriterionTest::MetricAtLeast { limit, .. } = &criterion.test {
                Some(KeyValue::Limit(limit.clone()))
            } else {
                None
            }
        },
        move |stage, given| {
            let criterion = stage.policy.criteria.iter_mut().find(|c| c.name == metric);
            if let Some(criterion) = criterion
                && let CriterionTest::MetricAtLeast { limit, .. } = &mut criterion.test
                && let KeyValue::Limit(given) = given
            {
                *limit = given.clone();
            }
        },
    )
}

fn knob_of<'a>(stage: &'a mut StageDraft, name: &str) -> Option<&'a mut Knob> {
    let mut knobs = stage.policy.knobs.iter_mut();
    knobs.find(|knob| knob.name.as_str() == name)
}

fn range_end(name: &str, is_min: bool) -> Field<StageDraft> {
    let (of, to) = (KnobName::new(name), name.to_owned());
    Field::new(
        move |stage: &StageDraft| {
            Some(match stage.policy.knob(&of)?.range {
                KnobRange::Integer { min, max } => KeyValue::Count(if is_min { min } else { max }),
                KnobRange::Number { min, max } => KeyValue::Real(if is_min { min } else { max }),
            })
        },
        move |stage, given| {
            let Some(knob) = knob_of(stage, &to) else {
                return;
            };
            match (&mut knob.range, given) {
                (KnobRange::Integer { min, max }, KeyValue::Count(count)) => {
                    *(if is_min { min } else { max }) = *count;
                }
                (KnobRange::Number { min, max }, KeyValue::Real(real)) => {
                    *(if is_min { min } else { max }) = *real;
                }
                (KnobRange::Integer { .. } | KnobRange::Number { .. }, _) => {}
            }
        },
    )
}

fn knob_unit(name: &str) -> Field<StageDraft> {
    let (of, to) = (KnobName::new(name), name.to_owned());
    Field::new(
        move |stage: &StageDraft| Some(KeyValue::Text(stage.policy.knob(&of)?.unit.clone())),
        move |stage, given| {
            if let (Some(knob), Some(unit)) = (knob_of(stage, &to), given.text()) {
                unit.clone_into(&mut knob.unit);
            }
        },
    )
}

fn knob_value(name: &str) -> Field<StageDraft> {
    let (of, to) = (KnobName::new(name), KnobName::new(name));
    Field::new(
        move |stage: &StageDraft| match stage.policy.settings.knob(&of)? {
            SettingValue::Count(count) => Some(KeyValue::Count(count)),
            SettingValue::Real(real) => Some(KeyValue::Real(real)),
        },
        move |stage, given| {
            let value = match given {
                KeyValue::Count(count) => SettingValue::Count(*count),
                KeyValue::Real(real) => SettingValue::Real(*real),
                KeyValue::Auto
                | KeyValue::Flag(_)
                | KeyValue::Text(_)
                | KeyValue::Texts(_)
                | KeyValue::Limit(_)
                | KeyValue::Ladder(_) => return,
            };
            let knobs = &mut stage.policy.settings.knobs;
            knobs.insert(to.clone(), Some(value));
        },
    )
}
