//! A gate in a few lines: the decision, its criteria, and what follows.

use tinygate_events::{
    Action, Criterion, CriterionResult, CriterionTest, GateDecided, Metric, Verdict, metric,
};
use tinygate_machine::StageState;

use crate::criteria::{reason, relation};
use crate::explain::consequences;
use crate::numbers::{count, number};
use crate::tone::{Line, Tone};

/// A gate's decision, each criterion in a row, the findings, and what comes next.
pub fn gate_lines(gate: &GateDecided, stage: Option<&StageState>) -> Vec<Line> {
    let criteria = stage.map_or([].as_slice(), |stage| stage.policy.criteria.as_slice());
    let mut lines = vec![headline(gate)];
    lines.extend(rows(gate, criteria));
    lines.extend(skill(gate).map(Line::plain));
    lines.extend(consequences(gate));
    lines
}

fn headline(gate: &GateDecided) -> Line {
    let tone = match gate.decision {
        Action::Continue => Tone::Good,
        Action::Retune | Action::RestartStage => Tone::Notable,
        Action::Stop => Tone::Bad,
    };
    let loss = value(gate, metric::GATE_LOSS)
        .map_or(String::new(), |loss| format!(", loss {}", number(loss)));
    let step = count(gate.gate_step.get());
    Line::default()
        .and(Tone::Strong, gate.stage.as_str())
        .and(Tone::Plain, format!(" gate at {step}: "))
        .and(tone, gate.decision.as_str())
        .and(Tone::Plain, format!(" (chunk {}{loss})", gate.chunk))
}

fn value(gate: &GateDecided, name: &str) -> Option<f64> {
    Metric::find(&gate.metrics, name)?.finite()
}

fn rows(gate: &GateDecided, criteria: &[Criterion]) -> Vec<Line> {
    let names = gate.criteria.iter().map(|result| result.name.len());
    let width = names.max().unwrap_or(0);
    let row = |result: &CriterionResult| {
        let (tone, verdict) = match result.verdict {
            Verdict::Pass => (Tone::Good, "pass"),
            Verdict::Fail => (Tone::Bad, "FAIL"),
            Verdict::NotApplicable => (Tone::Faint, "n/a "),
        };
        let test = criteria
            .iter()
            .find(|criterion| criterion.name == result.name);
        let numbers = test.and_then(|criterion| numbers(result, &criterion.test));
        let why = result.why.as_ref();
        let why = why.map(|why| reason(why, test.map(|criterion| &criterion.test)));
        let text: Vec<String> = [numbers, why].into_iter().flatten().collect();
        let rest = format!("  {:<width$}  {}", result.name, text.join("; "));
        Line::plain("  ")
            .and(tone, verdict)
            .and(Tone::Plain, rest.trim_end())
    };
    gate.criteria.iter().map(row).collect()
}

/// Value and limit, if the criterion compares the two.
fn numbers(result: &CriterionResult, test: &CriterionTest) -> Option<String> {
    let relation = relation(test)?;
    let limit = number(result.limit?.get());
    Some(match (result.value, result.verdict) {
        (None, _) => format!("required {relation} {limit}"),
        (Some(value), Verdict::Fail) => {
            format!("{}, required {relation} {limit}", number(value.get()))
        }
        (Some(value), Verdict::Pass | Verdict::NotApplicable) => {
            format!("{} {relation} {limit}", number(value.get()))
        }
    })
}

fn skill(gate: &GateDecided) -> Option<String> {
    let skill = number(value(gate, metric::SKILL)?);
    let moving = value(gate, metric::SKILL_MOVING).map_or(String::new(), |moving| {
        format!(", {} on moving pixels", number(moving))
    });
    Some(format!(
        "  skill {skill}{moving} (1 is perfect, 0 is the trivial predictor)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate_events::{
        Attempt, CheckpointRef, ChunkNumber, CriterionReason, PatchReason, Scalar, SettingKey,
        SettingPatch, SettingValue, StageName, Step,
    };
    use tinygate_presets::{self as presets, ModelKind, Preset};

    fn gate() -> GateDecided {
        let metric = |name: &str, value: Option<f64>| Metric {
            name: name.to_owned(),
            value: value.map(Scalar::new),
        };
        let patch = |key, from, to| SettingPatch {
            key,
            from: SettingValue::Real(Scalar::new(from)),
            to: SettingValue::Real(Scalar::new(to)),
            why: PatchReason::Rung(1),
        };
        GateDecided {
            stage: StageName::new("video_tokenizer"),
            chunk: ChunkNumber::FIRST,
            attempt: Attempt::FIRST,
            gate_step: Step::new(100),
            decision: Action::Retune,
            metrics: vec![
                metric("gate_loss", Some(0.1)),
                metric("latest_loss", Some(f64::NAN)),
                metric("skill", None),
            ],
            resume_from: Some(CheckpointRef {
                path: "video_tokenizer/checkpoints/video_tokenizer_step_100".to_owned(),
                step: Step::new(100),
            }),
            config_patch_applied: vec![
                patch(SettingKey::LearningRate, 0.003, 0.0015),
                patch(SettingKey::LearningRate, 0.0015, 0.001),
            ],
            criteria: Vec::new(),
            findings: Vec::new(),
            failures: 1,
            cursor: 1,
            rung: Some(1),
            skipped: Vec::new(),
            deferred: None,
            restart: None,
            stop: None,
        }
    }

    #[test]
    fn lines_show_decision_criteria_patch_and_resume_point() {
        let result = |name: &str, verdict, value, limit, why| CriterionResult {
            name: name.to_owned(),
            verdict,
            value,
            limit,
            why,
        };
        let (value, limit) = (Scalar::new(0.5), Scalar::new(0.01));
        let fresh = CriterionReason::FreshStart;
        let gate = GateDecided {
            criteria: vec![
                result("loss_latest", Verdict::Fail, Some(value), Some(limit), None),
                result(
                    "loss_trend",
                    Verdict::NotApplicable,
                    None,
                    None,
                    Some(fresh),
                ),
                result(
                    "checkpoint_valid",
                    Verdict::Pass,
                    Some(Scalar::new(1.0)),
                    None,
                    None,
                ),
            ],
            config_patch_applied: gate().config_patch_applied.into_iter().take(1).collect(),
            ..gate()
        };
        let policy = presets::stage(Preset::Seed, ModelKind::VideoTokenizer);
        let stage = StageState::new(&policy, 5);
        let lines: Vec<String> = gate_lines(&gate, Some(&stage))
            .iter()
            .map(Line::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "video_tokenizer gate at 100: retune (chunk 1, loss 0.1)",
                "  FAIL  loss_latest       0.5, required <= 0.01",
                "  n/a   loss_trend        there is no previous gate",
                "  pass  checkpoint_valid",
                "  rung 1 applied; the next failure tries rung 2 first",
                "  learning_rate from 0.003 to 0.0015 (rung 1)",
                "  failures so far: 1",
                "  continues from `video_tokenizer/checkpoints/video_tokenizer_step_100` (update 100)",
            ]
        );
    }
}
