//! A gate: six keys for programs, a few lines for people.

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use tinygate::events::{
    Action, Criterion, CriterionResult, CriterionTest, Event, GateDecided, Metric, Scalar,
    SettingPatch, SettingValue, Verdict, metric,
};
use tinygate::machine::StageState;
use tinygate_replay::{consequences, reason, relation};

use super::{Style, count, number};

/// The object that stands for a gate, its keys in the order of the specification.
#[derive(Debug)]
pub struct GateJson<'a> {
    stage: &'a str,
    gate_step: u64,
    decision: Action,
    metrics: &'a [Metric],
    resume_from: Option<&'a str>,
    patches: &'a [SettingPatch],
}

impl<'a> GateJson<'a> {
    /// `None` for an event that decides no gate. A stage that is reopened is none: its
    /// gate was printed when it was decided.
    pub fn of(event: &'a Event) -> Option<GateJson<'a>> {
        let Event::GateDecided(gate) = event else {
            return None;
        };
        Some(GateJson {
            stage: gate.stage.as_str(),
            gate_step: gate.gate_step.get(),
            decision: gate.decision,
            metrics: &gate.metrics,
            resume_from: gate.resume_from.as_ref().map(|from| from.path.as_str()),
            patches: &gate.config_patch_applied,
        })
    }
}

impl Serialize for GateJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut gate = serializer.serialize_struct("Gate", 6)?;
        gate.serialize_field("stage", self.stage)?;
        gate.serialize_field("gate_step", &self.gate_step)?;
        gate.serialize_field("decision", self.decision.as_str())?;
        gate.serialize_field("metrics", &MetricsJson(self.metrics))?;
        gate.serialize_field("resume_from", &self.resume_from)?;
        gate.serialize_field("config_patch_applied", &PatchesJson(self.patches))?;
        gate.end()
    }
}

struct MetricsJson<'a>(&'a [Metric]);

impl Serialize for MetricsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for metric in self.0 {
            map.serialize_entry(&metric.name, &metric.value.and_then(Scalar::finite))?;
        }
        map.end()
    }
}

/// The last patch of a key says its value.
struct PatchesJson<'a>(&'a [SettingPatch]);

impl Serialize for PatchesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (place, patch) in self.0.iter().enumerate() {
            let later = self.0.iter().skip(place + 1);
            if later.into_iter().any(|later| later.key == patch.key) {
                continue;
            }
            match patch.to {
                SettingValue::Count(value) => map.serialize_entry(patch.key.as_str(), &value)?,
                SettingValue::Real(value) => {
                    map.serialize_entry(patch.key.as_str(), &value.finite())?;
                }
            }
        }
        map.end()
    }
}

/// A gate's decision, each criterion in a row, what was found, and what comes next.
pub fn gate_lines(gate: &GateDecided, stage: Option<&StageState>, style: Style) -> Vec<String> {
    let criteria = stage.map_or([].as_slice(), |stage| stage.policy.criteria.as_slice());
    let mut lines = vec![headline(gate, style)];
    lines.extend(rows(gate, criteria, style));
    lines.extend(skill(gate));
    let notes = consequences(gate).into_iter();
    lines.extend(notes.map(|line| match line.strip_prefix("  note: ") {
        Some(note) => format!("  {} {note}", style.notable("note:")),
        None => line,
    }));
    lines
}

fn headline(gate: &GateDecided, style: Style) -> String {
    let decision = gate.decision.as_str();
    let decision = match gate.decision {
        Action::Continue => style.good(decision),
        Action::Retune | Action::RestartStage => style.notable(decision),
        Action::Stop => style.bad(decision),
    };
    let loss = value(gate, metric::GATE_LOSS)
        .map_or(String::new(), |loss| format!(", loss {}", number(loss)));
    format!(
        "{} gate at {}: {decision} (chunk {}{loss})",
        style.strong(gate.stage.as_str()),
        count(gate.gate_step.get()),
        gate.chunk,
    )
}

fn value(gate: &GateDecided, name: &str) -> Option<f64> {
    Metric::find(&gate.metrics, name)?.finite()
}

fn rows(gate: &GateDecided, criteria: &[Criterion], style: Style) -> Vec<String> {
    let names = gate.criteria.iter().map(|result| result.name.len());
    let width = names.max().unwrap_or(0);
    let row = |result: &CriterionResult| {
        let verdict = match result.verdict {
            Verdict::Pass => style.good("pass"),
            Verdict::Fail => style.bad("FAIL"),
            Verdict::NotApplicable => style.faint("n/a "),
        };
        let test = criteria
            .iter()
            .find(|criterion| criterion.name == result.name);
        let numbers = test.and_then(|criterion| numbers(result, &criterion.test));
        let why = result.why.as_ref();
        let why = why.map(|why| reason(why, test.map(|criterion| &criterion.test)));
        let text: Vec<String> = [numbers, why].into_iter().flatten().collect();
        let line = format!("  {verdict}  {:<width$}  {}", result.name, text.join("; "));
        line.trim_end().to_owned()
    };
    gate.criteria.iter().map(row).collect()
}

/// Value and limit, where a criterion compares the two.
fn numbers(result: &CriterionResult, test: &CriterionTest) -> Option<String> {
    let relation = relation(test)?;
    let limit = number(result.limit?.get());
    Some(match (result.value, result.verdict) {
        (None, _) => format!("asked {relation} {limit}"),
        (Some(value), Verdict::Fail) => {
            format!("{}, asked {relation} {limit}", number(value.get()))
        }
        (Some(value), Verdict::Pass | Verdict::NotApplicable) => {
            format!("{} {relation} {limit}", number(value.get()))
        }
    })
}

fn skill(gate: &GateDecided) -> Option<String> {
    let skill = number(value(gate, metric::SKILL)?);
    let moving = value(gate, metric::SKILL_MOVING).map_or(String::new(), |moving| {
        format!(", {} on what moves", number(moving))
    });
    Some(format!(
        "  skill {skill}{moving} (1 is perfect, 0 is the trivial predictor)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate::events::{
        Attempt, CheckpointRef, ChunkNumber, CriterionReason, PatchReason, SettingKey, StageName,
        StageReopened, Step,
    };
    use tinygate::presets::ModelKind;
    use tinygate::presets::{self, Preset};

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
    fn six_keys_in_order_and_null_for_what_is_not_finite() {
        let event = Event::GateDecided(Box::new(gate()));
        let json = serde_json::to_string(&GateJson::of(&event).unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"stage":"video_tokenizer","gate_step":100,"decision":"retune","metrics":{"gate_loss":0.1,"latest_loss":null,"skill":null},"resume_from":"video_tokenizer/checkpoints/video_tokenizer_step_100","config_patch_applied":{"learning_rate":0.001}}"#
        );
    }

    #[test]
    fn a_reopened_stage_is_no_gate() {
        let reopened = StageReopened {
            stage: StageName::new("video_tokenizer"),
            gate_step: Step::new(100),
            decision: Action::Retune,
            resume_from: None,
            config_patch_applied: Vec::new(),
            cursor: 1,
            rung: Some(1),
            skipped: Vec::new(),
            deferred: None,
            restart: None,
        };
        assert!(GateJson::of(&Event::StageReopened(reopened)).is_none());
    }

    #[test]
    fn nothing_changed_is_an_empty_map_and_fresh_weights_are_null() {
        let event = Event::GateDecided(Box::new(GateDecided {
            resume_from: None,
            config_patch_applied: Vec::new(),
            ..gate()
        }));
        let json = serde_json::to_string(&GateJson::of(&event).unwrap()).unwrap();
        assert!(
            json.ends_with(r#""resume_from":null,"config_patch_applied":{}}"#),
            "{json}"
        );
    }

    #[test]
    fn lines_say_decision_criteria_patch_and_where_it_goes_on() {
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
        let lines = gate_lines(&gate, Some(&stage), Style::plain());
        assert_eq!(
            lines,
            [
                "video_tokenizer gate at 100: retune (chunk 1, loss 0.1)",
                "  FAIL  loss_latest       0.5, asked <= 0.01",
                "  n/a   loss_trend        there is no gate before this one",
                "  pass  checkpoint_valid",
                "  rung 1 applied; the next failure tries rung 2 first",
                "  learning_rate from 0.003 to 0.0015 (rung 1)",
                "  failures so far: 1",
                "  goes on from `video_tokenizer/checkpoints/video_tokenizer_step_100` (update 100)",
            ]
        );
    }
}
