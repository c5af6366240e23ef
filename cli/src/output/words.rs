//! What events say, in words.

use tinygate::events::{
    Cause, Criterion, CriterionReason, CriterionResult, CriterionTest, FailureCause, Finding,
    PatchReason, RestartCause, SettingPatch, SettingValue, SkipReason, StopReason, metric,
};
use tinygate::machine::Phase;

use super::{count, number};

pub fn setting(value: SettingValue) -> String {
    match value {
        SettingValue::Count(value) => value.to_string(),
        SettingValue::Real(value) => number(value.get()),
    }
}

/// `learning_rate 0.003 -> 0.0015 (rung 1)`.
pub fn patch(patch: &SettingPatch) -> String {
    let why = match patch.why {
        PatchReason::Rung(rung) => format!("rung {rung}"),
        PatchReason::Extension => "the target was reached, so it is extended".to_owned(),
        PatchReason::OutOfMemory => "out of memory".to_owned(),
    };
    format!(
        "{} {} -> {} ({why})",
        patch.key.as_str(),
        setting(patch.from),
        setting(patch.to)
    )
}

/// How a criterion compares its value with its limit.
pub fn relation(criteria: &[Criterion], name: &str) -> &'static str {
    let criterion = criteria.iter().find(|criterion| criterion.name == name);
    match criterion.map(|criterion| &criterion.test) {
        Some(CriterionTest::LossTrend { .. } | CriterionTest::VisualStructure { .. }) => "<",
        Some(CriterionTest::MetricAtLeast { .. }) => ">=",
        Some(CriterionTest::SkillAbove { .. }) => ">",
        Some(
            CriterionTest::LossLatest { .. }
            | CriterionTest::LossNotRising { .. }
            | CriterionTest::LossDelta { .. }
            | CriterionTest::LossFinite
            | CriterionTest::CheckpointValid
            | CriterionTest::MetricsFresh,
        )
        | None => "<=",
    }
}

/// Value, limit and reason of a criterion; empty when its name says all.
pub fn result(criteria: &[Criterion], result: &CriterionResult) -> String {
    let test = criteria
        .iter()
        .find(|criterion| criterion.name == result.name);
    let says_nothing = matches!(
        test.map(|criterion| &criterion.test),
        Some(
            CriterionTest::CheckpointValid
                | CriterionTest::LossFinite
                | CriterionTest::MetricsFresh
        ) | None
    );
    let numbers = match (result.value, result.limit) {
        _ if says_nothing => None,
        (Some(value), Some(limit)) => {
            let relation = relation(criteria, &result.name);
            let holds = match result.verdict {
                tinygate::events::Verdict::Fail => "not ",
                tinygate::events::Verdict::Pass | tinygate::events::Verdict::NotApplicable => "",
            };
            let (value, limit) = (number(value.get()), number(limit.get()));
            Some(format!("{value}, {holds}{relation} {limit}"))
        }
        (Some(value), None) => Some(number(value.get())),
        (None, Some(limit)) => {
            let relation = relation(criteria, &result.name);
            Some(format!(
                "no value, asked {relation} {}",
                number(limit.get())
            ))
        }
        (None, None) => None,
    };
    let why = result.why.as_ref().map(reason);
    [numbers, why]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

fn reason(reason: &CriterionReason) -> String {
    match reason {
        CriterionReason::OnlyAtTarget => "asked at the target only".to_owned(),
        CriterionReason::FreshStart => "no gate before this one".to_owned(),
        CriterionReason::PreviousNotFinite => {
            "the gate before this one has no finite loss".to_owned()
        }
        CriterionReason::NotFinite => "not a finite number".to_owned(),
        CriterionReason::TooFewSamples { found, needed } => {
            format!("{found} finite samples, {needed} are needed")
        }
        CriterionReason::Missing { metric } => format!("`{metric}` was not logged"),
        CriterionReason::Stale {
            metric,
            last,
            needed_after,
        } => format!("`{metric}` was last logged at update {last}, needed after {needed_after}"),
        CriterionReason::NoPicture => "no picture of this gate".to_owned(),
        CriterionReason::NoSkillToMeasure => {
            "the trivial predictor is all but perfect, so there is no skill to measure".to_owned()
        }
        CriterionReason::NoCheckpoint => "no checkpoint at this gate".to_owned(),
        CriterionReason::NotJudged => "the checkpoint was not judged".to_owned(),
        CriterionReason::Rejected { text, .. } => text.clone(),
    }
}

pub fn predictor(name: &str) -> String {
    match name {
        "mean_image" => "a constant mean image".to_owned(),
        "previous_frame" => "repeating the previous frame".to_owned(),
        "token_marginals" => "guessing tokens by how frequent they are".to_owned(),
        other => format!("`{other}`"),
    }
}

pub fn finding(finding: &Finding) -> String {
    match finding {
        Finding::VacuousLimit {
            criterion,
            limit,
            predictor: name,
            trivial_loss,
            factor,
        } => format!(
            "the limit {} of `{criterion}` is vacuous: {} scores {}, {} times better",
            number(limit.get()),
            predictor(name),
            number(trivial_loss.get()),
            factor_of(factor.get())
        ),
        Finding::NoSkill {
            metric: name,
            skill,
            predictor: trivial,
        } => {
            let place = if name == metric::SKILL_MOVING {
                " on the pixels that move"
            } else {
                ""
            };
            format!(
                "no skill: it passes, and is no better{place} than {} (skill {})",
                predictor(trivial),
                number(skill.get())
            )
        }
        Finding::DecidedByNoise {
            criterion,
            limit,
            within,
            beyond,
        } => format!(
            "`{criterion}` was decided by noise: of the last samples {within} lie within the limit {} and {beyond} beyond",
            number(limit.get())
        ),
        Finding::Cause {
            cause,
            single_action_share,
            median_entropy,
            rising,
            ..
        } => {
            let mut text = match cause {
                Cause::Upstream => "the cause is upstream: the actions say nothing",
                Cause::Dynamics => "the cause is in dynamics: its loss follows the learning rate",
                Cause::Mixed => {
                    "the causes are mixed: poor actions, and a loss that follows the learning rate"
                }
                Cause::Undetermined => "the cause is undetermined",
            }
            .to_owned();
            let mut facts = Vec::new();
            if let Some(share) = single_action_share {
                facts.push(format!(
                    "one action only in {} of the samples",
                    number(share.get())
                ));
            }
            if let Some(entropy) = median_entropy {
                facts.push(format!("median entropy {}", number(entropy.get())));
            }
            if *rising {
                facts.push("the loss rises at the end".to_owned());
            }
            if !facts.is_empty() {
                text.push_str(&format!(" ({})", facts.join(", ")));
            }
            text
        }
    }
}

/// 13 and 91, but 1.6.
fn factor_of(factor: f64) -> String {
    if 10.0 <= factor && factor < 1e15 {
        count(factor.round() as u64)
    } else {
        number((factor * 10.0).round() / 10.0)
    }
}

pub fn skip(why: SkipReason) -> &'static str {
    match why {
        SkipReason::AtBound => "at its bound",
        SkipReason::LossNotDropping => "the loss is not dropping",
        SkipReason::NoPreviousGate => "there is no gate before this one",
        SkipReason::EntropyNotCollapsed => "the entropy has not collapsed",
        SkipReason::AlreadyDeferred => "deferred before",
        SkipReason::ExtensionsUsedUp => "no extension is left",
        SkipReason::NotASettingOfThisStage => "no setting of this stage",
    }
}

pub fn restart(cause: RestartCause) -> &'static str {
    match cause {
        RestartCause::NoAcceptedCheckpoint => "no checkpoint was accepted",
        RestartCause::NonFiniteLoss => "the loss was not finite",
        RestartCause::StructureLost => "the pictures lost their structure twice",
    }
}

pub fn stop(reason: &StopReason) -> String {
    match reason {
        StopReason::RetriesExceeded {
            failures,
            max_retries,
        } => format!("{failures} failures, {max_retries} retries are allowed"),
        StopReason::NoRungApplies => "no rung of the ladder applies".to_owned(),
        StopReason::ExtensionsExceeded {
            extensions,
            max_extensions,
        } => format!("{extensions} extensions of the target, {max_extensions} are allowed"),
        StopReason::ChunkFailuresExceeded {
            failures,
            max_chunk_failures,
        } => format!("{failures} chunks failed in a row, {max_chunk_failures} may"),
        StopReason::OutOfMemoryAtFloor { batch_size_per_gpu } => {
            format!("out of memory at the smallest batch, {batch_size_per_gpu}")
        }
        StopReason::CountersExhausted => "a counter is used up".to_owned(),
    }
}

pub fn failure(cause: FailureCause) -> &'static str {
    match cause {
        FailureCause::OutOfMemory => "out of memory",
        FailureCause::WorkerExited => "training failed",
        FailureCause::WorkerTimedOut => "training timed out",
        FailureCause::CheckpointUnloadable => "its checkpoint cannot be loaded",
        FailureCause::Interrupted => "it was interrupted too often without a new checkpoint",
    }
}

/// Where a stage stands.
pub fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Pending => "waiting",
        Phase::Measuring => "measuring",
        Phase::Recording { .. } => "between chunks",
        Phase::Training => "training",
        Phase::Rewinding => "rewinding",
        Phase::Gating => "at a gate",
        Phase::Failed { .. } => "after a failed chunk",
        Phase::Ending { .. } | Phase::Stopping { .. } => "stopping",
        Phase::Stopped { .. } => "stopped",
        Phase::Reopening { .. } => "reopening",
        Phase::Passed { .. } => "passed",
    }
}
