//! The criteria of a gate, and the keys that configure them.
//!
//! `gate.criteria` lists the criteria; other keys of the table set their limits. A limit
//! without a default starts out [unset](presets::is_unset) and must be set by its key.

use std::borrow::Cow;

use crate::events::metric;
use crate::events::{Applies, Criterion, CriterionTest, Limit};
use crate::presets::{self, ModelKind, Preset};

use super::custom::CustomStage;
use super::custom_rows;
use super::key_value::{FieldType, KeyValue, names};
use super::kind::Kind;
use super::row::{Change, Fallback, Field, Key, Row, StageDraft, StageKind, computed, row};

/// Every criterion of the built-in stages, in the order in which a gate evaluates them.
pub(super) const CRITERIA: [&str; 13] = [
    "checkpoint_valid",
    "loss_finite",
    "loss_trend",
    "loss_latest",
    "unique_actions",
    "action_entropy",
    "codebook_usage",
    "loss_not_rising",
    "loss_delta",
    "visual_structure",
    "skill",
    "skill_moving",
    "metrics_fresh",
];

/// Criteria that every gate must have, each with the reason.
pub(super) const REQUIRED: [(&str, &str); 3] = [
    (
        "checkpoint_valid",
        "the next stage starts with the checkpoint of the passing gate",
    ),
    ("loss_finite", "a diverged stage must not pass"),
    ("metrics_fresh", "a missing or stale metric must not pass"),
];

/// The key that lists a gate's criteria.
pub(super) const LISTED: &str = "gate.criteria";
/// The table that says when each criterion is evaluated.
pub(super) const APPLIES: &str = "gate.applies.";

const RULES: Change = Change::RULES;
const NOT_NEGATIVE: Kind = Kind::Real {
    above: None,
    least: 0.0,
    most: 1e9,
};
const SHARE: Kind = Kind::Real {
    above: Some(0.0),
    least: 0.0,
    most: 1.0,
};
const SSIM: Kind = Kind::Real {
    above: None,
    least: -1.0,
    most: 1.0,
};
const METRIC_LIMIT: Kind = Kind::Limit {
    least: 0.0,
    most: 1e9,
};
const SHARE_LIMIT: Kind = Kind::Limit {
    least: 0.0,
    most: 1.0,
};
const SKILL_LIMIT: Kind = Kind::Limit {
    least: -1e9,
    most: 1.0,
};

/// The keys of a gate, in the order of a config file.
pub(super) fn rows() -> Vec<Row<StageDraft>> {
    rows_over(CRITERIA.map(str::to_owned).to_vec(), parameters())
}

/// The keys of a custom stage's gate.
pub(super) fn rows_of_custom(custom: &CustomStage) -> Vec<Row<StageDraft>> {
    let known = custom.criteria();
    let mut rows = parameters();
    rows.retain(|row| {
        row.key
            .criteria
            .iter()
            .any(|name| known.iter().any(|known| known == name))
    });
    rows.extend(custom_rows::limits(custom));
    rows_over(known, rows)
}

#[rustfmt::skip]
fn rows_over(known: Vec<String>, parameters: Vec<Row<StageDraft>>) -> Vec<Row<StageDraft>> {
    let mut rows = vec![
        row(LISTED, Kind::Criteria(known.clone()), "", "criteria of the gate; unless this is set, setting a limit below adds its criterion", RULES, computed(names_by_default), listed()),
    ];
    rows.extend(parameters);
    for name in known.into_iter().filter(|name| !is_required(name)) {
        rows.push(row(format!("{APPLIES}{name}"), Kind::Choice(names::<Applies>()), "", "when this criterion is evaluated", RULES, Fallback::Preset, applies(name.clone())).read_by([name]));
    }
    rows
}

/// Accesses a field of some variants of [`CriterionTest`]: `part!(LossTrend, tolerance)`.
macro_rules! part {
    ($($variant:ident)|+, $field:ident) => {
        |test| {
            if let $(CriterionTest::$variant { $field, .. })|+ = test {
                Some($field)
            } else {
                None
            }
        }
    };
    ($variant:ident, $outer:ident . $field:ident) => {
        |test| {
            if let CriterionTest::$variant { $outer, .. } = test {
                Some(&mut $outer.$field)
            } else {
                None
            }
        }
    };
}

/// The keys that configure criteria.
#[rustfmt::skip]
fn parameters() -> Vec<Row<StageDraft>> {
    const WINDOWS: &[&str] = &["loss_not_rising", "loss_delta"];
    const PICTURE: &[&str] = &["visual_structure"];
    vec![
        parameter("gate.trend_tolerance", NOT_NEGATIVE, "of the previous gate loss", "`loss_trend`: gate loss < previous + this * abs(previous)", &["loss_trend"], part!(LossTrend, tolerance)),
        parameter("gate.loss_latest", METRIC_LIMIT, "loss", "`loss_latest`: latest loss <= this", &["loss_latest"], limit),
        parameter("gate.unique_actions", METRIC_LIMIT, "actions", "`unique_actions`: latest >= this", &["unique_actions"], limit),
        parameter("gate.action_entropy", METRIC_LIMIT, "nats", "`action_entropy`: latest >= this", &["action_entropy"], limit),
        parameter("gate.codebook_usage", SHARE_LIMIT, "of the codebook", "`codebook_usage`: latest >= this", &["codebook_usage"], limit),
        parameter("gate.tolerance", NOT_NEGATIVE, "of the mean compared with", "`loss_not_rising` and `loss_delta`: a rise of up to this counts as flat", WINDOWS, part!(LossNotRising | LossDelta, tolerance)),
        parameter("gate.standard_errors", NOT_NEGATIVE, "standard errors", "`loss_not_rising` and `loss_delta`: a rise of up to this counts as noise; the larger of the two applies", WINDOWS, part!(LossNotRising | LossDelta, standard_errors)),
        parameter("gate.structure_share", SHARE, "of the held-out frames", "`visual_structure`: fails if at least this share of frames has lost its structure", PICTURE, part!(VisualStructure, share)),
        parameter("gate.flatness_min", NOT_NEGATIVE, "ratio", "`visual_structure`: smallest ratio of variances, predicted to true", PICTURE, part!(VisualStructure, limits.flatness_min)),
        parameter("gate.flatness_max", NOT_NEGATIVE, "ratio", "`visual_structure`: largest ratio of variances, predicted to true", PICTURE, part!(VisualStructure, limits.flatness_max)),
        parameter("gate.stripes_max", NOT_NEGATIVE, "ratio", "`visual_structure`: largest ratio of the variances of row or column means, predicted to true", PICTURE, part!(VisualStructure, limits.stripes_max)),
        parameter("gate.blockiness_max", NOT_NEGATIVE, "ratio", "`visual_structure`: largest ratio of blockiness (gradient across patch borders over gradient inside), predicted to true", PICTURE, part!(VisualStructure, limits.blockiness_max)),
        parameter("gate.ssim_min", SSIM, "SSIM", "`visual_structure`: smallest structural similarity", PICTURE, part!(VisualStructure, limits.ssim_min)),
        parameter("gate.mse_ratio_max", NOT_NEGATIVE, "ratio", "`visual_structure`: largest ratio of squared errors, predicted to mean image", PICTURE, part!(VisualStructure, limits.mse_ratio_max)),
        parameter("gate.min_skill", SKILL_LIMIT, "of the trivial loss", "`skill`: 1 - held-out loss / trivial predictor's must exceed this", &["skill"], limit),
        parameter("gate.min_skill_moving", SKILL_LIMIT, "of the trivial loss", "`skill_moving`: the same for pixels that move must exceed this", &["skill_moving"], limit),
    ]
}

fn limit(test: &mut CriterionTest) -> Option<&mut Limit> {
    if let CriterionTest::LossLatest { limit }
    | CriterionTest::MetricAtLeast { limit, .. }
    | CriterionTest::SkillAbove { limit, .. } = test
    {
        Some(limit)
    } else {
        None
    }
}

/// A row for a field of the criteria that read it. Its value is taken from the first
/// of them.
fn parameter<T: FieldType + 'static>(
    path: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
    criteria: &'static [&'static str],
    at: fn(&mut CriterionTest) -> Option<&mut T>,
) -> Row<StageDraft> {
    let field = Field::new(
        move |stage: &StageDraft| {
            let mut reading = of_names(&stage.policy.criteria, criteria);
            let mut test = reading.next()?.test.clone();
            at(&mut test).map(|value| value.to_key_value())
        },
        move |stage: &mut StageDraft, given| {
            for criterion in &mut stage.policy.criteria {
                if criteria.contains(&criterion.name.as_str())
                    && let Some(field) = at(&mut criterion.test)
                    && let Some(value) = T::from_key_value(given)
                {
                    *field = value;
                }
            }
        },
    );
    row(path, kind, unit, meaning, RULES, Fallback::Preset, field).read_by(criteria.iter().copied())
}

fn of_names<'a>(
    criteria: &'a [Criterion],
    names: &'static [&'static str],
) -> impl Iterator<Item = &'a Criterion> {
    let named = |criterion: &&Criterion| names.contains(&criterion.name.as_str());
    criteria.iter().filter(named)
}

/// The names of the gate's criteria. Setting the list recreates every criterion.
fn listed() -> Field<StageDraft> {
    Field::new(
        |stage: &StageDraft| {
            let names = stage.policy.criteria.iter().map(|c| c.name.clone());
            Some(KeyValue::Texts(names.collect()))
        },
        |stage, given| {
            let names = given.texts().unwrap_or_default().iter();
            stage.policy.criteria = names
                .filter_map(|name| default_criterion(stage.preset, &stage.kind, name))
                .collect();
        },
    )
}

/// The default criteria, and those added by a key of the stage.
fn names_by_default(stage: &StageDraft) -> Vec<String> {
    let (known, default): (Vec<String>, Vec<String>) = match &stage.kind {
        StageKind::BuiltIn(model) => {
            let default = presets::criteria_names(stage.preset, *model).iter();
            (
                CRITERIA.map(str::to_owned).to_vec(),
                default.map(|name| (*name).to_owned()).collect(),
            )
        }
        StageKind::Custom(custom) => (custom.criteria(), custom.names_by_default()),
    };
    let adding = adding();
    let is_added = |name: &str| {
        let mut keys = adding.iter().filter(|(_, criterion)| criterion == name);
        keys.any(|(key, _)| stage.given.contains(key.as_ref()))
    };
    known
        .into_iter()
        .filter(|name| default.contains(name) || is_added(name))
        .collect()
}

fn applies(name: String) -> Field<StageDraft> {
    let of = name.clone();
    Field::new(
        move |stage: &StageDraft| {
            let criterion = stage.policy.criteria.iter().find(|c| c.name == of)?;
            Some(criterion.applies.to_key_value())
        },
        move |stage: &mut StageDraft, given| {
            let mut criteria = stage.policy.criteria.iter_mut();
            if let Some(criterion) = criteria.find(|c| c.name == name)
                && let Some(applies) = Applies::from_key_value(given)
            {
                criterion.applies = applies;
            }
        },
    )
}

/// A criterion with its default limit, or with an unset one.
pub(super) fn default_criterion(preset: Preset, kind: &StageKind, name: &str) -> Option<Criterion> {
    match kind {
        StageKind::BuiltIn(model) => presets::criterion(preset, Some(*model), name),
        StageKind::Custom(custom) => custom.criterion(preset, name),
    }
}

/// Whether the user must still set the criterion's limit.
pub(super) fn is_unset(criterion: &Criterion) -> bool {
    limit(&mut criterion.test.clone()).is_some_and(|limit| presets::is_unset(limit))
}

/// Whether the stage logs what the criterion needs.
pub(super) fn is_measured(stage: &StageDraft, name: &str) -> bool {
    use ModelKind::{Dynamics, LatentActions, VideoTokenizer};
    let Some(model) = stage.kind.built_in() else {
        return name != metric::SKILL || !stage.policy.skills.is_empty();
    };
    match name {
        metric::UNIQUE_ACTIONS | metric::ACTION_ENTROPY => {
            matches!(model, LatentActions | Dynamics)
        }
        metric::CODEBOOK_USAGE | metric::SKILL_MOVING => {
            matches!(model, VideoTokenizer | LatentActions)
        }
        _ => true,
    }
}

fn is_required(name: &str) -> bool {
    REQUIRED.iter().any(|(required, _)| *required == name)
}

/// Whether setting the key adds a criterion to a gate whose list is not set.
pub(super) fn adds(key: &Key) -> bool {
    key.criteria.len() == 1 && !key.path.starts_with(APPLIES)
}

/// The keys that [add](adds) a criterion, each with that criterion.
pub(super) fn adding() -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
    parameters()
        .into_iter()
        .filter(|row| adds(&row.key))
        .filter_map(|row| Some((row.key.path, row.key.criteria.into_iter().next()?)))
        .collect()
}
