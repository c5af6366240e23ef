//! Evaluates a chunk at its gate: each criterion, then metrics and findings.
//!
//! A criterion passes, fails or does not apply, always with its value, its limit and, if
//! the numbers do not show it, the reason. A missing, stale or non-finite value never
//! passes. Findings do not affect the decision.

use alloc::borrow::ToOwned;
use alloc::vec;
use alloc::vec::Vec;

use super::chunk::Previous;
use super::edition::Edition;
use super::findings;
pub use super::gate_inputs::GateInputs;
use super::gate_inputs::{Gate, Skill, canonical, exceeds, falls_short, limit_at};
use super::lineage::Judgement;
use super::statistics::{self, windows};
use tinygate_events::{
    Applies, Criterion, CriterionReason, CriterionResult, CriterionTest, Finding, Limit, Metric,
    Scalar, StagePolicy, Step, StructureLimits, StructureScores, Verdict, metric,
};

/// Name of the criterion that applies even if the policy does not list it.
const CHECKPOINT_VALID: &str = "checkpoint_valid";
/// Smallest number of finite samples with which windows of a chunk can be compared.
pub const WINDOW_SAMPLES_MIN: u64 = 10;

/// The result of evaluating a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub criteria: Vec<CriterionResult>,
    pub metrics: Vec<Metric>,
    pub findings: Vec<Finding>,
    pub gate_loss: Option<Scalar>,
}

impl Evaluation {
    /// The gate passes when no criterion fails.
    pub fn passed(&self) -> bool {
        self.criteria
            .iter()
            .all(|result| result.verdict != Verdict::Fail)
    }
}

/// A criterion that compares windows of a chunk, if there is one.
pub fn window_criterion(criteria: &[Criterion]) -> Option<&Criterion> {
    criteria.iter().find(|criterion| {
        matches!(
            criterion.test,
            CriterionTest::LossNotRising { .. } | CriterionTest::LossDelta { .. }
        )
    })
}

/// Smallest number of updates with which a chunk can pass these criteria.
pub fn updates_min(criteria: &[Criterion]) -> u64 {
    if window_criterion(criteria).is_some() {
        WINDOW_SAMPLES_MIN
    } else {
        1
    }
}

/// Evaluates every criterion of a stage's policy.
pub fn evaluate(policy: &StagePolicy, inputs: &GateInputs<'_>) -> Evaluation {
    let gate = Gate::new(policy, inputs);
    let mut criteria: Vec<CriterionResult> = policy
        .criteria
        .iter()
        .map(|criterion| judge(&gate, criterion))
        .collect();
    criteria.extend(checkpoint_needed(&gate));
    let passed = criteria
        .iter()
        .all(|result| result.verdict != Verdict::Fail);
    Evaluation {
        metrics: metrics(&gate, &criteria),
        findings: findings::of_gate(&gate, &criteria, passed),
        gate_loss: gate.gate_loss.map(canonical),
        criteria,
    }
}

fn judge(gate: &Gate<'_>, criterion: &Criterion) -> CriterionResult {
    let outcome = if criterion.applies == Applies::AtTarget && !gate.at_target {
        Outcome::not_applicable(CriterionReason::OnlyAtTarget)
    } else {
        test(gate, &criterion.test)
    };
    CriterionResult {
        name: criterion.name.clone(),
        verdict: outcome.verdict,
        value: outcome.value.map(canonical),
        limit: outcome.limit.map(canonical),
        why: outcome.why,
    }
}

/// A gate passes only with an accepted checkpoint, even if the policy does not require one: otherwise
/// there would be nothing to continue from, and nothing for the next stage.
fn checkpoint_needed(gate: &Gate<'_>) -> Option<CriterionResult> {
    let implied = Criterion {
        name: CHECKPOINT_VALID.to_owned(),
        applies: Applies::EveryGate,
        test: CriterionTest::CheckpointValid,
    };
    let is_listed = gate.policy.criteria.iter().any(|criterion| {
        criterion.test == CriterionTest::CheckpointValid
            && (criterion.applies == Applies::EveryGate || gate.at_target)
    });
    let result = judge(gate, &implied);
    (!is_listed && result.verdict == Verdict::Fail).then_some(result)
}

struct Outcome {
    verdict: Verdict,
    value: Option<f64>,
    limit: Option<f64>,
    why: Option<CriterionReason>,
}

impl Outcome {
    fn not_applicable(why: CriterionReason) -> Outcome {
        Outcome {
            verdict: Verdict::NotApplicable,
            value: None,
            limit: None,
            why: Some(why),
        }
    }

    fn fail(value: Option<f64>, limit: Option<f64>, why: CriterionReason) -> Outcome {
        Outcome {
            verdict: Verdict::Fail,
            value,
            limit,
            why: Some(why),
        }
    }

    /// The outcome of a comparison. A value that is not finite always fails.
    fn compared(value: f64, limit: f64, passes: bool) -> Outcome {
        if !value.is_finite() {
            return Outcome::fail(Some(value), Some(limit), CriterionReason::NotFinite);
        }
        let verdict = if passes { Verdict::Pass } else { Verdict::Fail };
        Outcome {
            verdict,
            value: Some(value),
            limit: Some(limit),
            why: None,
        }
    }
}

fn test(gate: &Gate<'_>, test: &CriterionTest) -> Outcome {
    match test {
        CriterionTest::CheckpointValid => checkpoint_valid(gate),
        CriterionTest::LossFinite => loss_finite(gate),
        CriterionTest::LossTrend { tolerance } => loss_trend(gate, tolerance.get()),
        CriterionTest::LossLatest { limit } => loss_latest(gate, limit),
        CriterionTest::MetricAtLeast { metric, limit } => metric_at_least(gate, metric, limit),
        CriterionTest::LossNotRising {
            tolerance,
            standard_errors,
        } => loss_not_rising(gate, tolerance.get(), standard_errors.get()),
        CriterionTest::LossDelta {
            tolerance,
            standard_errors,
        } => loss_delta(gate, tolerance.get(), standard_errors.get()),
        CriterionTest::VisualStructure { limits, share } => {
            visual_structure(gate, limits, share.get())
        }
        CriterionTest::SkillAbove { metric, limit } => skill_above(gate, metric, limit),
        CriterionTest::MetricsFresh => metrics_fresh(gate),
    }
}

fn missing(metric: &str) -> CriterionReason {
    CriterionReason::Missing {
        metric: metric.to_owned(),
    }
}

fn checkpoint_valid(gate: &Gate<'_>) -> Outcome {
    let why = match gate.inputs.checkpoint {
        Some(Judgement::Accepted) => {
            return Outcome {
                verdict: Verdict::Pass,
                value: Some(1.0),
                limit: None,
                why: None,
            };
        }
        Some(Judgement::Rejected(rejection)) => CriterionReason::Rejected {
            code: rejection.code.clone(),
            text: rejection.text.clone(),
        },
        Some(Judgement::Pending) => CriterionReason::NotJudged,
        None => CriterionReason::NoCheckpoint,
    };
    Outcome::fail(Some(0.0), None, why)
}

/// The value is the number of samples that are not finite.
fn loss_finite(gate: &Gate<'_>) -> Outcome {
    if gate.losses.is_empty() {
        return Outcome::fail(None, Some(0.0), missing(&gate.policy.loss));
    }
    let not_finite = gate.losses.iter().filter(|loss| !loss.is_finite()).count() as f64;
    let why = (0.0 < not_finite).then_some(CriterionReason::NotFinite);
    let verdict = if not_finite == 0.0 {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    Outcome {
        verdict,
        value: Some(not_finite),
        limit: Some(0.0),
        why,
    }
}

fn loss_trend(gate: &Gate<'_>, tolerance: f64) -> Outcome {
    let previous = match gate.chunk().previous {
        Previous::None => return Outcome::not_applicable(CriterionReason::FreshStart),
        Previous::GateLoss(loss) => match loss.and_then(Scalar::finite) {
            Some(loss) => loss,
            None => return Outcome::not_applicable(CriterionReason::PreviousNotFinite),
        },
    };
    let limit = previous + tolerance * previous.abs();
    match gate.gate_loss {
        None => Outcome::fail(None, Some(limit), missing(&gate.policy.loss)),
        Some(loss) => Outcome::compared(loss, limit, loss < limit),
    }
}

fn loss_latest(gate: &Gate<'_>, limit: &Limit) -> Outcome {
    let limit = limit_at(limit, gate.chunk().to);
    match gate.latest_loss {
        None => Outcome::fail(None, limit, missing(&gate.policy.loss)),
        Some(loss) => at_most(loss, limit),
    }
}

fn metric_at_least(gate: &Gate<'_>, name: &str, limit: &Limit) -> Outcome {
    let limit = limit_at(limit, gate.chunk().to);
    match (gate.chunk().samples(name).last(), limit) {
        (Some((_, value)), Some(limit)) => {
            Outcome::compared(value.get(), limit, limit <= value.get())
        }
        (None, limit) => Outcome::fail(None, limit, missing(name)),
        (Some((_, value)), None) => {
            Outcome::fail(Some(value.get()), None, CriterionReason::NotFinite)
        }
    }
}

fn at_most(value: f64, limit: Option<f64>) -> Outcome {
    match limit {
        Some(limit) => Outcome::compared(value, limit, value <= limit),
        None => Outcome::fail(Some(value), None, CriterionReason::NotFinite),
    }
}

fn too_few(gate: &Gate<'_>) -> Option<Outcome> {
    let found = gate.losses.iter().filter(|loss| loss.is_finite()).count() as u64;
    (found < WINDOW_SAMPLES_MIN).then(|| {
        Outcome::fail(
            None,
            None,
            CriterionReason::TooFewSamples {
                found,
                needed: WINDOW_SAMPLES_MIN,
            },
        )
    })
}

fn tolerance_of(compared_with: f64, share: f64, standard_errors: f64, a: &[f64], b: &[f64]) -> f64 {
    let relative = share * compared_with.abs();
    let noise = standard_errors * statistics::standard_error_of_difference(a, b);
    if relative < noise { noise } else { relative }
}

fn loss_not_rising(gate: &Gate<'_>, tolerance: f64, standard_errors: f64) -> Outcome {
    if let Some(outcome) = too_few(gate) {
        return outcome;
    }
    let windows = windows(&gate.losses);
    let (middle, last) = (windows.middle_third, windows.last_third);
    let (Some(middle_mean), Some(last_mean)) = (statistics::mean(middle), statistics::mean(last))
    else {
        return Outcome::fail(None, None, missing(&gate.policy.loss));
    };
    if !middle_mean.is_finite() {
        return Outcome::fail(Some(last_mean), None, CriterionReason::NotFinite);
    }
    let limit = middle_mean + tolerance_of(middle_mean, tolerance, standard_errors, last, middle);
    Outcome::compared(last_mean, limit, last_mean <= limit)
}

fn loss_delta(gate: &Gate<'_>, tolerance: f64, standard_errors: f64) -> Outcome {
    if let Some(outcome) = too_few(gate) {
        return outcome;
    }
    let windows = windows(&gate.losses);
    let (first, last) = (windows.first_tenth, windows.last_tenth);
    let (Some(first_mean), Some(last_mean)) = (statistics::mean(first), statistics::mean(last))
    else {
        return Outcome::fail(None, None, missing(&gate.policy.loss));
    };
    let delta = last_mean - first_mean;
    let limit = tolerance_of(first_mean, tolerance, standard_errors, last, first);
    Outcome::compared(delta, limit, delta <= limit)
}

/// The value is the share of held-out frames that have lost their structure.
fn visual_structure(gate: &Gate<'_>, limits: &StructureLimits, share: f64) -> Outcome {
    let Some(picture) = gate.picture() else {
        return Outcome::fail(None, Some(share), CriterionReason::NoPicture);
    };
    match lost_share(&picture.frames, limits) {
        Some(lost_share) => Outcome::compared(lost_share, share, lost_share < share),
        // Every held-out frame equals the mean image, so there is no structure to lose.
        None => Outcome::not_applicable(match gate.inputs.edition {
            Edition::One => CriterionReason::NoSkillToMeasure,
            Edition::Two => CriterionReason::NoStructureToMeasure,
        }),
    }
}

/// The share of frames that have lost their structure, among those with any score.
pub fn lost_share(frames: &[StructureScores], limits: &StructureLimits) -> Option<f64> {
    let is_scored = |scores: &&StructureScores| {
        let StructureScores {
            flatness,
            stripes,
            blockiness,
            ssim,
            mse_ratio,
        } = scores;
        [flatness, stripes, blockiness, ssim, mse_ratio]
            .iter()
            .any(|score| score.is_some())
    };
    let scored = frames.iter().filter(is_scored).count();
    let lost = frames
        .iter()
        .filter(|frame| structure_lost(frame, limits))
        .count();
    (0 < scored).then(|| lost as f64 / scored as f64)
}

/// Whether a frame has lost its structure: any of its scores is past its limit.
pub fn structure_lost(scores: &StructureScores, limits: &StructureLimits) -> bool {
    let above = |score: Option<Scalar>, limit: Scalar| {
        score.is_some_and(|score| exceeds(score.get(), limit.get()))
    };
    let below = |score: Option<Scalar>, limit: Scalar| {
        score.is_some_and(|score| falls_short(score.get(), limit.get()))
    };
    below(scores.flatness, limits.flatness_min)
        || above(scores.flatness, limits.flatness_max)
        || above(scores.stripes, limits.stripes_max)
        || above(scores.blockiness, limits.blockiness_max)
        || below(scores.ssim, limits.ssim_min)
        || above(scores.mse_ratio, limits.mse_ratio_max)
}

fn skill_above(gate: &Gate<'_>, name: &str, limit: &Limit) -> Outcome {
    let limit = limit_at(limit, gate.chunk().to);
    match (gate.skill(name), limit) {
        (Skill::Measured(skill), Some(limit)) => Outcome::compared(skill, limit, limit < skill),
        (Skill::Measured(skill), None) => {
            Outcome::fail(Some(skill), None, CriterionReason::NotFinite)
        }
        (Skill::NothingToMeasure, _) => Outcome::not_applicable(CriterionReason::NoSkillToMeasure),
        (Skill::Missing, limit) => Outcome::fail(None, limit, missing(name)),
        (Skill::NotFinite, limit) => Outcome::fail(None, limit, CriterionReason::NotFinite),
    }
}

/// The value is the number of needed metrics that are missing or stale.
fn metrics_fresh(gate: &Gate<'_>) -> Outcome {
    let chunk = gate.chunk();
    let needed_after = Step::new(
        chunk
            .to
            .get()
            .saturating_sub(chunk.settings.log_interval.max(1)),
    );
    let mut problems: Vec<CriterionReason> = Vec::new();
    for criterion in &gate.policy.criteria {
        let problem = problem(gate, needed(gate.policy, &criterion.test), needed_after);
        problems.extend(problem.filter(|problem| !problems.contains(problem)));
    }
    let value = problems.len() as f64;
    let verdict = if problems.is_empty() {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    Outcome {
        verdict,
        value: Some(value),
        limit: Some(0.0),
        why: problems.into_iter().next(),
    }
}

/// What is wrong with something that a criterion needs.
fn problem(gate: &Gate<'_>, needed: Needed<'_>, needed_after: Step) -> Option<CriterionReason> {
    match needed {
        Needed::Nothing => None,
        Needed::Samples(name) => match gate.chunk().samples(name).last() {
            None => Some(missing(name)),
            Some((last, _)) => (*last <= needed_after).then(|| CriterionReason::Stale {
                metric: name.to_owned(),
                last: *last,
                needed_after,
            }),
        },
        Needed::Picture => gate
            .picture()
            .is_none()
            .then_some(CriterionReason::NoPicture),
        Needed::HeldOut(name) => matches!(gate.skill(name), Skill::Missing).then(|| missing(name)),
    }
}

enum Needed<'a> {
    Nothing,
    Samples(&'a str),
    Picture,
    HeldOut(&'a str),
}

fn needed<'a>(policy: &'a StagePolicy, test: &'a CriterionTest) -> Needed<'a> {
    match test {
        CriterionTest::CheckpointValid | CriterionTest::MetricsFresh => Needed::Nothing,
        CriterionTest::LossFinite
        | CriterionTest::LossTrend { .. }
        | CriterionTest::LossLatest { .. }
        | CriterionTest::LossNotRising { .. }
        | CriterionTest::LossDelta { .. } => Needed::Samples(&policy.loss),
        CriterionTest::MetricAtLeast { metric, .. } => Needed::Samples(metric),
        CriterionTest::VisualStructure { .. } => Needed::Picture,
        CriterionTest::SkillAbove { metric, .. } => Needed::HeldOut(metric),
    }
}

/// Whether the stage's chunks keep samples of this metric.
pub fn keeps_samples(policy: &StagePolicy, name: &str) -> bool {
    let by_criterion = |criterion: &Criterion| matches!(needed(policy, &criterion.test), Needed::Samples(needed) if needed == name);
    policy.loss == name
        || policy.metrics.iter().any(|metric| metric == name)
        || policy.criteria.iter().any(by_criterion)
}

/// Gate loss, latest loss, skills, then the value of each criterion under its name.
fn metrics(gate: &Gate<'_>, criteria: &[CriterionResult]) -> Vec<Metric> {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite()).map(Scalar::new);
    let of_skill = |skill: Skill| match skill {
        Skill::Measured(skill) => Some(skill),
        Skill::NothingToMeasure | Skill::Missing | Skill::NotFinite => None,
    };
    let mut metrics = vec![
        Metric {
            name: metric::GATE_LOSS.to_owned(),
            value: finite(gate.gate_loss),
        },
        Metric {
            name: metric::LATEST_LOSS.to_owned(),
            value: finite(gate.latest_loss),
        },
    ];
    metrics.extend(gate.skills().map(|(name, skill)| Metric {
        name: name.to_owned(),
        value: finite(of_skill(skill)),
    }));
    for result in criteria {
        if metrics.iter().all(|metric| metric.name != result.name) {
            let value = finite(result.value.map(Scalar::get));
            metrics.push(Metric {
                name: result.name.clone(),
                value,
            });
        }
    }
    metrics
}
