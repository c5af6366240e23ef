//! The evaluation of a chunk: each criterion, then what the gate is worth.
//!
//! A criterion passes, fails or does not apply, always with its value, its limit
//! and, where the numbers do not say it, the reason. A missing, stale or
//! non-finite value never passes. Findings are said and decide nothing.

use alloc::borrow::ToOwned;
use alloc::vec;
use alloc::vec::Vec;

use super::chunk::{ChunkState, Previous};
use super::rules::Edition;
use super::stage::{Judgement, StageState};
use super::statistics::{self, windows};
use tinygate_events::{
    Applies, Cause, Criterion, CriterionReason, CriterionResult, CriterionTest, Finding, Limit,
    Metric, ModelKind, PictureScored, Scalar, StageMeasured, StagePolicy, Step, StructureLimits,
    StructureScores, Verdict, metric,
};

/// Name of the criterion that holds whether or not the policy has it.
const CHECKPOINT_VALID: &str = "checkpoint_valid";
/// Fewest finite samples that windows of a chunk are compared by.
pub const WINDOW_SAMPLES_MIN: u64 = 10;
/// A trivial loss below this leaves no skill to measure.
const TRIVIAL_LOSS_MIN: f64 = 1e-9;
/// Median entropy, in nats, below which the actions tell dynamics nothing.
const UPSTREAM_ENTROPY_MAX: f64 = 0.1;

/// All that a gate's evaluation says.
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

/// Fewest updates of a chunk that these criteria can pass.
pub fn updates_min(criteria: &[Criterion]) -> u64 {
    if window_criterion(criteria).is_some() {
        WINDOW_SAMPLES_MIN
    } else {
        1
    }
}

/// Evaluates every criterion of the stage's policy over its chunk.
pub fn evaluate(
    stage: &StageState,
    chunk: &ChunkState,
    latest_window: u32,
    edition: Edition,
) -> Evaluation {
    let inputs = Inputs::new(stage, chunk, latest_window, edition);
    let mut criteria: Vec<CriterionResult> = stage
        .policy
        .criteria
        .iter()
        .map(|criterion| judge(&inputs, criterion))
        .collect();
    criteria.extend(checkpoint_needed(&inputs));
    let passed = criteria
        .iter()
        .all(|result| result.verdict != Verdict::Fail);
    Evaluation {
        metrics: metrics(&inputs, &criteria),
        findings: findings(&inputs, &criteria, passed),
        gate_loss: inputs.gate_loss.map(stored),
        criteria,
    }
}

/// A number as a decision keeps it: machines differ in the bits of the NaN that they
/// compute, so there is one.
fn stored(value: f64) -> Scalar {
    Scalar::new(if value.is_nan() {
        f64::from_bits(0x7ff8_0000_0000_0000)
    } else {
        value
    })
}

/// What every criterion reads, computed once.
struct Inputs<'a> {
    stage: &'a StageState,
    chunk: &'a ChunkState,
    losses: Vec<f64>,
    gate_loss: Option<f64>,
    latest_loss: Option<f64>,
    skill: Skill,
    skill_moving: Skill,
    at_target: bool,
    edition: Edition,
}

#[derive(Clone, Copy)]
enum Skill {
    Measured(f64),
    /// The trivial loss is below 1e-9, or no held-out pixel moves.
    NothingToMeasure,
    Missing,
    NotFinite,
}

impl<'a> Inputs<'a> {
    fn new(
        stage: &'a StageState,
        chunk: &'a ChunkState,
        latest_window: u32,
        edition: Edition,
    ) -> Inputs<'a> {
        let losses = chunk.losses();
        let window = (latest_window.max(1) as usize).min(losses.len());
        Inputs {
            stage,
            chunk,
            gate_loss: statistics::mean(&losses),
            latest_loss: latest(&losses[losses.len() - window..]),
            skill: skill(stage, chunk, metric::HELD_OUT_LOSS, metric::TRIVIAL_LOSS),
            skill_moving: skill(
                stage,
                chunk,
                metric::HELD_OUT_LOSS_MOVING,
                metric::TRIVIAL_LOSS_MOVING,
            ),
            // The target in force, which a person may have moved since the chunk began.
            at_target: stage.settings.n_updates <= chunk.to.get(),
            losses,
            edition,
        }
    }

    fn skill(&self, name: &str) -> Skill {
        if name == metric::SKILL_MOVING {
            self.skill_moving
        } else {
            self.skill
        }
    }

    /// The picture drawn at this gate.
    fn picture(&self) -> Option<&PictureScored> {
        self.chunk
            .picture
            .as_ref()
            .filter(|picture| picture.step == self.chunk.to && !picture.frames.is_empty())
    }
}

/// One sample stays as it is, so that a NaN is shown as one; more give their median.
fn latest(samples: &[f64]) -> Option<f64> {
    match samples {
        [only] => Some(*only),
        _ => statistics::median(samples),
    }
}

fn skill(stage: &StageState, chunk: &ChunkState, held_out: &str, trivial: &str) -> Skill {
    let trivial = match trivial_loss(stage, trivial) {
        Ok(loss) => loss,
        Err(skill) => return skill,
    };
    let scored = chunk
        .held_out
        .as_ref()
        .filter(|scored| scored.step == chunk.to);
    let Some(loss) = scored.and_then(|scored| Metric::find(&scored.values, held_out)) else {
        return Skill::Missing;
    };
    let skill = 1.0 - loss.get() / trivial;
    if skill.is_finite() {
        Skill::Measured(skill)
    } else {
        Skill::NotFinite
    }
}

/// The loss that skill is measured by, or why there is no skill. A null for the pixels
/// that move says that none does; nothing else may be left out.
fn trivial_loss(stage: &StageState, name: &str) -> Result<f64, Skill> {
    let measured = stage.trivial.iter().find(|metric| metric.name == name);
    let value = measured.ok_or(Skill::Missing)?.value;
    match value.map(|loss| (loss.get(), loss.finite())) {
        None if name == metric::TRIVIAL_LOSS_MOVING => Err(Skill::NothingToMeasure),
        None => Err(Skill::Missing),
        Some((_, None)) => Err(Skill::NotFinite),
        Some((loss, Some(_))) if loss < TRIVIAL_LOSS_MIN => Err(Skill::NothingToMeasure),
        Some((loss, Some(_))) => Ok(loss),
    }
}

fn judge(inputs: &Inputs<'_>, criterion: &Criterion) -> CriterionResult {
    let outcome = if criterion.applies == Applies::AtTarget && !inputs.at_target {
        Outcome::not_applicable(CriterionReason::OnlyAtTarget)
    } else {
        test(inputs, &criterion.test)
    };
    CriterionResult {
        name: criterion.name.clone(),
        verdict: outcome.verdict,
        value: outcome.value.map(stored),
        limit: outcome.limit.map(stored),
        why: outcome.why,
    }
}

/// A gate passes on an accepted checkpoint only, also where the policy does not ask
/// for one: there is nothing else to go on from, or to hand on.
fn checkpoint_needed(inputs: &Inputs<'_>) -> Option<CriterionResult> {
    let implied = Criterion {
        name: CHECKPOINT_VALID.to_owned(),
        applies: Applies::EveryGate,
        test: CriterionTest::CheckpointValid,
    };
    let asked = inputs.stage.policy.criteria.iter().any(|criterion| {
        criterion.test == CriterionTest::CheckpointValid
            && (criterion.applies == Applies::EveryGate || inputs.at_target)
    });
    let result = judge(inputs, &implied);
    (!asked && result.verdict == Verdict::Fail).then_some(result)
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

    /// A comparison; a value that is not finite fails whatever it compares to.
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

fn test(inputs: &Inputs<'_>, test: &CriterionTest) -> Outcome {
    match test {
        CriterionTest::CheckpointValid => checkpoint_valid(inputs),
        CriterionTest::LossFinite => loss_finite(inputs),
        CriterionTest::LossTrend { tolerance } => loss_trend(inputs, tolerance.get()),
        CriterionTest::LossLatest { limit } => loss_latest(inputs, limit),
        CriterionTest::MetricAtLeast { metric, limit } => metric_at_least(inputs, metric, limit),
        CriterionTest::LossNotRising {
            tolerance,
            standard_errors,
        } => loss_not_rising(inputs, tolerance.get(), standard_errors.get()),
        CriterionTest::LossDelta {
            tolerance,
            standard_errors,
        } => loss_delta(inputs, tolerance.get(), standard_errors.get()),
        CriterionTest::VisualStructure { limits, share } => {
            visual_structure(inputs, limits, share.get())
        }
        CriterionTest::SkillAbove { metric, limit } => skill_above(inputs, metric, limit),
        CriterionTest::MetricsFresh => metrics_fresh(inputs),
    }
}

fn missing(metric: &str) -> CriterionReason {
    CriterionReason::Missing {
        metric: metric.to_owned(),
    }
}

fn checkpoint_valid(inputs: &Inputs<'_>) -> Outcome {
    let at_gate = inputs.stage.gate_checkpoint(inputs.chunk.to);
    let why = match at_gate.map(|checkpoint| &checkpoint.judgement) {
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

/// Its value is how many samples are not finite.
fn loss_finite(inputs: &Inputs<'_>) -> Outcome {
    if inputs.losses.is_empty() {
        return Outcome::fail(None, Some(0.0), missing(metric::LOSS));
    }
    let broken = inputs
        .losses
        .iter()
        .filter(|loss| !loss.is_finite())
        .count() as f64;
    let why = (0.0 < broken).then_some(CriterionReason::NotFinite);
    let verdict = if broken == 0.0 {
        Verdict::Pass
    } else {
        Verdict::Fail
    };
    Outcome {
        verdict,
        value: Some(broken),
        limit: Some(0.0),
        why,
    }
}

fn loss_trend(inputs: &Inputs<'_>, tolerance: f64) -> Outcome {
    let previous = match inputs.chunk.previous {
        Previous::None => return Outcome::not_applicable(CriterionReason::FreshStart),
        Previous::GateLoss(loss) => match loss.and_then(Scalar::finite) {
            Some(loss) => loss,
            None => return Outcome::not_applicable(CriterionReason::PreviousNotFinite),
        },
    };
    let limit = previous + tolerance * previous.abs();
    match inputs.gate_loss {
        None => Outcome::fail(None, Some(limit), missing(metric::LOSS)),
        Some(loss) => Outcome::compared(loss, limit, loss < limit),
    }
}

fn loss_latest(inputs: &Inputs<'_>, limit: &Limit) -> Outcome {
    let limit = limit_at(limit, inputs.chunk.to);
    match inputs.latest_loss {
        None => Outcome::fail(None, limit, missing(metric::LOSS)),
        Some(loss) => at_most(loss, limit),
    }
}

fn metric_at_least(inputs: &Inputs<'_>, name: &str, limit: &Limit) -> Outcome {
    let limit = limit_at(limit, inputs.chunk.to);
    match (inputs.chunk.samples(name).last(), limit) {
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

/// The limit for a gate at `step`; an empty schedule has none, and fails.
fn limit_at(limit: &Limit, step: Step) -> Option<f64> {
    match limit {
        Limit::Constant(limit) => Some(limit.get()),
        Limit::Schedule(entries) => entries
            .iter()
            .find(|(until, _)| step.get() <= *until)
            .or(entries.last())
            .map(|(_, limit)| limit.get()),
    }
}

fn too_few(inputs: &Inputs<'_>) -> Option<Outcome> {
    let found = inputs.losses.iter().filter(|loss| loss.is_finite()).count() as u64;
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

fn loss_not_rising(inputs: &Inputs<'_>, tolerance: f64, standard_errors: f64) -> Outcome {
    if let Some(outcome) = too_few(inputs) {
        return outcome;
    }
    let windows = windows(&inputs.losses);
    let (middle, last) = (windows.middle_third, windows.last_third);
    let (Some(middle_mean), Some(last_mean)) = (statistics::mean(middle), statistics::mean(last))
    else {
        return Outcome::fail(None, None, missing(metric::LOSS));
    };
    if !middle_mean.is_finite() {
        return Outcome::fail(Some(last_mean), None, CriterionReason::NotFinite);
    }
    let limit = middle_mean + tolerance_of(middle_mean, tolerance, standard_errors, last, middle);
    Outcome::compared(last_mean, limit, last_mean <= limit)
}

fn loss_delta(inputs: &Inputs<'_>, tolerance: f64, standard_errors: f64) -> Outcome {
    if let Some(outcome) = too_few(inputs) {
        return outcome;
    }
    let windows = windows(&inputs.losses);
    let (first, last) = (windows.first_tenth, windows.last_tenth);
    let (Some(first_mean), Some(last_mean)) = (statistics::mean(first), statistics::mean(last))
    else {
        return Outcome::fail(None, None, missing(metric::LOSS));
    };
    let delta = last_mean - first_mean;
    let limit = tolerance_of(first_mean, tolerance, standard_errors, last, first);
    Outcome::compared(delta, limit, delta <= limit)
}

/// Its value is the share of held-out frames that have lost their structure.
fn visual_structure(inputs: &Inputs<'_>, limits: &StructureLimits, share: f64) -> Outcome {
    let Some(picture) = inputs.picture() else {
        return Outcome::fail(None, Some(share), CriterionReason::NoPicture);
    };
    match lost_share(&picture.frames, limits) {
        Some(lost_share) => Outcome::compared(lost_share, share, lost_share < share),
        // Every held-out frame equals the mean image: there is nothing to keep.
        None => Outcome::not_applicable(match inputs.edition {
            Edition::One => CriterionReason::NoSkillToMeasure,
            Edition::Two => CriterionReason::NoStructureToMeasure,
        }),
    }
}

/// Share of the frames that have lost their structure, among those with any score.
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

/// Whether a frame has lost its structure: any score that applies is past its limit.
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

/// Above its limit, or not a number.
fn exceeds(value: f64, limit: f64) -> bool {
    value.is_nan() || limit < value
}

/// Below its limit, or not a number.
fn falls_short(value: f64, limit: f64) -> bool {
    value.is_nan() || value < limit
}

fn skill_above(inputs: &Inputs<'_>, name: &str, limit: &Limit) -> Outcome {
    let limit = limit_at(limit, inputs.chunk.to);
    match (inputs.skill(name), limit) {
        (Skill::Measured(skill), Some(limit)) => Outcome::compared(skill, limit, limit < skill),
        (Skill::Measured(skill), None) => {
            Outcome::fail(Some(skill), None, CriterionReason::NotFinite)
        }
        (Skill::NothingToMeasure, _) => Outcome::not_applicable(CriterionReason::NoSkillToMeasure),
        (Skill::Missing, limit) => Outcome::fail(None, limit, missing(name)),
        (Skill::NotFinite, limit) => Outcome::fail(None, limit, CriterionReason::NotFinite),
    }
}

/// Its value is how many needed metrics are missing or stale.
fn metrics_fresh(inputs: &Inputs<'_>) -> Outcome {
    let chunk = inputs.chunk;
    let needed_after = Step::new(
        chunk
            .to
            .get()
            .saturating_sub(chunk.settings.log_interval.max(1)),
    );
    let mut problems: Vec<CriterionReason> = Vec::new();
    for criterion in &inputs.stage.policy.criteria {
        let problem = problem(inputs, needed(&criterion.test), needed_after);
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
fn problem(inputs: &Inputs<'_>, needed: Needed<'_>, needed_after: Step) -> Option<CriterionReason> {
    match needed {
        Needed::Nothing => None,
        Needed::Samples(name) => match inputs.chunk.samples(name).last() {
            None => Some(missing(name)),
            Some((last, _)) => (*last <= needed_after).then(|| CriterionReason::Stale {
                metric: name.to_owned(),
                last: *last,
                needed_after,
            }),
        },
        Needed::Picture => inputs
            .picture()
            .is_none()
            .then_some(CriterionReason::NoPicture),
        Needed::HeldOut(name) => {
            matches!(inputs.skill(name), Skill::Missing).then(|| missing(name))
        }
    }
}

enum Needed<'a> {
    Nothing,
    Samples(&'a str),
    Picture,
    HeldOut(&'a str),
}

fn needed(test: &CriterionTest) -> Needed<'_> {
    match test {
        CriterionTest::CheckpointValid | CriterionTest::MetricsFresh => Needed::Nothing,
        CriterionTest::LossFinite
        | CriterionTest::LossTrend { .. }
        | CriterionTest::LossLatest { .. }
        | CriterionTest::LossNotRising { .. }
        | CriterionTest::LossDelta { .. } => Needed::Samples(metric::LOSS),
        CriterionTest::MetricAtLeast { metric, .. } => Needed::Samples(metric),
        CriterionTest::VisualStructure { .. } => Needed::Picture,
        CriterionTest::SkillAbove { metric, .. } => Needed::HeldOut(metric),
    }
}

/// Metrics the stage's chunk must keep samples of.
pub fn is_wanted(stage: &StageState, name: &str) -> bool {
    let always = [
        metric::LOSS,
        metric::LEARNING_RATE,
        metric::UNIQUE_ACTIONS,
        metric::ACTION_ENTROPY,
    ];
    always.contains(&name)
        || stage.policy.criteria.iter().any(|criterion| {
            matches!(&criterion.test, CriterionTest::MetricAtLeast { metric, .. } if metric == name)
        })
}

/// Gate loss, latest loss, skill values, then each criterion's value by its name.
fn metrics(inputs: &Inputs<'_>, criteria: &[CriterionResult]) -> Vec<Metric> {
    let finite = |value: Option<f64>| value.filter(|value| value.is_finite()).map(Scalar::new);
    let of_skill = |skill: Skill| match skill {
        Skill::Measured(skill) => Some(skill),
        Skill::NothingToMeasure | Skill::Missing | Skill::NotFinite => None,
    };
    let mut metrics = vec![
        Metric {
            name: metric::GATE_LOSS.to_owned(),
            value: finite(inputs.gate_loss),
        },
        Metric {
            name: metric::LATEST_LOSS.to_owned(),
            value: finite(inputs.latest_loss),
        },
        Metric {
            name: metric::SKILL.to_owned(),
            value: finite(of_skill(inputs.skill)),
        },
    ];
    if inputs.stage.policy.model != ModelKind::Dynamics {
        let value = finite(of_skill(inputs.skill_moving));
        metrics.push(Metric {
            name: metric::SKILL_MOVING.to_owned(),
            value,
        });
    }
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

fn findings(inputs: &Inputs<'_>, criteria: &[CriterionResult], passed: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (criterion, result) in inputs.stage.policy.criteria.iter().zip(criteria) {
        if result.verdict == Verdict::NotApplicable {
            continue;
        }
        if let CriterionTest::LossLatest { limit } = &criterion.test {
            let Some(limit) = limit_at(limit, inputs.chunk.to) else {
                continue;
            };
            findings.extend(vacuous_limit(inputs, &criterion.name, limit));
            let beyond = |loss: f64| exceeds(loss, limit);
            findings.extend(decided_by_noise(
                &inputs.losses,
                &criterion.name,
                limit,
                beyond,
            ));
        }
        if let CriterionTest::MetricAtLeast { metric, limit } = &criterion.test {
            let Some(limit) = limit_at(limit, inputs.chunk.to) else {
                continue;
            };
            let beyond = |value: f64| falls_short(value, limit);
            findings.extend(decided_by_noise(
                &inputs.chunk.values(metric),
                &criterion.name,
                limit,
                beyond,
            ));
        }
    }
    if passed {
        findings.extend(no_skill(inputs, metric::SKILL));
        findings.extend(no_skill(inputs, metric::SKILL_MOVING));
        if Edition::Two <= inputs.edition {
            findings.extend(nothing_to_measure(inputs));
        }
    } else if inputs.stage.policy.model == ModelKind::Dynamics {
        findings.push(cause(inputs));
    }
    findings
}

fn vacuous_limit(inputs: &Inputs<'_>, criterion: &str, limit: f64) -> Option<Finding> {
    let StageState {
        trivial, predictor, ..
    } = inputs.stage;
    looser_than_trivial(trivial, predictor, criterion, limit)
}

/// Which of a stage's limits at its target a trivial predictor meets: known as soon as the
/// predictor is measured, before anything is trained.
pub fn vacuous_limits(policy: &StagePolicy, measured: &StageMeasured) -> Vec<Finding> {
    let target = Step::new(policy.settings.n_updates);
    let vacuous = |criterion: &Criterion| {
        let CriterionTest::LossLatest { limit } = &criterion.test else {
            return None;
        };
        let limit = limit_at(limit, target)?;
        looser_than_trivial(
            &measured.trivial,
            &measured.predictor,
            &criterion.name,
            limit,
        )
    };
    policy.criteria.iter().filter_map(vacuous).collect()
}

fn looser_than_trivial(
    trivial: &[Metric],
    predictor: &str,
    criterion: &str,
    limit: f64,
) -> Option<Finding> {
    let trivial_loss = Metric::find(trivial, metric::TRIVIAL_LOSS)?
        .finite()
        .filter(|loss| TRIVIAL_LOSS_MIN <= *loss)?;
    (trivial_loss < limit).then(|| Finding::VacuousLimit {
        criterion: criterion.to_owned(),
        limit: stored(limit),
        predictor: predictor.to_owned(),
        trivial_loss: stored(trivial_loss),
        factor: stored(limit / trivial_loss),
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
        limit: stored(limit),
        within: within as u32,
        beyond: beyond as u32,
    })
}

fn no_skill(inputs: &Inputs<'_>, name: &str) -> Option<Finding> {
    match inputs.skill(name) {
        Skill::Measured(skill) if skill <= 0.0 => Some(Finding::NoSkill {
            metric: name.to_owned(),
            skill: stored(skill),
            predictor: inputs.stage.predictor.clone(),
        }),
        Skill::Measured(_) | Skill::NothingToMeasure | Skill::Missing | Skill::NotFinite => None,
    }
}

/// Without a loss to be better than, a passing gate says nothing of what was learnt. Pixels that
/// move are named only where the whole frame can be measured.
fn nothing_to_measure(inputs: &Inputs<'_>) -> Option<Finding> {
    let name = [metric::SKILL, metric::SKILL_MOVING]
        .into_iter()
        .find(|name| matches!(inputs.skill(name), Skill::NothingToMeasure))?;
    Some(Finding::NothingToMeasure {
        metric: name.to_owned(),
        predictor: inputs.stage.predictor.clone(),
    })
}

/// Whether a failed dynamics gate is the actions' fault or its own.
fn cause(inputs: &Inputs<'_>) -> Finding {
    let chunk = inputs.chunk;
    let unique = chunk.values(metric::UNIQUE_ACTIONS);
    let single = unique.iter().filter(|actions| **actions == 1.0).count();
    let single_share = (!unique.is_empty()).then(|| single as f64 / unique.len() as f64);
    let entropy = statistics::median(&chunk.values(metric::ACTION_ENTROPY));
    let upstream = single_share.is_some_and(|share| 0.5 < share)
        || entropy.is_some_and(|entropy| entropy < UPSTREAM_ENTROPY_MAX);

    let thirds = windows(&inputs.losses);
    let rising = match (
        statistics::mean(thirds.middle_third),
        statistics::mean(thirds.last_third),
    ) {
        (Some(middle), Some(last)) => middle < last,
        (None, _) | (_, None) => false,
    };
    let r2_rate = statistics::r_squared(&chunk.pairs(metric::LOSS, metric::LEARNING_RATE));
    let r2_entropy = statistics::r_squared(&chunk.pairs(metric::LOSS, metric::ACTION_ENTROPY));
    let dynamics = rising && r2_rate.is_some_and(|rate| r2_entropy.unwrap_or(0.0) < rate);

    Finding::Cause {
        cause: match (upstream, dynamics) {
            (true, true) => Cause::Mixed,
            (true, false) => Cause::Upstream,
            (false, true) => Cause::Dynamics,
            (false, false) => Cause::Undetermined,
        },
        single_action_share: single_share.map(stored),
        median_entropy: entropy.map(stored),
        rising,
        r2_learning_rate: r2_rate.map(stored),
        r2_entropy: r2_entropy.map(stored),
    }
}
