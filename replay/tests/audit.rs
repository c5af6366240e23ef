//! Audits of logs that are intact, cut, edited, shortened and extended.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use serde_json::Value;
use tinygate::controller::Ending;
use tinygate::events::{
    Event, Record, Seq, SettingChanged, SettingKey, SettingValue, StageName, metric,
};
use tinygate::machine::RULES;
use tinygate::presets::ModelKind;
use tinygate_replay::{Audit, DivergenceKind, Note, Outcome, SkipReason, audit, audit_file};
use tinygate_testing::{ChunkPlan, Curve, Failure, Script, first, lived, short_policy};
use tinygate_words::{audit_summary, audit_text};

const VIDEO: &str = "video_tokenizer";
const LATENT: &str = "latent_actions";
const DYNAMICS: &str = "dynamics";

/// Retunes, a deferred rung, restarts and failed chunks.
fn eventful() -> Script {
    let video = ChunkPlan::good(ModelKind::VideoTokenizer);
    let latent = ChunkPlan::good(ModelKind::LatentActions).collapsing();
    let dynamics = ChunkPlan::good(ModelKind::Dynamics);
    Script::new(11)
        .chunk(VIDEO, 1, video.clone().loss(Curve::flat(0.05).noisy(0.1)))
        .attempt(VIDEO, 2, 1, video.failing(6, Failure::WorkerExited))
        .chunk(LATENT, 1, latent.clone())
        .chunk(LATENT, 2, latent.clone())
        .chunk(LATENT, 3, latent)
        .attempt(
            DYNAMICS,
            1,
            1,
            dynamics.clone().failing(15, Failure::OutOfMemory),
        )
        .chunk(
            DYNAMICS,
            2,
            dynamics.loss(Curve::decay(5.0, 30.0).but(4, f64::NAN)),
        )
}

/// A run that stops, is resumed with more retries, and finishes.
fn reopened() -> Vec<Record> {
    let hopeless = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let stopped = lived(
        &first(short_policy()),
        vec![],
        Script::new(12).stage(VIDEO, hopeless),
    );
    let more = Event::SettingChanged(SettingChanged {
        stage: Some(StageName::new(VIDEO)),
        key: SettingKey::MaxRetries,
        from: SettingValue::Count(5),
        to: SettingValue::Count(7),
        who: "a person".to_owned(),
        why: "resume --retries 2".to_owned(),
    });
    lived(&stopped.unwrap().records, vec![more], Script::new(12))
        .unwrap()
        .records
}

fn eventful_log() -> Vec<Record> {
    let lived = lived(&first(short_policy()), vec![], eventful()).unwrap();
    assert_eq!(lived.ending, Ending::Finished);
    lived.records
}

fn audit_of(records: &[Record]) -> Audit {
    audit(records.iter().cloned().map(Ok))
}

/// The same events, renumbered.
fn renumbered(events: impl IntoIterator<Item = Record>) -> Vec<Record> {
    (0..)
        .zip(events)
        .map(|(seq, record)| Record {
            seq: Seq::new(seq),
            ..record
        })
        .collect()
}

#[track_caller]
fn check_agrees(name: &str, records: &[Record]) {
    let audit = audit_of(records);
    let decisions = records
        .iter()
        .filter(|record| record.event.is_decision())
        .count() as u64;
    assert_eq!(audit.outcome, Outcome::Agreed, "{name}\n{audit:#?}");
    assert_eq!(audit.checked.events, records.len() as u64, "{name}");
    assert_eq!(audit.checked.decisions, decisions, "{name}");
    assert_eq!(audit.checked.recomputed, decisions, "{name}");
    assert_eq!(audit.checked.agreed, decisions, "{name}");
    assert!(audit.divergences.is_empty(), "{name}\n{audit:#?}");
}

#[test]
fn recomputed_decisions_agree() {
    check_agrees("eventful", &eventful_log());
    check_agrees("stopped and reopened", &reopened());
    let clean = lived(&first(short_policy()), vec![], Script::new(1)).unwrap();
    check_agrees("clean", &clean.records);
    assert_eq!(audit_of(&clean.records).notes, []);
}

#[test]
fn a_log_that_was_resumed_after_any_crash_agrees() {
    let whole = eventful_log();
    for kept in 1..whole.len() {
        let records = lived(&whole[..kept], vec![], eventful()).unwrap().records;
        check_agrees(&format!("cut after event {}", kept - 1), &records);
    }
}

#[test]
fn a_log_that_ends_anywhere_agrees_up_to_its_end() {
    let whole = eventful_log();
    let mut due = 0;
    for kept in 0..whole.len() {
        let audit = audit_of(&whole[..kept]);
        let want = if audit.checked.decisions == 0 {
            Outcome::NothingChecked
        } else {
            Outcome::Agreed
        };
        assert_eq!(audit.outcome, want, "cut before event {kept}");
        // The note names the decision that was recorded next.
        let next = &whole[kept].event;
        let said = audit.notes.iter().find_map(|note| match note {
            Note::EndsBeforeDecision { decision, .. } => Some(decision.as_str()),
            Note::UnderWay { .. } | Note::UnfinishedAppend { .. } | Note::Resumed { .. } => None,
        });
        if next.is_decision() {
            assert_eq!(said, Some(next.kind()), "cut before event {kept}");
            due += 1;
        }
    }
    assert!(0 < due);
}

/// The JSON value with each leaf changed, one at a time.
fn edits(value: &Value) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    each_leaf(value, String::new(), &mut |path| {
        let mut edited = value.clone();
        if let Some(leaf) = edited.pointer_mut(path) {
            *leaf = match leaf.clone() {
                Value::Number(number) if number.is_u64() => {
                    Value::from(number.as_u64().unwrap_or(0) + 1)
                }
                Value::Number(number) => Value::from(number.as_f64().unwrap_or(0.0) * 1.5 + 1.0),
                Value::String(text) => Value::from(format!("{text}x")),
                Value::Bool(flag) => Value::from(!flag),
                Value::Null => Value::from(3),
                Value::Array(_) | Value::Object(_) => Value::from("edited"),
            };
        }
        found.push((path.to_owned(), edited));
    });
    found
}

fn each_leaf(value: &Value, path: String, visit: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                each_leaf(field, format!("{path}/{key}"), visit);
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            for (index, element) in elements.iter().enumerate() {
                each_leaf(element, format!("{path}/{index}"), visit);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            visit(&path);
        }
    }
}

/// Edits of a decision that are still valid events.
fn edited(event: &Event) -> Vec<(String, Event)> {
    let form = serde_json::to_value(event).unwrap();
    edits(&form)
        .into_iter()
        .filter_map(|(path, form)| Some((path, serde_json::from_value::<Event>(form).ok()?)))
        .filter(|(_, edited)| edited != event)
        .collect()
}

#[test]
fn an_edit_of_any_field_of_any_decision_is_one_divergence() {
    let mut found = 0;
    let mut failures = Vec::new();
    for whole in [eventful_log(), reopened()] {
        for (index, record) in whole.iter().enumerate() {
            if !record.event.is_decision() {
                continue;
            }
            for (path, event) in edited(&record.event) {
                let mut records = whole.clone();
                records[index].event = event;
                let audit = audit_of(&records);
                found += 1;
                let at_its_place = audit.divergences.iter().any(|divergence| {
                    divergence.seq == record.seq && divergence.recorded != divergence.recomputed
                });
                if audit.outcome != Outcome::Diverged
                    || audit.diverging_decisions() != 1
                    || !at_its_place
                {
                    failures.push(format!(
                        "{} {path} at {index}: {}",
                        record.event.kind(),
                        audit_summary(&audit)
                    ));
                }
            }
        }
    }
    assert_eq!(failures, [""; 0], "{} of {found}", failures.len());
    assert!(500 < found, "{found} edits");
}

#[test]
fn a_removed_decision_is_missing() {
    for whole in [eventful_log(), reopened()] {
        for (index, record) in whole.iter().enumerate() {
            // At the end of the log it is only due, and a setting may be changed while one is due.
            let next = whole.get(index + 1).map(|next| next.event.kind());
            if !record.event.is_decision() || matches!(next, None | Some("setting_changed")) {
                continue;
            }
            let rest = whole.iter().filter(|other| other.seq != record.seq);
            let audit = audit_of(&renumbered(rest.cloned()));
            let place = format!(
                "without event {index} ({})\n{audit:#?}",
                record.event.kind()
            );
            assert_eq!(audit.outcome, Outcome::Diverged, "{place}");
            assert_eq!(audit.diverging_decisions(), 1, "{place}");
            assert_eq!(audit.checked.missing, 1, "{place}");
            let missing = &audit.divergences[0];
            assert_eq!(missing.divergence, DivergenceKind::Missing, "{place}");
            assert_eq!(
                missing.recomputed,
                serde_json::to_value(&record.event).unwrap()
            );
        }
    }
}

#[test]
fn a_duplicated_decision_is_surplus() {
    for whole in [eventful_log(), reopened()] {
        for (index, record) in whole.iter().enumerate() {
            if !record.event.is_decision() {
                continue;
            }
            let mut records = whole.clone();
            records.insert(index, record.clone());
            let audit = audit_of(&renumbered(records));
            let place = format!("event {index} ({}) twice\n{audit:#?}", record.event.kind());
            assert_eq!(audit.outcome, Outcome::Diverged, "{place}");
            assert_eq!(audit.diverging_decisions(), 1, "{place}");
            assert_eq!(audit.checked.surplus, 1, "{place}");
        }
    }
}

#[test]
fn an_edited_sample_is_a_divergence_at_its_gate_with_the_inputs() {
    let mut records = eventful_log();
    let logged = records
        .iter_mut()
        .find_map(|record| match &mut record.event {
            Event::MetricsLogged(logged) => logged
                .columns
                .iter_mut()
                .find(|column| column.name == metric::LOSS),
            _ => None,
        });
    logged.unwrap().values[0] = 9.0.into();
    let audit = audit_of(&records);
    assert_eq!(audit.outcome, Outcome::Diverged);
    let gate = audit
        .divergences
        .iter()
        .find(|divergence| divergence.field == "metrics[gate_loss].value")
        .unwrap();
    assert_eq!(gate.decision, "gate_decided");
    let place = gate.gate.unwrap();
    assert_eq!((place.chunk.get(), place.step.get()), (1, 20));
    assert_eq!(gate.inputs["chunk"]["losses"], 20);
    assert_eq!(gate.inputs["settings"]["learning_rate"], 0.001);
    assert_eq!(
        gate.inputs["resume_candidates"]["newest_accepted"],
        "video_tokenizer/checkpoints/video_tokenizer_step_20"
    );
    assert!(gate.inputs["criteria"].as_array().unwrap().len() == 5);
}

#[test]
fn every_divergence_is_reported() {
    let mut records = eventful_log();
    let mut edited = 0;
    for record in &mut records {
        if let Event::GateDecided(gate) = &mut record.event {
            edited += 1;
            gate.failures = 100 * edited;
        }
    }
    let audit = audit_of(&records);
    let at_gates = audit
        .divergences
        .iter()
        .filter(|divergence| {
            divergence.decision == "gate_decided" && divergence.field == "failures"
        })
        .count();
    assert_eq!(at_gates, edited as usize, "{audit:#?}");
}

#[test]
fn a_gap_is_damage_and_earlier_decisions_still_count() {
    let mut records = eventful_log();
    records.remove(40);
    let audit = audit_of(&records);
    assert_eq!(audit.outcome, Outcome::Damaged);
    assert_eq!(audit.checked.events, 40);
    assert!(0 < audit.checked.agreed);
    assert_eq!(
        audit.problem.unwrap().text,
        "the log jumps from event 40 to event 41"
    );
}

#[test]
fn decisions_by_unknown_rules_are_skipped_and_counted() {
    let mut records = eventful_log();
    if let Event::RunCreated(created) = &mut records[0].event {
        created.rules = 1000;
    }
    let audit = audit_of(&records);
    assert_eq!(audit.outcome, Outcome::NewerVersion);
    assert_eq!(audit.checked.recomputed, 0);
    assert_eq!(audit.skipped.len(), 1);
    assert_eq!(audit.skipped[0].decisions, audit.checked.decisions);
    assert_eq!(
        audit.skipped[0].why,
        SkipReason::UnknownRules {
            rules: 1000,
            known: RULES
        }
    );
}

#[test]
fn a_log_without_any_event_checks_nothing() {
    assert_eq!(audit_of(&[]).outcome, Outcome::NothingChecked);
}

#[test]
fn decisions_before_a_run_was_created_are_surplus() {
    let headless = audit_of(&renumbered(eventful_log().into_iter().skip(1)));
    assert_eq!(headless.outcome, Outcome::Diverged);
    assert_eq!(headless.checked.surplus, headless.checked.decisions);
    assert_eq!(headless.skipped, []);
    let mut early = eventful_log();
    early.insert(
        0,
        early[1..]
            .iter()
            .find(|record| record.event.is_decision())
            .cloned()
            .unwrap(),
    );
    let early = audit_of(&renumbered(early));
    assert_eq!(early.outcome, Outcome::Diverged, "{early:#?}");
    assert_eq!(early.divergences[0].seq, Seq::FIRST);
    assert_eq!(early.divergences[0].divergence, DivergenceKind::Surplus);
}

#[test]
fn a_run_is_created_once() {
    let mut twice = eventful_log();
    let again = twice[0].clone();
    twice.insert(30, again);
    let audit = audit_of(&renumbered(twice));
    assert_eq!(audit.outcome, Outcome::Diverged, "{audit:#?}");
    assert_eq!(audit.checked.surplus, 1);
    let found = &audit.divergences[0];
    assert_eq!(
        (found.seq.get(), found.decision.as_str()),
        (30, "run_created")
    );
    assert_eq!(found.divergence, DivergenceKind::Surplus);
}

#[test]
fn a_path_without_a_log_is_neither_damaged_nor_agreed() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = audit_file(&folder.path().join("nothing.tgj"));
    assert_eq!(nothing.outcome, Outcome::Unreadable);
    assert!(audit_text(&nothing).contains("nothing.tgj"), "{nothing:#?}");
    let foreign = folder.path().join("foreign.tgj");
    std::fs::write(&foreign, [b'x'; 4000]).unwrap();
    assert_eq!(audit_file(&foreign).outcome, Outcome::Unreadable);
    assert_eq!(audit_file(folder.path()).outcome, Outcome::Unreadable);
}

#[test]
fn the_json_form_reads_back() {
    let mut records = eventful_log();
    records.retain(|record| !matches!(record.event, Event::PatchDeferred(_)));
    let audit = audit_of(&renumbered(records));
    assert_eq!(audit.outcome, Outcome::Diverged);
    let written = serde_json::to_string(&audit).unwrap();
    assert_eq!(serde_json::from_str::<Audit>(&written).unwrap(), audit);
}

#[test]
fn a_policy_that_names_a_stage_twice_is_damage() {
    let mut policy = short_policy();
    policy.stages.push(policy.stages[0].clone());
    let audit = audit_of(&first(policy));
    assert_eq!(audit.outcome, Outcome::Damaged, "{audit:#?}");
    let text = audit.problem.unwrap().text;
    assert!(text.contains("`video_tokenizer` twice"), "{text}");
}
