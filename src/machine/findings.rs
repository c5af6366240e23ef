//! What a gate reports besides its criteria. Findings do not affect decisions.

use alloc::borrow::ToOwned;
use alloc::vec::Vec;

use super::edition::Edition;
use super::gate_inputs::{
    Gate, Skill, TRIVIAL_LOSS_MIN, canonical, exceeds, falls_short, limit_at,
};
use super::statistics::{self, windows};
use tinygate_events::{
    Cause, Criterion, CriterionResult, CriterionTest, Finding, FindingTest, Metric, Scalar,
    StageMeasured, StagePolicy, Step, Verdict,
};

/// The findings of a gate.
pub(super) fn of_gate(gate: &Gate<'_>, criteria: &[CriterionResult], passed: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let policy = gate.policy;
    for (criterion, result) in policy.criteria.iter().zip(criteria) {
        if result.verdict == Verdict::NotApplicable {
            continue;
        }
        for test in &policy.findings {
            findings.extend(of_criterion(gate, criterion, test));
        }
    }
    for test in &policy.findings {
        match test {
            FindingTest::NoSkill if passed => {
                findings.extend(
                    gate.skills()
                        .filter_map(|(name, skill)| no_skill(gate, name, skill)),
                );
            }
            FindingTest::NothingToMeasure if passed && Edition::Two <= gate.inputs.edition => {
                findings.extend(nothing_to_measure(gate));
            }
            FindingTest::Cause {
                actions,
                entropy,
                entropy_max,
                learning_rate,
            } if !passed => {
                findings.push(cause(gate, actions, entropy, *entropy_max, learning_rate))
            }
            FindingTest::VacuousLimit
            | FindingTest::DecidedByNoise
            | FindingTest::NoSkill
            | FindingTest::NothingToMeasure
            | FindingTest::Cause { .. } => {}
        }
    }
    findings
}

/// The finding of this kind about one criterion that applied.
fn of_criterion(gate: &Gate<'_>, criterion: &Criterion, test: &FindingTest) -> Option<Finding> {
    let step = gate.chunk().to;
    match (test, &criterion.test) {
        (FindingTest::VacuousLimit, CriterionTest::LossLatest { limit }) => looser_than_trivial(
            gate.policy,
            gate.inputs.trivial,
            gate.inputs.predictor,
            &criterion.name,
            limit_at(limit, step)?,
        ),
        (FindingTest::DecidedByNoise, CriterionTest::LossLatest { limit }) => {
            let limit = limit_at(limit, step)?;
            let beyond = |loss: f64| exceeds(loss, limit);
            decided_by_noise(&gate.losses, &criterion.name, limit, beyond)
        }
        (FindingTest::DecidedByNoise, CriterionTest::MetricAtLeast { metric, limit }) => {
            let limit = limit_at(limit, step)?;
            let beyond = |value: f64| falls_short(value, limit);
            decided_by_noise(&gate.chunk().values(metric), &criterion.name, limit, beyond)
        }
        _ => None,
    }
}

/// The stage's limits at its target that a trivial predictor meets. They are known once the
/// predictor is measured, before any training.
pub fn vacuous_limits(policy: &StagePolicy, measured: &StageMeasured) -> Vec<Finding> {
    let target = Step::new(policy.settings.n_updates);
    let vacuous = |criterion: &Criterion| {
        let CriterionTest::LossLatest { limit } = &criterion.test else {
            return None;
        };
        let limit = limit_at(limit, target)?;
        looser_than_trivial(
            policy,
            &measured.trivial,
            &measured.predictor,
            &criterion.name,
            limit,
        )
    };
    if policy.findings.contains(&FindingTest::VacuousLimit) {
        policy.criteria.iter().filter_map(vacuous).collect()
    } else {
        Vec::new()
    }
}

/// The trivial predictor's loss is that of the stage's first skill.
fn looser_than_trivial(
    policy: &StagePolicy,
    trivial: &[Metric],
    predictor: &str,
    criterion: &str,
    limit: f64,
) -> Option<Finding> {
    let trivial_loss = Metric::find(trivial, &policy.skills.first()?.trivial)?
        .finite()
        .filter(|loss| TRIVIAL_LOSS_MIN <= *loss)?;
    (trivial_loss < limit).then(|| Finding::VacuousLimit {
        criterion: criterion.to_owned(),
        limit: canonical(limit),
        predictor: predictor.to_owned(),
        trivial_loss: canonical(trivial_loss),
        factor: canonical(limit / trivial_loss),
    })
}

fn decided_by_noise(
    samples: &[f64],
    criterion: &str,
    limit: f64,
    beyond: impl Fn(f64) -> bool,
) -> Option<Finding> {
    let tenth = windows(samples).last_tenth;
    let beyond = tenth.iter().filter(|value| beyond(**value)).count();
    let within = tenth.len() - beyond;
    (0 < beyond && 0 < within).then(|| Finding::DecidedByNoise {
        criterion: criterion.to_owned(),
        limit: canonical(limit),
        within: within as u32,
        beyond: beyond as u32,
    })
}

fn no_skill(gate: &Gate<'_>, name: &str, skill: Skill) -> Option<Finding> {
    match skill {
        Skill::Measured(skill) if skill <= 0.0 => Some(Finding::NoSkill {
            metric: name.to_owned(),
            skill: canonical(skill),
            predictor: gate.inputs.predictor.to_owned(),
        }),
        Skill::Measured(_) | Skill::NothingToMeasure | Skill::Missing | Skill::NotFinite => None,
    }
}

/// Without a trivial loss to compare with, a passing gate does not show that anything was learned.
/// The finding names the first such skill.
fn nothing_to_measure(gate: &Gate<'_>) -> Option<Finding> {
    let (name, _) = gate
        .skills()
        .find(|(_, skill)| matches!(skill, Skill::NothingToMeasure))?;
    Some(Finding::NothingToMeasure {
        metric: name.to_owned(),
        predictor: gate.inputs.predictor.to_owned(),
    })
}

/// Whether a gate failed because of the actions given to the stage, or because of the stage itself.
fn cause(
    gate: &Gate<'_>,
    actions: &str,
    entropy: &str,
    entropy_max: Scalar,
    learning_rate: &str,
) -> Finding {
    let chunk = gate.chunk();
    let loss = gate.policy.loss.as_str();
    let unique = chunk.values(actions);
    let single = unique.iter().filter(|actions| **actions == 1.0).count();
    let single_share = (!unique.is_empty()).then(|| single as f64 / unique.len() as f64);
    let median_entropy = statistics::median(&chunk.values(entropy));
    let upstream = single_share.is_some_and(|share| 0.5 < share)
        || median_entropy.is_some_and(|entropy| entropy < entropy_max.get());

    let thirds = windows(&gate.losses);
    let rising = match (
        statistics::mean(thirds.middle_third),
        statistics::mean(thirds.last_third),
    ) {
        (Some(middle), Some(last)) => middle < last,
        (None, _) | (_, None) => false,
    };
    let r2_rate = statistics::r_squared(&chunk.pairs(loss, learning_rate));
    let r2_entropy = statistics::r_squared(&chunk.pairs(loss, entropy));
    let dynamics = rising && r2_rate.is_some_and(|rate| r2_entropy.unwrap_or(0.0) < rate);

    Finding::Cause {
        cause: match (upstream, dynamics) {
            (true, true) => Cause::Mixed,
            (true, false) => Cause::Upstream,
            (false, true) => Cause::Dynamics,
            (false, false) => Cause::Undetermined,
        },
        single_action_share: single_share.map(canonical),
        median_entropy: median_entropy.map(canonical),
        rising,
        r2_learning_rate: r2_rate.map(canonical),
        r2_entropy: r2_entropy.map(canonical),
    }
}
