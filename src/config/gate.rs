//! Checks of a stage's gate, after its keys are read.

use crate::events::metric;
use crate::events::{Criterion, CriterionTest, Limit};
use crate::machine::gate::{WINDOW_SAMPLES_MIN, window_criterion};

use super::criteria::{self, LISTED, REQUIRED};
use super::error::Fault;
use super::row::{Row, StageDraft};
use super::schema::join;
use super::values::Values;

/// Reports problems of a stage's gate. Criteria without a limit are reported and removed.
/// If the list of criteria was rejected, all criteria are removed.
pub(super) fn check(values: &mut Values, stage: &mut StageDraft, rows: &[Row<StageDraft>]) {
    let name = stage.policy.name.to_string();
    let listed = join(&name, LISTED);
    if !values.none_rejected(&[&listed]) {
        stage.policy.criteria.clear();
        return;
    }
    report_missing(values, &listed, &stage.policy.criteria);
    report_unmeasured(values, &listed, stage, rows);
    report_unread_keys(values, &name, &stage.policy.criteria, rows);
    remove_unset(values, &name, &mut stage.policy.criteria, rows);
    report_flatness(values, &name, &stage.policy.criteria);
}

fn report_missing(values: &mut Values, listed: &str, criteria: &[Criterion]) {
    for (criterion, why) in REQUIRED {
        if !criteria.iter().any(|known| known.name == criterion) {
            let fault = Fault::CriterionRequired {
                key: listed.to_owned(),
                criterion,
                why,
            };
            values.report(&[listed], fault);
        }
    }
}

fn report_unmeasured(
    values: &mut Values,
    listed: &str,
    stage: &StageDraft,
    rows: &[Row<StageDraft>],
) {
    for Criterion { name, .. } in &stage.policy.criteria {
        if criteria::is_measured(stage, name) {
            continue;
        }
        let limit = limit_key(stage.policy.name.as_str(), name, rows);
        let limit = limit.unwrap_or_else(|| listed.to_owned());
        let fault = Fault::NotMeasured {
            key: if values.has(listed) {
                listed.to_owned()
            } else {
                limit.clone()
            },
            criterion: name.clone(),
            model: stage.policy.model.to_string(),
        };
        values.report(&[listed, &limit], fault);
    }
}

/// The key that gives a criterion its limit.
fn limit_key(stage: &str, criterion: &str, rows: &[Row<StageDraft>]) -> Option<String> {
    let mut adding = rows.iter().filter(|row| criteria::adds(&row.key));
    let row = adding.find(|row| row.key.is_read_by(criterion))?;
    Some(join(stage, &row.key.path))
}

/// Reports keys that no criterion of the gate reads, since they would seem to have an effect.
fn report_unread_keys(
    values: &mut Values,
    stage: &str,
    criteria: &[Criterion],
    rows: &[Row<StageDraft>],
) {
    for Row { key, .. } in rows {
        let path = join(stage, &key.path);
        let is_read = key.criteria.is_empty() || criteria.iter().any(|c| key.is_read_by(&c.name));
        if is_read || !values.has(&path) {
            continue;
        }
        let fault = Fault::NotListed {
            key: path.clone(),
            criteria: key.criteria.iter().map(ToString::to_string).collect(),
            criteria_key: join(stage, LISTED),
        };
        values.report(&[&path], fault);
    }
}

fn remove_unset(
    values: &mut Values,
    stage: &str,
    criteria: &mut Vec<Criterion>,
    rows: &[Row<StageDraft>],
) {
    criteria.retain(|criterion| {
        if !criteria::is_unset(criterion) {
            return true;
        }
        if let Some(key) = limit_key(stage, &criterion.name, rows)
            && values.none_rejected(&[&key])
        {
            let fault = Fault::NoLimit {
                criterion: criterion.name.clone(),
                key,
            };
            values.report(&[&join(stage, LISTED)], fault);
        }
        false
    });
}

fn report_flatness(values: &mut Values, stage: &str, criteria: &[Criterion]) {
    for criterion in criteria {
        let CriterionTest::VisualStructure { limits, .. } = &criterion.test else {
            continue;
        };
        if limits.flatness_min.get() <= limits.flatness_max.get() {
            continue;
        }
        let low = join(stage, "gate.flatness_min");
        let high = join(stage, "gate.flatness_max");
        let fault = Fault::Above {
            key: low.clone(),
            found: limits.flatness_min.to_string(),
            limit_key: high.clone(),
            limit: limits.flatness_max.to_string(),
            why: "",
        };
        values.report(&[&low, &high], fault);
    }
}

/// Reports chunks that are too short for the criteria that compare windows of samples.
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
    values.report(
        &[&join(stage, "chunk_size"), &join(stage, "n_updates")],
        fault,
    );
}

/// Reports limits that the metric can never reach.
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
        let required = match limit {
            Limit::Constant(limit) => limit.get(),
            Limit::Schedule(rows) => rows
                .iter()
                .map(|(_, limit)| limit.get())
                .fold(0.0, f64::max),
        };
        if required > most {
            let key = join(&join(stage, "gate"), &criterion.name);
            let fault = Fault::Unreachable {
                key: key.clone(),
                found: required.to_string(),
                why,
            };
            values.report(&[&key, "n_actions"], fault);
        }
    }
}
