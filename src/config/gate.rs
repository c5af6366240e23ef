//! The gate of a stage: flat keys to a list of criteria, and back.
//!
//! A criterion is named in `criteria`; what it needs stands beside the list under
//! keys of its own. [`criteria`] reads, [`entries`] writes, and they are each
//! other's inverse for every list that can be read.

use crate::events::metric;
use crate::events::{Applies, Criterion, CriterionTest, Limit, ModelKind, Scalar, StructureLimits};
use crate::machine::gate::{WINDOW_SAMPLES_MIN, window_criterion};
use crate::machine::presets::{self, Preset};

use super::error::Fault;
use super::values::{Given, Values, join};

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
const REQUIRED: [(&str, &str); 3] = [
    (
        "checkpoint_valid",
        "the next stage starts with the checkpoint of the passing gate",
    ),
    ("loss_finite", "a diverged stage must not pass"),
    ("metrics_fresh", "a missing or stale metric must not pass"),
];

/// Keys and the criteria that read them. One that names a single criterion adds it.
const READ_BY: [(&str, &[&str]); 16] = [
    ("trend_tolerance", &["loss_trend"]),
    ("loss_latest", &["loss_latest"]),
    ("unique_actions", &["unique_actions"]),
    ("action_entropy", &["action_entropy"]),
    ("codebook_usage", &["codebook_usage"]),
    ("tolerance", &["loss_not_rising", "loss_delta"]),
    ("standard_errors", &["loss_not_rising", "loss_delta"]),
    ("structure_share", &["visual_structure"]),
    ("flatness_min", &["visual_structure"]),
    ("flatness_max", &["visual_structure"]),
    ("stripes_max", &["visual_structure"]),
    ("blockiness_max", &["visual_structure"]),
    ("ssim_min", &["visual_structure"]),
    ("mse_ratio_max", &["visual_structure"]),
    ("min_skill", &["skill"]),
    ("min_skill_moving", &["skill_moving"]),
];

/// Reads the gate of a stage and notes what is wrong with it.
pub(super) fn criteria(
    values: &mut Values,
    stage: &str,
    preset: Preset,
    model: ModelKind,
) -> Vec<Criterion> {
    let table = join(stage, "gate");
    let names = listed(values, &table, preset, model);
    if !values.sound(&[&join(&table, "criteria")]) {
        return Vec::new();
    }
    complain_of_unread_keys(values, &table, &names);
    let criteria: Vec<Criterion> = names
        .iter()
        .filter_map(|name| one(values, &table, preset, model, name))
        .collect();
    for criterion in &criteria {
        let CriterionTest::VisualStructure { limits, .. } = &criterion.test else {
            continue;
        };
        if limits.flatness_min.get() <= limits.flatness_max.get() {
            continue;
        }
        let (low, high) = (join(&table, "flatness_min"), join(&table, "flatness_max"));
        let fault = Fault::Above {
            key: low.clone(),
            found: limits.flatness_min.to_string(),
            limit_key: high.clone(),
            limit: limits.flatness_max.to_string(),
            why: "",
        };
        values.complain(&[&low, &high], fault);
    }
    criteria
}

/// The criteria's names: as listed, or the preset's and those whose limit is set.
fn listed(values: &mut Values, table: &str, preset: Preset, model: ModelKind) -> Vec<String> {
    let key = join(table, "criteria");
    let Some(names) = values.texts(&key).map(<[String]>::to_vec) else {
        let default = presets::criteria_names(preset, model);
        let added = |name: &str| {
            READ_BY
                .iter()
                .any(|(limit, read_by)| read_by == &[name] && values.has(&join(table, limit)))
        };
        let names: Vec<String> = CRITERIA
            .into_iter()
            .filter(|name| default.contains(name) || added(name))
            .map(str::to_owned)
            .collect();
        for name in &names {
            complain_unless_measured(values, table, model, name);
        }
        return names;
    };
    for (criterion, why) in REQUIRED {
        if !names.iter().any(|name| name == criterion) {
            let fault = Fault::CriterionRequired {
                key: key.clone(),
                criterion,
                why,
            };
            values.complain(&[&key], fault);
        }
    }
    for name in &names {
        complain_unless_measured(values, table, model, name);
    }
    names
}

/// Whether a stage of this model logs what the criterion needs.
pub(super) fn is_measured(model: ModelKind, name: &str) -> bool {
    use ModelKind::{Dynamics, LatentActions, VideoTokenizer};
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

/// Whether setting this key of the stage is enough to ask a criterion.
pub(super) fn adds_its_criterion(stage: &str, path: &str) -> bool {
    let key = super::keys::inside(path, stage).and_then(|rest| rest.strip_prefix("gate."));
    READ_BY.iter().any(|(limit, read_by)| {
        key == Some(*limit) && matches!(read_by, [only] if *only != "visual_structure")
    })
}

fn complain_unless_measured(values: &mut Values, table: &str, model: ModelKind, name: &str) {
    if !is_measured(model, name) {
        let key = join(table, "criteria");
        let limit = READ_BY
            .iter()
            .find(|(_, read_by)| read_by == &[name])
            .map_or_else(|| key.clone(), |(limit, _)| join(table, limit));
        let fault = Fault::NotMeasured {
            key: if values.has(&key) {
                key.clone()
            } else {
                limit.clone()
            },
            criterion: name.to_owned(),
            model: presets::model_name(model),
        };
        values.complain(&[&key, &limit], fault);
    }
}

/// A limit that no listed criterion reads would look as if it held.
fn complain_of_unread_keys(values: &mut Values, table: &str, names: &[String]) {
    let limits = READ_BY
        .iter()
        .map(|(key, read_by)| (join(table, key), read_by.to_vec()));
    let applies = CRITERIA
        .iter()
        .map(|name| (join(&join(table, "applies"), name), vec![*name]));
    let unread: Vec<(String, Vec<&str>)> = limits
        .chain(applies)
        .filter(|(key, _)| values.has(key))
        .filter(|(_, read_by)| !names.iter().any(|name| read_by.contains(&name.as_str())))
        .collect();
    for (key, read_by) in unread {
        let fault = Fault::NotListed {
            key: key.clone(),
            criteria: read_by.into_iter().map(str::to_owned).collect(),
            criteria_key: join(table, "criteria"),
        };
        values.complain(&[&key], fault);
    }
}

/// One criterion: the preset's, with what the user set.
fn one(
    values: &mut Values,
    table: &str,
    preset: Preset,
    model: ModelKind,
    name: &str,
) -> Option<Criterion> {
    let default = presets::criterion(preset, model, name);
    let applies = match values.text(&join(&join(table, "applies"), name)) {
        Some("at_target") => Applies::AtTarget,
        Some(_) => Applies::EveryGate,
        None => presets::applies(preset, name),
    };
    let test = match default {
        Some(default) => changed(values, table, name, default.test),
        None => without_default(values, table, name)?,
    };
    Some(Criterion {
        name: name.to_owned(),
        applies,
        test,
    })
}

/// The criteria whose limit only the user can know.
fn without_default(values: &mut Values, table: &str, name: &str) -> Option<CriterionTest> {
    let key = join(table, name);
    let Some(limit) = values.limit(&key).cloned() else {
        if values.sound(&[&key]) {
            let fault = Fault::NoLimit {
                criterion: name.to_owned(),
                key,
            };
            values.complain(&[&join(table, "criteria")], fault);
        }
        return None;
    };
    match name {
        "loss_latest" => Some(CriterionTest::LossLatest { limit }),
        metric::CODEBOOK_USAGE => Some(CriterionTest::MetricAtLeast {
            metric: name.to_owned(),
            limit,
        }),
        _ => None,
    }
}

fn changed(values: &Values, table: &str, name: &str, default: CriterionTest) -> CriterionTest {
    let real = |key: &str, default: Scalar| values.real(&join(table, key), default);
    let limit = |key: &str, default: Limit| match values.limit(&join(table, key)) {
        Some(limit) => limit.clone(),
        None => default,
    };
    match default {
        CriterionTest::CheckpointValid
        | CriterionTest::LossFinite
        | CriterionTest::MetricsFresh => default,
        CriterionTest::LossTrend { tolerance } => CriterionTest::LossTrend {
            tolerance: real("trend_tolerance", tolerance),
        },
        CriterionTest::LossLatest { limit: default } => CriterionTest::LossLatest {
            limit: limit("loss_latest", default),
        },
        CriterionTest::MetricAtLeast {
            metric,
            limit: default,
        } => CriterionTest::MetricAtLeast {
            metric,
            limit: limit(name, default),
        },
        CriterionTest::LossNotRising {
            tolerance,
            standard_errors,
        } => CriterionTest::LossNotRising {
            tolerance: real("tolerance", tolerance),
            standard_errors: real("standard_errors", standard_errors),
        },
        CriterionTest::LossDelta {
            tolerance,
            standard_errors,
        } => CriterionTest::LossDelta {
            tolerance: real("tolerance", tolerance),
            standard_errors: real("standard_errors", standard_errors),
        },
        CriterionTest::VisualStructure { limits, share } => CriterionTest::VisualStructure {
            limits: StructureLimits {
                flatness_min: real("flatness_min", limits.flatness_min),
                flatness_max: real("flatness_max", limits.flatness_max),
                stripes_max: real("stripes_max", limits.stripes_max),
                blockiness_max: real("blockiness_max", limits.blockiness_max),
                ssim_min: real("ssim_min", limits.ssim_min),
                mse_ratio_max: real("mse_ratio_max", limits.mse_ratio_max),
            },
            share: real("structure_share", share),
        },
        CriterionTest::SkillAbove {
            metric,
            limit: default,
        } => CriterionTest::SkillAbove {
            limit: limit(skill_key(&metric), default),
            metric,
        },
    }
}

fn skill_key(metric: &str) -> &'static str {
    if metric == metric::SKILL_MOVING {
        "min_skill_moving"
    } else {
        "min_skill"
    }
}

/// The keys of a gate, in the order of the table of keys within each criterion.
pub(super) fn entries(stage: &str, criteria: &[Criterion]) -> Vec<(String, Given)> {
    let table = join(stage, "gate");
    let names = criteria.iter().map(|c| c.name.clone()).collect();
    let mut entries = vec![(join(&table, "criteria"), Given::Texts(names))];
    let mut put = |key: &str, given: Given| {
        let key = join(&table, key);
        if !entries.iter().any(|(known, _)| *known == key) {
            entries.push((key, given));
        }
    };
    for criterion in criteria {
        match &criterion.test {
            CriterionTest::CheckpointValid
            | CriterionTest::LossFinite
            | CriterionTest::MetricsFresh => {}
            CriterionTest::LossTrend { tolerance } => {
                put("trend_tolerance", Given::Real(*tolerance));
            }
            CriterionTest::LossLatest { limit } => put("loss_latest", Given::Limit(limit.clone())),
            CriterionTest::MetricAtLeast { metric, limit } => {
                put(metric, Given::Limit(limit.clone()));
            }
            CriterionTest::LossNotRising {
                tolerance,
                standard_errors,
            }
            | CriterionTest::LossDelta {
                tolerance,
                standard_errors,
            } => {
                put("tolerance", Given::Real(*tolerance));
                put("standard_errors", Given::Real(*standard_errors));
            }
            CriterionTest::VisualStructure { limits, share } => {
                put("structure_share", Given::Real(*share));
                put("flatness_min", Given::Real(limits.flatness_min));
                put("flatness_max", Given::Real(limits.flatness_max));
                put("stripes_max", Given::Real(limits.stripes_max));
                put("blockiness_max", Given::Real(limits.blockiness_max));
                put("ssim_min", Given::Real(limits.ssim_min));
                put("mse_ratio_max", Given::Real(limits.mse_ratio_max));
            }
            CriterionTest::SkillAbove { metric, limit } => {
                put(skill_key(metric), Given::Limit(limit.clone()));
            }
        }
    }
    for criterion in criteria {
        if REQUIRED.iter().any(|(name, _)| *name == criterion.name) {
            continue;
        }
        let when = match criterion.applies {
            Applies::EveryGate => "every_gate",
            Applies::AtTarget => "at_target",
        };
        put(
            &join("applies", &criterion.name),
            Given::Text(when.to_owned()),
        );
    }
    entries
}

/// Notes the chunks that are too short for the window criteria.
pub(super) fn check_chunks(
    values: &mut Values,
    stage: &str,
    criteria: &[Criterion],
    chunk: u64,
    target: u64,
) {
    let Some(criterion) = window_criterion(criteria) else {
        return;
    };
    let first = chunk.min(target);
    let last = match target % chunk.max(1) {
        0 => first,
        rest => rest,
    };
    let (which, updates) = if first < WINDOW_SAMPLES_MIN {
        ("first", first)
    } else if last < WINDOW_SAMPLES_MIN {
        ("last", last)
    } else {
        return;
    };
    let fault = Fault::ChunkTooShort {
        stage: stage.to_owned(),
        which,
        updates,
        criterion: criterion.name.clone(),
        needed: WINDOW_SAMPLES_MIN,
    };
    values.complain(
        &[&join(stage, "chunk_size"), &join(stage, "n_updates")],
        fault,
    );
}

/// Notes limits above what the metric can ever be.
pub(super) fn check_reachable(
    values: &mut Values,
    stage: &str,
    criteria: &[Criterion],
    n_actions: u32,
) {
    let entropy_most = f64::from(n_actions).ln();
    for criterion in criteria {
        let CriterionTest::MetricAtLeast { metric, limit } = &criterion.test else {
            continue;
        };
        let (most, why) = match metric.as_str() {
            metric::UNIQUE_ACTIONS => (
                f64::from(n_actions),
                format!("there are {n_actions} actions"),
            ),
            metric::ACTION_ENTROPY => (
                entropy_most,
                format!("the entropy of {n_actions} actions is at most {entropy_most:.3} nats"),
            ),
            _ => continue,
        };
        let asked = match limit {
            Limit::Constant(limit) => limit.get(),
            Limit::Schedule(rows) => rows
                .iter()
                .map(|(_, limit)| limit.get())
                .fold(0.0, f64::max),
        };
        if asked > most {
            let key = join(&join(stage, "gate"), &criterion.name);
            let fault = Fault::Unreachable {
                key: key.clone(),
                found: asked.to_string(),
                why,
            };
            values.complain(&[&key, "n_actions"], fault);
        }
    }
}
