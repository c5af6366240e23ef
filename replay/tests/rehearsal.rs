//! A rehearsal of a change of the rules: a build that also knows the next rules folds and
//! decides each log by its own rules, and old logs still agree.
//!
//! No build has the next rules of `tinygate_testing::rehearsal`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tinygate::controller::{ControlError, Controller};
use tinygate::events::stored::document::{self, Document as _, DocumentError};
use tinygate::events::stored::{self, StoredError};
use tinygate::events::{Action, Applies, Event, Policy, Record, Rung, Scalar};
use tinygate::machine::KnownRules;
use tinygate::machine::rules::{KNOWN, ONE, TWO};
use tinygate::presets::ModelKind;
use tinygate::store::MemoryLog;
use tinygate_replay::{Audit, Auditor, DivergenceKind, Outcome, SkipReason, audit_file};
use tinygate_testing::rehearsal::{
    NEXT, NewRung, NewTest, NextCriterion, NextPolicy, NextRung, NextTest, REHEARSED, UPDATES_MAX,
};
use tinygate_testing::{
    ChunkPlan, Curve, Lived, Script, first, lived, lived_with_rules, short_policy,
};
use tinygate_words::audit_summary;

const VIDEO: &str = "video_tokenizer";

/// Four video chunks: the first ends with a spike, the second does not learn.
fn script() -> Script {
    let video = || ChunkPlan::good(ModelKind::VideoTokenizer);
    let spike = Curve::flat(0.008).but(20, 0.5);
    Script::new(20).chunk(VIDEO, 1, video().loss(spike)).chunk(
        VIDEO,
        2,
        video().loss(Curve::flat(0.5)),
    )
}

/// The run's first event, which names the rules.
fn beginning(rules: u32) -> Vec<Record> {
    let mut policy = short_policy();
    let video = &mut policy.stages[0].settings;
    video.n_updates = 4 * video.chunk_size;
    video.schedule_updates = video.n_updates;
    claim(first(policy), rules)
}

/// The same events with other rules in the first event.
fn claim(mut records: Vec<Record>, rules: u32) -> Vec<Record> {
    let Event::RunCreated(created) = &mut records[0].event else {
        panic!("a log begins with its run");
    };
    created.rules = rules;
    records
}

fn run(rules: u32) -> Lived {
    lived_with_rules(REHEARSED, &beginning(rules), vec![], script()).unwrap()
}

fn audited(known: KnownRules, records: &[Record]) -> Audit {
    let mut auditor = Auditor::knowing(known);
    for record in records {
        auditor.see(record);
    }
    auditor.finish()
}

/// Decision and failures of each gate of the video stage.
fn gates(records: &[Record]) -> Vec<(Action, u32)> {
    let gates = records.iter().filter_map(|record| match &record.event {
        Event::GateDecided(gate) if gate.stage.as_str() == VIDEO => {
            Some((gate.decision, gate.failures))
        }
        _ => None,
    });
    gates.collect()
}

#[test]
fn no_build_knows_the_rehearsed_rules() {
    assert!(KNOWN.find(ONE.number).is_some());
    assert!(KNOWN.find(TWO.number).is_some());
    assert!(KNOWN.find(NEXT.number).is_none());
}

#[test]
fn each_log_is_decided_by_its_own_rules() {
    use Action::{Continue, Retune};
    for known in [ONE, TWO] {
        assert_eq!(
            gates(&run(known.number).records),
            [(Retune, 1), (Retune, 2), (Continue, 2), (Continue, 2)],
            "rules {}",
            known.number
        );
    }
    // The spike does not count as the latest loss, and a stage that passed has no failures.
    assert_eq!(
        gates(&run(NEXT.number).records),
        [(Continue, 0), (Retune, 1), (Continue, 1), (Continue, 0)]
    );
}

#[test]
fn old_logs_still_agree_if_the_next_rules_are_known() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("logs");
    let logs = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_log = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "tgj");
    let mut recomputed = 0;
    for log in logs.filter(is_log) {
        let before = audit_file(&log);
        let mut auditor = Auditor::knowing(REHEARSED);
        auditor.see_file(&log);
        let now = auditor.finish();
        if before.outcome == Outcome::NewerVersion {
            assert_eq!(now.outcome, before.outcome, "{}", log.display());
            assert_eq!(now.checked, before.checked, "{}", log.display());
        } else {
            assert_eq!(now, before, "{}", log.display());
            recomputed += now.checked.recomputed;
        }
    }
    assert!(300 < recomputed, "only {recomputed} decisions were checked");
}

#[test]
fn a_log_of_the_next_rules_is_replayed_by_them() {
    for number in [ONE.number, TWO.number, NEXT.number] {
        let audit = audited(REHEARSED, &run(number).records);
        assert_eq!(audit.outcome, Outcome::Agreed, "{audit:#?}");
        assert_eq!(audit.rules, Some(number));
        assert_eq!(audit.checked.agreed, audit.checked.decisions);
        let said = format!("by rules {number}: 0 divergences");
        assert!(audit_summary(&audit).ends_with(&said), "{audit:#?}");
    }
}

#[test]
fn the_same_events_diverge_under_other_rules() {
    for (made_by, claimed) in [(NEXT.number, 1), (1, NEXT.number)] {
        let audit = audited(REHEARSED, &claim(run(made_by).records, claimed));
        assert_eq!(audit.outcome, Outcome::Diverged, "{audit:#?}");
        assert_eq!(audit.rules, Some(claimed));
        let first = &audit.divergences[0];
        assert_eq!(first.decision, "gate_decided", "{audit:#?}");
        assert_eq!(first.divergence, DivergenceKind::Differs);
        assert_eq!(first.gate.unwrap().step.get(), 20);
    }
}

#[test]
fn a_build_without_the_next_rules_reports_them_as_unknown() {
    let records = run(NEXT.number).records;
    let audit = audited(KNOWN, &records);
    assert_eq!(audit.outcome, Outcome::NewerVersion, "{audit:#?}");
    assert_eq!(audit.outcome.exit_code(), 4);
    assert_eq!(audit.checked.recomputed, 0);
    assert_eq!(audit.skipped[0].decisions, audit.checked.decisions);
    assert_eq!(
        audit.skipped[0].why,
        SkipReason::UnknownRules {
            rules: NEXT.number,
            known: KNOWN.newest.number
        }
    );
    let log = MemoryLog::with(
        records
            .into_iter()
            .map(|record| (record.time_ms, record.event)),
    );
    let refused = Controller::open(&log, Path::new(""), || 0).err().unwrap();
    let ControlError::UnknownRules { found, known } = refused else {
        panic!("{refused}");
    };
    assert_eq!((found, known), (NEXT.number, KNOWN.newest.number));
}

#[test]
fn a_resumed_run_keeps_its_rules() {
    let whole = lived(&beginning(1), vec![], script()).unwrap().records;
    let is_gate = |record: &Record| matches!(record.event, Event::GateDecided(_));
    let cut = whole.iter().position(is_gate).unwrap();
    let resumed = lived_with_rules(REHEARSED, &whole[..cut], vec![], script()).unwrap();
    assert_eq!(gates(&resumed.records), gates(&whole));
    assert_eq!(resumed.state.created.unwrap().rules, 1);
}

fn stages_of_today() -> Policy {
    short_policy()
}

/// A policy from before documents had a version.
const VERSION_1: &str = r#"{"preset":"seed","max_retries":5,"max_chunk_failures":3,"max_interruptions":3,
    "reset_on_pass":false,"retry_from":"newest","latest_window":1,"keep_last":5,"stages":[{"name":"latent_actions",
    "model":"latent_actions","settings":{"learning_rate":0.0001,"n_updates":100,"schedule_updates":100,
    "batch_size_per_gpu":8,"gradient_accumulation_steps":1,"log_interval":5,"chunk_size":50,
    "checkpoint_interval":null,"n_actions":4},"criteria":[{"name":"unique_actions","applies":"every_gate",
    "test":{"kind":"metric_at_least","metric":"unique_actions","limit":2.0}}],
    "ladder":[{"kind":"defer_fewer_actions"}],"bounds":{"learning_rate_min":1e-6,"accumulation_min":1,
    "accumulation_max":64,"log_interval_min_share":0.01,"chunk_size_min_share":0.125}}]}"#;

#[test]
fn the_next_build_reads_current_and_older_policies() {
    let today = document::write(&stages_of_today()).unwrap();
    let next: NextPolicy = document::read(&today).unwrap();
    assert_eq!(next, NextPolicy::of(&stages_of_today()).unwrap());
    assert_eq!(next.updates_max, UPDATES_MAX);
    assert_eq!(next.stages.len(), 3);

    let next: NextPolicy = document::read(VERSION_1).unwrap();
    let [stage] = next.stages.as_slice() else {
        panic!("{next:?}");
    };
    assert_eq!(stage.criteria[0].name, "unique_actions");
    assert!(
        matches!(
            &stage.ladder[..],
            [NextRung::Known(Rung::DeferPowerOfTwo { .. })]
        ),
        "{stage:?}"
    );
}

#[test]
fn this_build_reports_the_next_policy_as_newer() {
    let mut next = NextPolicy::of(&stages_of_today()).unwrap();
    let stage = &mut next.stages[0];
    stage.criteria.push(NextCriterion {
        name: "grad_norm".to_owned(),
        applies: Applies::EveryGate,
        test: NextTest::New(NewTest::GradNormAtMost {
            limit: Scalar::new(10.0),
        }),
    });
    stage.ladder.push(NextRung::New(NewRung::SwapOptimizer {
        to: "muon".to_owned(),
    }));
    let text = document::write(&next).unwrap();
    assert_eq!(document::read::<NextPolicy>(&text).unwrap(), next);
    let newer = DocumentError::Newer {
        name: "policy",
        found: Policy::VERSION + 1,
        known: Policy::VERSION,
    };
    assert_eq!(document::read::<Policy>(&text), Err(newer));
}

/// The same for a stored event: it is not damaged, a newer build wrote it (exit code 4).
#[test]
fn a_first_event_with_a_newer_document_is_not_damaged() {
    let created = first(stages_of_today()).remove(0).event;
    let mut body = Vec::new();
    let form = stored::encode_into(&created, &mut body).unwrap();
    let newer_policy = br#","version":9}"#;
    let policy = br#","version":2}"#;
    let at = body.windows(policy.len()).position(|bytes| bytes == policy);
    let at = at.expect("the policy says its version");
    body[at..at + policy.len()].copy_from_slice(newer_policy);
    let error = stored::decode(form, &body).unwrap_err();
    assert_eq!(
        error,
        StoredError::NewerVersion {
            what: "version of the policy in `run_created`".to_owned(),
            found: 9,
            known: Policy::VERSION,
        }
    );
    assert_eq!(
        error.to_string(),
        "the version of the policy in `run_created` is 9, but this build knows only up to 2"
    );
}
