//! The criteria of a gate as text: what each kind requires, and how a value compares with its limit.

use tinygate_events::{CriterionReason, CriterionResult, CriterionTest, Limit, Scalar, Verdict};

use crate::numbers::{count, number, percent};
use crate::values::optional_number;

/// The condition on which a criterion passes.
pub fn passes_when(test: &CriterionTest) -> String {
    let of_limit = |limit: &Limit| match limit {
        Limit::Constant(limit) => number(limit.get()),
        Limit::Schedule(entries) => {
            let entry = |(step, limit): &(u64, Scalar)| {
                format!("{} up to {}", number(limit.get()), count(*step))
            };
            entries.iter().map(entry).collect::<Vec<_>>().join(", ")
        }
    };
    let within = |tolerance: f64, errors: f64| {
        let errors = if 0.0 < errors {
            format!(" or {} standard errors", number(errors))
        } else {
            String::new()
        };
        format!("{}{errors}", percent(tolerance))
    };
    match test {
        CriterionTest::CheckpointValid => "the checkpoint is accepted".to_owned(),
        CriterionTest::LossFinite => "every loss is finite".to_owned(),
        CriterionTest::LossTrend { tolerance } => {
            format!("loss < the gate before + {}", percent(tolerance.get()))
        }
        CriterionTest::LossLatest { limit } => format!("latest loss <= {}", of_limit(limit)),
        CriterionTest::MetricAtLeast { metric, limit } => {
            format!("{metric} >= {}", of_limit(limit))
        }
        CriterionTest::LossNotRising {
            tolerance,
            standard_errors,
        } => format!(
            "last third <= middle third + {}",
            within(tolerance.get(), standard_errors.get())
        ),
        CriterionTest::LossDelta {
            tolerance,
            standard_errors,
        } => format!(
            "last tenth <= first tenth + {}",
            within(tolerance.get(), standard_errors.get())
        ),
        CriterionTest::VisualStructure { share, .. } => format!(
            "less than {} of the frames have lost their structure",
            percent(share.get())
        ),
        CriterionTest::SkillAbove { metric, limit } => format!("{metric} > {}", of_limit(limit)),
        CriterionTest::MetricsFresh => "every metric asked for is new".to_owned(),
    }
}

/// The operator between a passing value and its limit, if the criterion compares the two.
pub(crate) const fn relation(test: &CriterionTest) -> Option<&'static str> {
    Some(match test {
        CriterionTest::CheckpointValid
        | CriterionTest::LossFinite
        | CriterionTest::MetricsFresh => return None,
        CriterionTest::LossTrend { .. } | CriterionTest::VisualStructure { .. } => "<",
        CriterionTest::LossLatest { .. }
        | CriterionTest::LossNotRising { .. }
        | CriterionTest::LossDelta { .. } => "<=",
        CriterionTest::MetricAtLeast { .. } => ">=",
        CriterionTest::SkillAbove { .. } => ">",
    })
}

/// The comparison of value and limit, by the kind of criterion.
pub(crate) fn comparison(result: &CriterionResult, test: &CriterionTest) -> Option<String> {
    let value = result.value.map(|value| number(value.get()))?;
    let failed = result.verdict == Verdict::Fail;
    let limit = optional_number(result.limit);
    let must = |what: &str, relation: &str| {
        let verb = if failed { "must be" } else { "is" };
        format!("{what} {value} {verb} {relation} {limit}")
    };
    match test {
        CriterionTest::CheckpointValid => {
            (!failed).then(|| "the gate's checkpoint was accepted".to_owned())
        }
        CriterionTest::LossFinite => Some(if failed {
            format!("{value} of the chunk's loss samples are not finite")
        } else {
            "every loss sample of the chunk is finite".to_owned()
        }),
        CriterionTest::LossTrend { .. } => Some(format!(
            "{}, the previous gate loss plus the tolerance",
            must("the gate loss", "below")
        )),
        CriterionTest::LossLatest { .. } => Some(must("the latest loss", "at most")),
        CriterionTest::MetricAtLeast { metric, .. } => {
            Some(must(&format!("the latest {metric}"), "at least"))
        }
        CriterionTest::LossNotRising { .. } => {
            Some(must("the mean loss of the last third", "at most"))
        }
        CriterionTest::LossDelta { .. } => Some(must(
            "the mean loss of the last tenth minus that of the first",
            "at most",
        )),
        CriterionTest::VisualStructure { .. } => Some(must(
            "the share of held-out frames that lost their structure",
            "below",
        )),
        CriterionTest::SkillAbove { metric, .. } => Some(must(metric, "above")),
        CriterionTest::MetricsFresh => Some(if failed {
            format!("{value} of the metrics that the criteria need are missing or stale")
        } else {
            "all metrics that the criteria need are fresh".to_owned()
        }),
    }
}

/// Why a criterion of this kind failed or does not apply.
pub(crate) fn reason(reason: &CriterionReason, test: Option<&CriterionTest>) -> String {
    match reason {
        CriterionReason::OnlyAtTarget => "it only applies at the target".to_owned(),
        CriterionReason::FreshStart => "there is no previous gate".to_owned(),
        CriterionReason::PreviousNotFinite => "the previous gate's loss was not finite".to_owned(),
        CriterionReason::NotFinite => "a value is not finite".to_owned(),
        CriterionReason::TooFewSamples { found, needed } => {
            format!("{found} finite samples, {needed} are needed")
        }
        CriterionReason::Missing { metric } => format!("`{metric}` was not logged"),
        CriterionReason::Stale {
            metric,
            last,
            needed_after,
        } => format!(
            "`{metric}` was last logged at update {last}, a value after {needed_after} is needed"
        ),
        CriterionReason::NoPicture => "there is no new picture".to_owned(),
        CriterionReason::NoSkillToMeasure => match test {
            Some(CriterionTest::VisualStructure { .. }) => {
                "every held-out frame is the mean image, so there is no structure to keep"
                    .to_owned()
            }
            Some(_) | None => "the trivial predictor leaves nothing to improve on".to_owned(),
        },
        CriterionReason::NoStructureToMeasure => {
            "every held-out frame is the mean image, so there is no structure to keep".to_owned()
        }
        CriterionReason::NoCheckpoint => "there is no checkpoint at the gate".to_owned(),
        CriterionReason::NotJudged => "the checkpoint was not judged".to_owned(),
        CriterionReason::Rejected { code, text } => {
            format!("the checkpoint was rejected ({code}): {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_presets::{self as presets, ModelKind, Preset};

    #[test]
    fn a_picture_without_structure_is_not_said_to_lack_skill() {
        let dynamics = presets::stage(Preset::Strict, ModelKind::Dynamics);
        let text = |name: &str| {
            let known = dynamics.criteria.iter().find(|known| known.name == name);
            reason(
                &CriterionReason::NoSkillToMeasure,
                Some(&known.unwrap().test),
            )
        };
        assert!(text("visual_structure").contains("no structure to keep"));
        assert!(text("skill").contains("trivial predictor"));
    }
}
