//! A gate: six keys for programs, a few lines for people.

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use tinygate::events::{
    Action, Event, FailureAnswer, FailureDecided, GateDecided, Metric, Scalar, SettingPatch,
    SettingValue, StageReopened, StageStopped, Verdict, metric,
};
use tinygate::machine::{RunState, StageState};

use super::{Style, count, number, words};

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
    /// `None` for an event that decides no gate. A reopened stage decides its last
    /// gate again, without new metrics.
    pub fn of(event: &'a Event) -> Option<GateJson<'a>> {
        if let Event::GateDecided(gate) = event {
            return Some(GateJson {
                stage: gate.stage.as_str(),
                gate_step: gate.gate_step.get(),
                decision: gate.decision,
                metrics: &gate.metrics,
                resume_from: gate.resume_from.as_ref().map(|from| from.path.as_str()),
                patches: &gate.config_patch_applied,
            });
        }
        if let Event::StageReopened(reopened) = event {
            return Some(GateJson {
                stage: reopened.stage.as_str(),
                gate_step: reopened.gate_step.get(),
                decision: reopened.decision,
                metrics: &[],
                resume_from: reopened.resume_from.as_ref().map(|from| from.path.as_str()),
                patches: &reopened.config_patch_applied,
            });
        }
        None
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

/// A gate's decision, each criterion, what was found, and what comes next.
pub fn gate_lines(gate: &GateDecided, stage: Option<&StageState>, style: Style) -> Vec<String> {
    let mut lines = vec![headline(gate, stage, style)];
    lines.extend(criteria(gate, stage, style));
    if let Some(skill) = skill(gate) {
        lines.push(format!("    {skill}"));
    }
    for finding in &gate.findings {
        let note = style.notable("note:");
        lines.push(format!("    {note} {}", words::finding(finding)));
    }
    for skipped in &gate.skipped {
        let why = words::skip(skipped.why);
        lines.push(format!("    rung {} skipped: {why}", skipped.rung));
    }
    for patch in &gate.config_patch_applied {
        lines.push(format!("    patch: {}", words::patch(patch)));
    }
    if let Some(deferred) = &gate.deferred {
        let patch = words::patch(deferred);
        lines.push(format!("    for the next full cycle: {patch}"));
    }
    if let Some(restart) = &gate.restart {
        let chunks = restart.abandoned.len();
        lines.push(format!(
            "    restart {}: {}; {chunks} chunks abandoned",
            restart.restart,
            words::restart(restart.cause)
        ));
    }
    if let Some(stop) = &gate.stop {
        lines.push(format!("    stop: {}", words::stop(stop)));
    }
    lines.extend(next(gate));
    lines
}

fn headline(gate: &GateDecided, stage: Option<&StageState>, style: Style) -> String {
    let decision = match gate.decision {
        Action::Continue => style.good("continue"),
        Action::Retune => style.notable("retune"),
        Action::RestartStage => style.notable("restart_stage"),
        Action::Stop => style.bad("stop"),
    };
    let budget = stage.map_or(String::new(), |stage| match gate.failures {
        0 => String::new(),
        failures => format!(", failure {failures} with {} retries", stage.max_retries),
    });
    let loss = gate
        .metrics
        .iter()
        .find(|metric| metric.name == metric::GATE_LOSS);
    let loss = loss.and_then(|metric| metric.value);
    let loss = loss.map_or(String::new(), |loss| {
        format!(", loss {}", number(loss.get()))
    });
    format!(
        "{} gate at {}: {decision} (chunk {}{loss}{budget})",
        style.strong(gate.stage.as_str()),
        count(gate.gate_step.get()),
        gate.chunk,
    )
}

fn criteria(gate: &GateDecided, stage: Option<&StageState>, style: Style) -> Vec<String> {
    let policy = stage.map_or([].as_slice(), |stage| stage.policy.criteria.as_slice());
    let names = gate.criteria.iter().map(|result| result.name.len());
    let width = names.max().unwrap_or(0);
    let line = |result: &tinygate::events::CriterionResult| {
        let verdict = match result.verdict {
            Verdict::Pass => style.good("pass"),
            Verdict::Fail => style.bad("FAIL"),
            Verdict::NotApplicable => style.faint("n/a "),
        };
        let text = words::result(policy, result);
        let line = format!("    {verdict}  {:<width$}  {text}", result.name);
        line.trim_end().to_owned()
    };
    gate.criteria.iter().map(line).collect()
}

fn skill(gate: &GateDecided) -> Option<String> {
    let value = |name: &str| {
        let metric = gate.metrics.iter().find(|metric| metric.name == name)?;
        metric.value.map(Scalar::get)
    };
    let skill = value(metric::SKILL)?;
    let moving = value(metric::SKILL_MOVING)
        .map(|moving| format!(", {} on the pixels that move", number(moving)));
    Some(format!(
        "skill {}{} (1 is perfect, 0 is the trivial predictor)",
        number(skill),
        moving.unwrap_or_default()
    ))
}

fn next(gate: &GateDecided) -> Option<String> {
    match gate.decision {
        Action::Stop => None,
        // The next chunk goes on where this one ended.
        Action::Continue => None,
        Action::Retune | Action::RestartStage => Some(match &gate.resume_from {
            Some(from) => format!("    from {}", from.path),
            None => "    from fresh weights".to_owned(),
        }),
    }
}

pub fn reopened_lines(reopened: &StageReopened, style: Style) -> Vec<String> {
    let mut lines = vec![format!(
        "{} goes on after its gate at {}: {}",
        style.strong(reopened.stage.as_str()),
        count(reopened.gate_step.get()),
        style.notable(reopened.decision.as_str())
    )];
    for patch in &reopened.config_patch_applied {
        lines.push(format!("    patch: {}", words::patch(patch)));
    }
    lines.push(match &reopened.resume_from {
        Some(from) => format!("    from {}", from.path),
        None => "    from fresh weights".to_owned(),
    });
    lines
}

pub fn failure_lines(decided: &FailureDecided, style: Style) -> Vec<String> {
    let answer = match decided.answer {
        FailureAnswer::RunAgain => "run it again",
        FailureAnswer::Stop => "stop",
    };
    let mut lines = vec![format!(
        "{} chunk {} failed: {}: {}",
        style.strong(decided.stage.as_str()),
        decided.chunk,
        words::failure(decided.cause),
        style.bad(answer)
    )];
    for patch in &decided.patches {
        lines.push(format!("    patch: {}", words::patch(patch)));
    }
    if let Some(batch) = decided.effective_batch
        && batch.before != batch.after
    {
        lines.push(format!(
            "    an update now sees {} windows instead of {}",
            batch.after, batch.before
        ));
    }
    lines
}

pub fn stopped_lines(stopped: &StageStopped, style: Style) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {} at {}: {}",
        style.strong(stopped.stage.as_str()),
        style.bad("stopped"),
        count(stopped.step.get()),
        words::stop(&stopped.reason)
    )];
    for blocking in &stopped.blocking {
        let value = |value: Option<Scalar>| value.map_or("none".to_owned(), |v| number(v.get()));
        lines.push(format!(
            "    blocked by {}: {} at the last gate where it failed, limit {}, at {} gates",
            blocking.criterion,
            value(blocking.value),
            value(blocking.limit),
            blocking.gates
        ));
    }
    lines.push(match &stopped.best {
        Some(best) => format!("    best checkpoint: {}", best.path),
        None => "    there is no good checkpoint".to_owned(),
    });
    lines
}

/// Whether a decision has lines of its own.
pub fn is_explained(event: &Event) -> bool {
    matches!(
        event,
        Event::GateDecided(_)
            | Event::StageReopened(_)
            | Event::FailureDecided(_)
            | Event::StageStopped(_)
    )
}

/// What a decision says; nothing where its one line says all.
pub fn decision_lines(event: &Event, state: &RunState, style: Style) -> Vec<String> {
    if let Event::GateDecided(gate) = event {
        return gate_lines(gate, state.stage_named(&gate.stage), style);
    }
    if let Event::StageReopened(reopened) = event {
        return reopened_lines(reopened, style);
    }
    if let Event::FailureDecided(decided) = event {
        return failure_lines(decided, style);
    }
    if let Event::StageStopped(stopped) = event {
        return stopped_lines(stopped, style);
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate::events::{
        Attempt, CheckpointRef, ChunkNumber, PatchReason, SettingKey, StageName, Step,
    };

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
                patch(SettingKey::LearningRate, 0.003, 0.002),
                patch(SettingKey::LearningRate, 0.002, 0.0015),
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
            r#"{"stage":"video_tokenizer","gate_step":100,"decision":"retune","metrics":{"gate_loss":0.1,"latest_loss":null,"skill":null},"resume_from":"video_tokenizer/checkpoints/video_tokenizer_step_100","config_patch_applied":{"learning_rate":0.0015}}"#
        );
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
    fn lines_say_decision_patch_and_where_it_goes_on() {
        let lines = gate_lines(&gate(), None, Style::plain());
        assert_eq!(
            lines,
            [
                "video_tokenizer gate at 100: retune (chunk 1, loss 0.1)",
                "    patch: learning_rate 0.003 -> 0.002 (rung 1)",
                "    patch: learning_rate 0.002 -> 0.0015 (rung 1)",
                "    from video_tokenizer/checkpoints/video_tokenizer_step_100",
            ]
        );
    }
}
