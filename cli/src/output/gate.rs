//! A gate as JSON: six keys in the order of the specification.

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use tinygate::events::{Action, Event, Metric, Scalar, SettingPatch, SettingValue};

/// The JSON object of a gate, with its keys in the order of the specification.
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
    /// `None` for an event that decides no gate. A reopened stage has none: its gate was printed
    /// when it was decided.
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

/// The last patch of a key has its value.
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

#[cfg(test)]
mod tests {
    use super::*;
    use tinygate::events::{
        Attempt, CheckpointRef, ChunkNumber, GateDecided, PatchReason, SettingKey, StageName,
        StageReopened, Step,
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
    fn six_keys_in_order_and_null_for_non_finite_values() {
        let event = Event::GateDecided(Box::new(gate()));
        let json = serde_json::to_string(&GateJson::of(&event).unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"stage":"video_tokenizer","gate_step":100,"decision":"retune","metrics":{"gate_loss":0.1,"latest_loss":null,"skill":null},"resume_from":"video_tokenizer/checkpoints/video_tokenizer_step_100","config_patch_applied":{"learning_rate":0.001}}"#
        );
    }

    #[test]
    fn a_reopened_stage_is_not_a_gate() {
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
    fn no_change_is_an_empty_map_and_fresh_weights_are_null() {
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
}
