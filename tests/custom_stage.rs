//! A custom stage, with its own name, metrics, criteria, knobs and rungs. It folds, decides and
//! replays like the built-in stages, and the machine knows nothing of it but its policy.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::path::Path;

use tinygate::config::{Config, describe, describe_custom};
use tinygate::controller::Ending;
use tinygate::events::{Event, Finding, Metric, Record, Scalar, SettingValue, Verdict, stored};
use tinygate_replay::{Outcome, audit};
use tinygate_testing::{ChunkPlan, Curve, HeldOut, Lived, Script, first, lived};

const STAGE: &str = "classifier";
const TEXT: &str = r#"
stages = ["classifier"]
data.path = "digits.h5"

[classifier]
loss = "cross_entropy"
metrics = ["examples"]
n_updates = 100
chunk_size = 20
learning_rate = 0.1
batch_size_per_gpu = 8
log_interval = 5
ladder = ["dropout *= 0.5", "depth -= 1"]
dropout = 0.4
depth = 3

[classifier.knobs]
dropout = { min = 0.15, max = 0.9 }
depth = { min = 1, max = 8, unit = "layers" }

[classifier.skill]
held_out = "held_out/cross_entropy"
trivial = "constant/cross_entropy"

[classifier.in_use]
metric = "classes_in_use"
at_least = 2.0

[classifier.gate]
criteria = ["checkpoint_valid", "loss_finite", "accuracy", "classes_in_use", "metrics_fresh"]

[classifier.gate.at_least]
accuracy = [[20, 0.5], [100, 0.8]]
classes_in_use = 1.0
"#;

fn config() -> Config {
    Config::parse(TEXT, "custom.toml", Path::new("/data"), &[])
        .unwrap()
        .config
}

fn chunk(accuracy: f64, classes: f64, held_out: f64) -> ChunkPlan {
    let mut plan = ChunkPlan::plain().loss(Curve::flat(1.0)).named(
        "cross_entropy",
        &[
            ("accuracy", Curve::flat(accuracy)),
            ("classes_in_use", Curve::flat(classes)),
            ("examples", Curve::flat(8.0)),
        ],
    );
    plan.held_out = Some(HeldOut {
        metric: "held_out/cross_entropy",
        loss: held_out,
        moving: None,
    });
    plan
}

/// The first two gates fail, the others pass. The chunk with the lowest loss uses only one class.
fn run() -> Lived {
    let good = |level: f64| chunk(0.9, 10.0, 0.5).loss(Curve::flat(level));
    let trivial = Metric {
        name: "constant/cross_entropy".to_owned(),
        value: Some(Scalar::new(2.0)),
    };
    let script = Script::new(3)
        .trivial(STAGE, vec![trivial])
        .chunk(STAGE, 1, chunk(0.3, 10.0, 1.0))
        .chunk(STAGE, 2, chunk(0.4, 10.0, 1.0))
        .chunk(STAGE, 3, good(0.9))
        .chunk(STAGE, 4, chunk(0.9, 1.0, 2.5).loss(Curve::flat(0.1)))
        .chunk(STAGE, 5, good(0.3));
    lived(&first(config().policy), vec![], script).unwrap()
}

fn gates(records: &[Record]) -> Vec<String> {
    let gates = records.iter().filter_map(|record| match &record.event {
        Event::GateDecided(gate) => Some(gate),
        _ => None,
    });
    gates
        .map(|gate| {
            let failed = gate.criteria.iter().filter(|c| c.verdict == Verdict::Fail);
            let failed: Vec<&str> = failed.map(|c| c.name.as_str()).collect();
            let patches = gate.config_patch_applied.iter().map(|patch| {
                let shown = |value| match value {
                    SettingValue::Count(count) => count.to_string(),
                    SettingValue::Real(real) => real.to_string(),
                };
                format!(
                    " {} {} -> {}",
                    patch.key.as_str(),
                    shown(patch.from),
                    shown(patch.to)
                )
            });
            format!(
                "{} {} [{}]{}",
                gate.gate_step,
                gate.decision.as_str(),
                failed.join(" "),
                patches.collect::<String>()
            )
        })
        .collect()
}

#[test]
fn it_is_decided_by_its_policy() {
    let lived = run();
    assert_eq!(
        gates(&lived.records),
        [
            "20 retune [accuracy] dropout 0.4 -> 0.2",
            "40 retune [accuracy] depth 3 -> 2",
            "60 continue []",
            "80 continue []",
            "100 continue []",
        ]
    );
    assert_eq!(lived.ending, Ending::Finished);
}

#[test]
fn its_log_replays() {
    let lived = run();
    let audit = audit(lived.records.into_iter().map(Ok));
    assert_eq!(audit.outcome, Outcome::Agreed, "{audit:#?}");
    assert!(7 <= audit.checked.recomputed, "{audit:#?}");
}

#[test]
fn the_best_checkpoint_is_one_that_uses_more_than_one_class() {
    let state = run().state;
    let best = state.stages[0].lineage.best().unwrap();
    assert!(best.reference.path.ends_with("_step_100"), "{best:?}");
}

#[test]
fn its_findings_name_its_metrics() {
    let lived = run();
    let no_skill = lived.records.iter().any(|record| match &record.event {
        Event::GateDecided(gate) => gate.findings.iter().any(|finding| {
            matches!(finding, Finding::NoSkill { metric, predictor, .. } if metric == "skill" && predictor == "constant")
        }),
        _ => false,
    });
    assert!(no_skill);
}

#[test]
fn its_events_are_stored_and_read_back() {
    for record in run().records {
        let mut bytes = Vec::new();
        let form = stored::encode_into(&record.event, &mut bytes).unwrap();
        assert_eq!(stored::decode(form, &bytes).unwrap(), record.event);
    }
}

#[test]
fn its_config_comes_back_from_the_log() {
    let config = config();
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    let toml = config.to_toml(&Default::default());
    let again = Config::parse(&toml, "again.toml", Path::new("/data"), &[]).unwrap();
    assert_eq!(again.config, config);
}

#[test]
fn its_keys_are_described() {
    let rows = [describe(), describe_custom()].concat();
    let placeholders = [
        ("classifier.", "STAGE."),
        (".dropout", ".KNOB"),
        (".depth", ".KNOB"),
        (".accuracy", ".METRIC"),
        (".classes_in_use", ".METRIC"),
    ];
    for (key, _) in config().entries() {
        let documented = placeholders
            .iter()
            .fold(key.clone(), |key, (name, placeholder)| {
                key.replace(name, placeholder)
            });
        assert!(rows.iter().any(|row| row.key == documented), "{key}");
    }
    let default = |key: &str| {
        let mut custom = describe_custom().into_iter();
        custom.find(|row| row.key == key).map(|row| row.default)
    };
    let required = Some("none: it must be set".to_owned());
    assert_eq!(default("STAGE.loss"), required);
    assert_eq!(default("STAGE.KNOB"), required);
    assert_eq!(default("STAGE.metrics"), Some("[]".to_owned()));
    assert_eq!(default("STAGE.embed_dim"), None);
}
