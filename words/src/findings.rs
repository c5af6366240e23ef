//! Findings of a gate or a measurement as text.

use tinygate_events::{Cause, Finding, metric};

use crate::numbers::{number, percent, times};
use crate::values::optional_number;

/// A text for each finding, with all missing skills in one.
pub(crate) fn notes(findings: &[Finding]) -> Vec<String> {
    let is_skill = |finding: &&Finding| matches!(finding, Finding::NoSkill { .. });
    let mut notes = Vec::new();
    let mut noted = false;
    for finding in findings {
        let text = match finding {
            Finding::NoSkill { .. } if noted => continue,
            Finding::NoSkill { predictor, .. } => {
                noted = true;
                no_skill(findings.iter().filter(is_skill), predictor)
            }
            Finding::VacuousLimit { .. }
            | Finding::NothingToMeasure { .. }
            | Finding::DecidedByNoise { .. }
            | Finding::Cause { .. } => self::finding(finding),
        };
        notes.push(text);
    }
    notes
}

fn no_skill<'a>(findings: impl Iterator<Item = &'a Finding>, predictor: &str) -> String {
    let skills: Vec<String> = findings
        .filter_map(|finding| match finding {
            Finding::NoSkill { metric, skill, .. } => {
                Some(format!("{metric} is {}", number(skill.get())))
            }
            Finding::VacuousLimit { .. }
            | Finding::NothingToMeasure { .. }
            | Finding::DecidedByNoise { .. }
            | Finding::Cause { .. } => None,
        })
        .collect();
    format!(
        "the gate passes without skill: {}, so the model is no better than {}",
        skills.join(" and "),
        self::predictor(predictor)
    )
}

pub(crate) fn finding(finding: &Finding) -> String {
    match finding {
        Finding::VacuousLimit {
            criterion,
            limit,
            predictor,
            trivial_loss,
            factor,
        } => format!(
            "{criterion}: the limit {} is {} times the loss {} of {}, which learned nothing",
            number(limit.get()),
            times(factor.get()),
            number(trivial_loss.get()),
            self::predictor(predictor)
        ),
        Finding::NoSkill { predictor, .. } => no_skill(std::iter::once(finding), predictor),
        Finding::NothingToMeasure { metric, predictor } if metric == metric::SKILL_MOVING => {
            format!(
                "no pixel of the held-out frames moves, so {metric} cannot be measured and {} cannot be beaten",
                self::predictor(predictor)
            )
        }
        Finding::NothingToMeasure { metric, predictor } => format!(
            "{} has a held-out loss of 0, so {metric} cannot be measured and the gate does not show what was learned",
            self::predictor(predictor)
        ),
        Finding::DecidedByNoise {
            criterion,
            limit,
            within,
            beyond,
        } => format!(
            "{criterion} is decided by noise: of the last tenth of the samples {within} are within the limit {} and {beyond} beyond",
            number(limit.get())
        ),
        Finding::Cause {
            cause,
            single_action_share,
            median_entropy,
            rising,
            r2_learning_rate,
            r2_entropy,
        } => format!(
            "likely cause: {}; a single action in {} of the samples, median entropy {}, the loss {} at the end, r2 with the learning rate {}, with the entropy {}",
            match cause {
                Cause::Upstream => "upstream, the actions carry no information",
                Cause::Dynamics => "the dynamics model's own training",
                Cause::Mixed => "both the actions and the dynamics model's training",
                Cause::Undetermined => "undetermined",
            },
            single_action_share.map_or("none".to_owned(), |share| percent(share.get())),
            optional_number(*median_entropy),
            if *rising { "rises" } else { "does not rise" },
            optional_number(*r2_learning_rate),
            optional_number(*r2_entropy)
        ),
    }
}

pub(crate) fn predictor(name: &str) -> String {
    match name {
        "mean_image" => "the mean image".to_owned(),
        "previous_frame" => "the previous frame".to_owned(),
        "token_marginals" => "the marginal token distribution".to_owned(),
        other => format!("`{other}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_events::Scalar;

    #[test]
    fn missing_skills_share_one_note() {
        let no_skill = |metric: &str, skill| Finding::NoSkill {
            metric: metric.to_owned(),
            skill: Scalar::new(skill),
            predictor: "mean_image".to_owned(),
        };
        let both = [no_skill("skill", -13927.0), no_skill("skill_moving", -2.5)];
        let lines = notes(&both);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(
                "the gate passes without skill: skill is -13927 and skill_moving is -2.5, so the model is no better than"
            ),
            "{lines:?}"
        );
        let [_, moving] = &both;
        assert_eq!(notes(std::slice::from_ref(moving)), [finding(moving)]);
    }
}
