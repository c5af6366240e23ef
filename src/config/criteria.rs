//! The criteria of a gate: which there are, and the keys of a stage that are theirs.
//!
//! A criterion is named in `gate.criteria`; what it needs stands beside the list
//! under keys of its own. A limit that only the user can know begins as
//! [no number](unset), and is one when the rows have been read.

use std::borrow::Cow;

use crate::events::metric;
use crate::events::{Applies, Criterion, CriterionTest, Limit, Scalar};
use crate::presets::{self, ModelKind, Preset};

use super::given::{Given, Stored, names};
use super::kind::Kind;
use super::own::Own;
use super::own_rows;
use super::row::{Change, Fallback, Field, Key, Row, Stage, StageKind, computed, row};

/// Every criterion there is, in the order in which a gate asks them.
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

/// Criteria without which a pass would mean nothing.
pub(super) const REQUIRED: [(&str, &str); 3] = [
    (
        "checkpoint_valid",
        "the next stage starts with the checkpoint of the passing gate",
    ),
    ("loss_finite", "a diverged stage must not pass"),
    ("metrics_fresh", "a missing or stale metric must not pass"),
];

/// The list of a gate's criteria.
pub(super) const LISTED: &str = "gate.criteria";
/// The table that says when each of them is asked.
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
pub(super) fn rows() -> Vec<Row<Stage>> {
    rows_over(CRITERIA.map(str::to_owned).to_vec(), parameters())
}

/// Those of a stage of the user's own.
pub(super) fn rows_of_own(own: &Own) -> Vec<Row<Stage>> {
    let known = own.criteria();
    let mut rows = parameters();
    rows.retain(|row| {
        row.key
            .criteria
            .iter()
            .any(|name| known.iter().any(|known| known == name))
    });
    rows.extend(own_rows::limits(own));
    rows_over(known, rows)
}

#[rustfmt::skip]
fn rows_over(known: Vec<String>, parameters: Vec<Row<Stage>>) -> Vec<Row<Stage>> {
    let mut rows = vec![
        row(LISTED, Kind::Criteria(known.clone()), "", "what a gate asks; setting a limit below adds its criterion unless this is set", RULES, computed(names_by_default), listed()),
    ];
    rows.extend(parameters);
    for name in known.into_iter().filter(|name| !is_required(name)) {
        rows.push(row(format!("{APPLIES}{name}"), Kind::Choice(names::<Applies>()), "", "when this criterion is asked", RULES, Fallback::Preset, applies(name.clone())).read_by([name]));
    }
    rows
}

/// The field of some kinds of criteria: `part!(LossTrend, tolerance)`.
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

/// The keys that a criterion needs.
#[rustfmt::skip]
fn parameters() -> Vec<Row<Stage>> {
    const WINDOWS: &[&str] = &["loss_not_rising", "loss_delta"];
    const PICTURE: &[&str] = &["visual_structure"];
    vec![
        parameter("gate.trend_tolerance", NOT_NEGATIVE, "of the previous gate loss", "`loss_trend`: gate loss < previous + this * abs(previous)", &["loss_trend"], part!(LossTrend, tolerance)),
        parameter("gate.loss_latest", METRIC_LIMIT, "loss", "`loss_latest`: latest loss <= this", &["loss_latest"], limit),
        parameter("gate.unique_actions", METRIC_LIMIT, "actions", "`unique_actions`: latest >= this", &["unique_actions"], limit),
        parameter("gate.action_entropy", METRIC_LIMIT, "nats", "`action_entropy`: latest >= this", &["action_entropy"], limit),
        parameter("gate.codebook_usage", SHARE_LIMIT, "of the codebook", "`codebook_usage`: latest >= this", &["codebook_usage"], limit),
        parameter("gate.tolerance", NOT_NEGATIVE, "of the mean compared with", "`loss_not_rising` and `loss_delta`: rise that counts as flat", WINDOWS, part!(LossNotRising | LossDelta, tolerance)),
        parameter("gate.standard_errors", NOT_NEGATIVE, "standard errors", "`loss_not_rising` and `loss_delta`: rise within the noise; the larger of the two counts", WINDOWS, part!(LossNotRising | LossDelta, standard_errors)),
        parameter("gate.structure_share", SHARE, "of the held-out frames", "`visual_structure`: fails when at least this share has lost its structure", PICTURE, part!(VisualStructure, share)),
        parameter("gate.flatness_min", NOT_NEGATIVE, "ratio", "`visual_structure`: least variance, predicted over true", PICTURE, part!(VisualStructure, limits.flatness_min)),
        parameter("gate.flatness_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most variance, predicted over true", PICTURE, part!(VisualStructure, limits.flatness_max)),
        parameter("gate.stripes_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most variance in row or column means, predicted over true", PICTURE, part!(VisualStructure, limits.stripes_max)),
        parameter("gate.blockiness_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most gradient across patch borders over inside, predicted over true", PICTURE, part!(VisualStructure, limits.blockiness_max)),
        parameter("gate.ssim_min", SSIM, "SSIM", "`visual_structure`: least structural similarity", PICTURE, part!(VisualStructure, limits.ssim_min)),
        parameter("gate.mse_ratio_max", NOT_NEGATIVE, "ratio", "`visual_structure`: most squared error, over the mean image's", PICTURE, part!(VisualStructure, limits.mse_ratio_max)),
        parameter("gate.min_skill", SKILL_LIMIT, "of the trivial loss", "`skill`: 1 - held-out loss / trivial predictor's must exceed this", &["skill"], limit),
        parameter("gate.min_skill_moving", SKILL_LIMIT, "of the trivial loss", "`skill_moving`: the same on pixels that move must exceed this", &["skill_moving"], limit),
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

/// A row for a field of the criteria that read it. The first of them is asked for
/// its value.
fn parameter<T: Stored + 'static>(
    path: &'static str,
    kind: Kind,
    unit: &'static str,
    meaning: &'static str,
    criteria: &'static [&'static str],
    at: fn(&mut CriterionTest) -> Option<&mut T>,
) -> Row<Stage> {
    let field = Field::new(
        move |stage: &Stage| {
            let mut reading = of_names(&stage.policy.criteria, criteria);
            let mut test = reading.next()?.test.clone();
            at(&mut test).map(|value| value.to_given())
        },
        move |stage: &mut Stage, given| {
            for criterion in &mut stage.policy.criteria {
                if criteria.contains(&criterion.name.as_str())
                    && let Some(field) = at(&mut criterion.test)
                    && let Some(value) = T::from_given(given)
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

/// The criteria by their names. A new list has the preset's, or empty ones.
fn listed() -> Field<Stage> {
    Field::new(
        |stage: &Stage| {
            let names = stage.policy.criteria.iter().map(|c| c.name.clone());
            Some(Given::Texts(names.collect()))
        },
        |stage, given| {
            let names = given.texts().unwrap_or_default().iter();
            stage.policy.criteria = names
                .filter_map(|name| fresh(stage.preset, &stage.kind, name))
                .collect();
        },
    )
}

/// The preset's criteria, and those that a key of the stage adds.
fn names_by_default(stage: &Stage) -> Vec<String> {
    let (known, default): (Vec<String>, Vec<String>) = match &stage.kind {
        StageKind::TinyWorlds(model) => {
            let default = presets::criteria_names(stage.preset, *model).iter();
            (
                CRITERIA.map(str::to_owned).to_vec(),
                default.map(|name| (*name).to_owned()).collect(),
            )
        }
        StageKind::Own(own) => (own.criteria(), own.names_by_default()),
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

fn applies(name: String) -> Field<Stage> {
    let of = name.clone();
    Field::new(
        move |stage: &Stage| {
            let criterion = stage.policy.criteria.iter().find(|c| c.name == of)?;
            Some(criterion.applies.to_given())
        },
        move |stage: &mut Stage, given| {
            let mut criteria = stage.policy.criteria.iter_mut();
            if let Some(criterion) = criteria.find(|c| c.name == name)
                && let Some(applies) = Applies::from_given(given)
            {
                criterion.applies = applies;
            }
        },
    )
}

/// A criterion as the preset has it, or without a limit.
pub(super) fn fresh(preset: Preset, kind: &StageKind, name: &str) -> Option<Criterion> {
    let model = match kind {
        StageKind::TinyWorlds(model) => *model,
        StageKind::Own(own) => return own.criterion(preset, name),
    };
    presets::criterion(preset, model, name).or_else(|| {
        Some(Criterion {
            name: name.to_owned(),
            applies: presets::applies(preset, name),
            test: unset(name)?,
        })
    })
}

/// The criteria whose limit only the user can know. No config has this limit.
fn unset(name: &str) -> Option<CriterionTest> {
    let limit = Limit::Constant(Scalar::new(f64::NAN));
    match name {
        "loss_latest" => Some(CriterionTest::LossLatest { limit }),
        metric::CODEBOOK_USAGE => Some(CriterionTest::MetricAtLeast {
            metric: name.to_owned(),
            limit,
        }),
        _ => None,
    }
}

/// Whether a criterion waits for a limit from the user.
pub(super) fn is_unset(criterion: &Criterion) -> bool {
    let unlimited = |limit: &mut Limit| matches!(limit, Limit::Constant(x) if x.get().is_nan());
    limit(&mut criterion.test.clone()).is_some_and(unlimited)
}

/// Whether a stage logs what the criterion needs.
pub(super) fn is_measured(stage: &Stage, name: &str) -> bool {
    use ModelKind::{Dynamics, LatentActions, VideoTokenizer};
    let Some(model) = stage.kind.tiny_worlds() else {
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

/// Whether setting the key is enough to ask a criterion, in a gate without a list.
pub(super) fn adds(key: &Key) -> bool {
    key.criteria.len() == 1 && !key.path.starts_with(APPLIES)
}

/// The keys that add a criterion to a gate without a list, each with the criterion.
pub(super) fn adding() -> Vec<(Cow<'static, str>, Cow<'static, str>)> {
    parameters()
        .into_iter()
        .filter(|row| adds(&row.key))
        .filter_map(|row| Some((row.key.path, row.key.criteria.into_iter().next()?)))
        .collect()
}
