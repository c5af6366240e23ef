//! Recorded logs and their expected audits.
//!
//! `logs/<format>-<what-happened>.tgj` is a log. Next to it are its text for people and
//! the expected audit. The logs never change: a build that reads or decides differently
//! fails here.
//!
//! `logs/HASHES` has the hash of each log, and explains how to record one again on
//! purpose.
//!
//! `UPDATE_CORPUS=1 cargo test -p tinygate-replay --test corpus` creates missing logs,
//! rewrites the expectations, and adds missing hashes. It never touches an existing log.
//! `trained-*` are exported logs of real training on the shipped frames, which cannot be
//! recreated:
//!
//! * `trained-entropy-collapse`: `run examples/pong-collapse.toml --stage latent_actions`
//! * `trained-restarts-until-stop`: `run examples/pong-demo.toml` with a quarter of the video
//!   tokenizer's updates; a retune rescues latent actions but not dynamics
//! * `trained-killed-and-extended`: `run examples/pong-demo.toml --stage latent_actions`, `kill -9`
//!   in the second chunk, then `resume` with another target and rate, and a rescue by a retune

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests fail as tests do"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use tinygate::events::{
    Action, CheckpointGivenUp, CheckpointRef, Event, InitFrom, InterruptReason, Policy,
    PruneRequested, Record, RunInterrupted, Seq, SettingChanged, SettingKey, SettingValue,
    StageName, Step,
};
use tinygate::machine::Machine;
use tinygate::presets::ModelKind;
use tinygate::store::{
    Durability, EventLog, FILE_HEADER, LogFile, ReadError, RealDisk, Store, export,
};
use tinygate_replay::{Outcome, audit_file};
use tinygate_testing::{
    ChunkPlan, Curve, Disturbance, Failure, Script, ScriptedTrainer, Ticks, Trouble, first, live,
    lived, short_policy,
};
use tinygate_words::{audit_json, audit_text, describe, explain, hint};

const FORMAT: &str = "v1";
const HASHES: &str = "HASHES";
/// A journal in the first stored format, which the tests of the store read.
const GOLDEN: &str = "tests/golden/journal.v1.tgj";
const VIDEO: &str = "video_tokenizer";
const LATENT: &str = "latent_actions";
const DYNAMICS: &str = "dynamics";

#[test]
fn every_recorded_log_has_the_expected_audit() {
    let update = update();
    let folder = folder();
    let logs = logs(&folder);
    assert!(!logs.is_empty(), "`{}` holds no log", folder.display());

    let mut failures = Vec::new();
    let mut outcomes = BTreeMap::new();
    for log in &logs {
        let audit = audit_file(log);
        *outcomes.entry(audit.outcome.exit_code()).or_insert(0) += 1;
        let json = serde_json::to_string_pretty(&audit_json(&audit)).unwrap() + "\n";
        for (extension, found) in [("json", json), ("txt", rendering(log))] {
            let path = log.with_extension(extension);
            if update {
                fs::write(&path, &found).unwrap();
            }
            match fs::read_to_string(&path) {
                Ok(expected) if expected == found => {}
                Ok(expected) => failures.push(difference(&path, &expected, &found)),
                Err(error) => failures.push(format!("{}: {error}", path.display())),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} logs\n{}",
        failures.len(),
        logs.len(),
        failures.join("\n")
    );
    // Agreed, diverged, damaged, newer, nothing checked.
    let codes: Vec<u8> = outcomes.into_keys().collect();
    assert_eq!(codes, [0, 1, 3, 4, 5], "a kind of outcome has no log");
}

#[test]
fn every_file_of_the_corpus_belongs_to_a_log() {
    update();
    let folder = folder();
    let strays: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.with_extension("tgj").is_file() && !path.ends_with(HASHES))
        .collect();
    assert_eq!(strays, Vec::<PathBuf>::new());
}

#[test]
fn no_recorded_log_has_changed() {
    update();
    let list = folder().join(HASHES);
    let listed = hashes(&fs::read_to_string(&list).unwrap());
    let found = found_hashes();
    let names: BTreeSet<&String> = listed.keys().chain(found.keys()).collect();
    let differing: Vec<String> = names
        .into_iter()
        .filter(|name| listed.get(*name) != found.get(*name))
        .map(|name| {
            let shown = |hash: Option<&String>| hash.map_or("none".to_owned(), String::clone);
            format!(
                "{name}\n  listed: {}\n  found:  {}",
                shown(listed.get(name)),
                shown(found.get(name))
            )
        })
        .collect();
    assert!(
        differing.is_empty(),
        "{}\n`{}` says how a log is recorded again on purpose",
        differing.join("\n"),
        list.display()
    );
}

/// Whether to update the corpus. The first test that asks does it.
fn update() -> bool {
    static UPDATE: Once = Once::new();
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    if update {
        UPDATE.call_once(|| {
            make_missing(&folder());
            list_missing_hashes();
        });
    }
    update
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("logs")
}

fn list_missing_hashes() {
    let list = folder().join(HASHES);
    let mut text = fs::read_to_string(&list).unwrap();
    let listed = hashes(&text);
    for (name, hash) in found_hashes() {
        if !listed.contains_key(&name) {
            writeln!(text, "{hash}  {name}").unwrap();
        }
    }
    fs::write(&list, text).unwrap();
}

/// Hashes by path in the repository.
fn found_hashes() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let files = logs(&folder()).into_iter().chain([root.join(GOLDEN)]);
    let pair = |path: PathBuf| {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap();
        let hash = blake3::hash(&fs::read(&path).unwrap());
        (name.to_owned(), hash.to_hex().to_string())
    };
    files.map(pair).collect()
}

/// Parses lines of a hash and a name. Comments begin with `#`.
fn hashes(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (hash, name) = line.split_once("  ").unwrap();
        (name.to_owned(), hash.to_owned())
    };
    lines.map(pair).collect()
}

fn logs(folder: &Path) -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tgj"))
        .collect();
    logs.sort();
    logs
}

/// The first line that differs.
fn difference(path: &Path, expected: &str, found: &str) -> String {
    let lines = expected.lines().chain(std::iter::repeat("(end)"));
    let pair = found
        .lines()
        .chain(["(end)"])
        .zip(lines)
        .enumerate()
        .find(|(_, (found, expected))| found != expected);
    let (number, (found, expected)) = pair.unwrap_or_default();
    format!(
        "{}:{}\n  expected: {expected}\n  found:    {found}",
        path.display(),
        number + 1
    )
}

/// A line for each event, with explanations of decisions, then the text of the audit.
fn rendering(log: &Path) -> String {
    let mut text = String::new();
    let mut machine = Machine::default();
    match LogFile::open(log) {
        Err(error) => line_of_error(&mut text, &error),
        Ok(file) => {
            for record in file.records() {
                match record {
                    Err(error) => line_of_error(&mut text, &error),
                    Ok(record) => {
                        machine.apply(&record.event);
                        line(&mut text, &record, machine.state().policy());
                    }
                }
            }
        }
    }
    writeln!(text, "\n{}", audit_text(&audit_file(log)).trim_end()).unwrap();
    text
}

fn line_of_error(text: &mut String, error: &ReadError) {
    let hint = hint(error).unwrap();
    writeln!(text, "{error}\nhint: {hint}").unwrap();
}

fn line(text: &mut String, record: &Record, policy: Option<&Policy>) {
    let Record { seq, event, .. } = record;
    writeln!(text, "{seq} {}: {}", event.kind(), describe(event)).unwrap();
    let explained = explain(event, policy);
    if explained != describe(event) {
        writeln!(text, "    {}", explained.replace('\n', "\n    ")).unwrap();
    }
}

// ---------------------------------------------------------------- making logs

/// How a log is created.
struct Recipe {
    what: &'static str,
    records: Vec<Record>,
    /// Changes the file's bytes.
    damage: fn(&mut Vec<u8>),
    outcome: Outcome,
}

fn make_missing(folder: &Path) {
    for recipe in recipes() {
        let path = folder.join(format!("{FORMAT}-{}.tgj", recipe.what));
        if path.exists() {
            continue;
        }
        let mut bytes = bytes_of(recipe.what, &recipe.records);
        (recipe.damage)(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let audit = audit_file(&path);
        assert_eq!(audit.outcome, recipe.outcome, "{}\n{audit:#?}", recipe.what);
    }
}

fn recipes() -> Vec<Recipe> {
    let video = || ChunkPlan::good(ModelKind::VideoTokenizer);
    let latent = || ChunkPlan::good(ModelKind::LatentActions);
    let dynamics = || ChunkPlan::good(ModelKind::Dynamics);
    let plateau = Script::new(2).chunk(VIDEO, 2, video().loss(Curve::flat(0.03).noisy(0.02)));
    let collapse = (1..=3).fold(Script::new(3), |script, chunk| {
        script.chunk(LATENT, chunk, latent().collapsing())
    });
    let hopeless = Script::new(4).stage(VIDEO, video().loss(Curve::flat(0.5).noisy(0.05)));
    let broken = Script::new(5).chunk(
        VIDEO,
        2,
        video().loss(Curve::decay(0.1, 2.0).but(7, f64::NAN)),
    );
    let memory =
        Script::new(6).attempt(DYNAMICS, 1, 1, dynamics().failing(10, Failure::OutOfMemory));
    let structure = Script::new(7)
        .chunk(DYNAMICS, 1, dynamics().picture(4, 3))
        .chunk(DYNAMICS, 2, dynamics().picture(4, 2));
    let worker = (1..=4).fold(Script::new(8), |script, attempt| {
        script.attempt(
            LATENT,
            1,
            attempt,
            latent().failing(3, Failure::WorkerExited),
        )
    });

    let clean = run(Script::new(1));
    let retuned = run(plateau);
    let stopped = run(hopeless);
    vec![
        agreed("clean-pass", clean.clone()),
        agreed("retune-rescue", retuned.clone()),
        agreed("entropy-collapse", run(collapse)),
        agreed("stop-by-budget", stopped.clone()),
        agreed("more-retries", more_retries(&stopped)),
        agreed("restart-after-nan", run(broken)),
        agreed("restart-after-lost-structure", run(structure)),
        agreed("out-of-memory", run(memory)),
        agreed("worker-exits-until-stop", run(worker)),
        agreed("killed-and-resumed", killed_and_resumed()),
        agreed("signal-and-resume", signalled_and_resumed()),
        agreed("extended-run", extended()),
        agreed("changed-settings", changed_settings()),
        agreed("back-to-the-given-checkpoint", given_after_nan()),
        agreed("given-up-and-pruned", given_up_and_pruned()),
        agreed("own-stage", own_stage()),
        agreed("ends-before-a-decision", before_the_second_gate(&clean)),
        Recipe {
            damage: |bytes| bytes.truncate(bytes.len() - 100),
            ..agreed("torn-tail", clean.clone())
        },
        Recipe {
            damage: |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x10;
            },
            outcome: Outcome::Damaged,
            ..agreed("flipped-bit", clean.clone())
        },
        Recipe {
            damage: |bytes| {
                let middle = bytes.len() / 2;
                bytes.drain(middle..middle + 3000);
            },
            outcome: Outcome::Damaged,
            ..agreed("gap", clean.clone())
        },
        Recipe {
            damage: |bytes| {
                let from = bytes.len() / 2;
                bytes.extend_from_within(from..);
            },
            outcome: Outcome::Damaged,
            ..agreed("duplicate", clean.clone())
        },
        Recipe {
            outcome: Outcome::Diverged,
            ..agreed("edited-decision", edited_decision(&retuned))
        },
        Recipe {
            outcome: Outcome::Diverged,
            ..agreed("edited-loss", edited_loss(&retuned))
        },
        Recipe {
            outcome: Outcome::Diverged,
            ..agreed("missing-decision", missing_decision(&retuned))
        },
        Recipe {
            outcome: Outcome::NewerVersion,
            ..agreed("newer-rules", newer_rules(&clean))
        },
        Recipe {
            damage: |bytes| newer_format(bytes),
            outcome: Outcome::NewerVersion,
            ..agreed("newer-format", clean.clone())
        },
        Recipe {
            outcome: Outcome::NothingChecked,
            ..agreed("created-only", first(short_policy()))
        },
        Recipe {
            damage: Vec::clear,
            outcome: Outcome::NothingChecked,
            ..agreed("empty", clean)
        },
    ]
}

fn agreed(what: &'static str, records: Vec<Record>) -> Recipe {
    Recipe {
        what,
        records,
        damage: |_| {},
        outcome: Outcome::Agreed,
    }
}

fn run(script: Script) -> Vec<Record> {
    lived(&first(short_policy()), vec![], script)
        .unwrap()
        .records
}

/// A user-defined stage with a knob that its first rung changes.
fn own_stage() -> Vec<Record> {
    let text = r#"
stages = ["classifier"]
data.path = "digits.h5"

[classifier]
loss = "cross_entropy"
n_updates = 60
chunk_size = 20
learning_rate = 0.1
batch_size_per_gpu = 8
log_interval = 5
ladder = ["dropout *= 0.5", "learning_rate *= 0.5"]
dropout = 0.4

[classifier.knobs]
dropout = { min = 0.1, max = 0.9 }

[classifier.gate.at_least]
accuracy = 0.8
"#;
    let config = tinygate::config::Config::parse(text, "own.toml", Path::new("/data"), &[]);
    let chunk = |accuracy: f64, loss: f64| {
        let accuracy = ("accuracy", Curve::flat(accuracy).noisy(0.01));
        let plan = ChunkPlan::plain().loss(Curve::flat(loss).noisy(0.01));
        plan.named("cross_entropy", &[accuracy])
    };
    let script = Script::new(10)
        .chunk("classifier", 1, chunk(0.6, 1.0))
        .chunk("classifier", 2, chunk(0.9, 0.5))
        .chunk("classifier", 3, chunk(0.95, 0.2));
    let first = first(config.unwrap().config.policy);
    lived(&first, vec![], script).unwrap().records
}

fn more_retries(stopped: &[Record]) -> Vec<Record> {
    let more = Event::SettingChanged(SettingChanged {
        stage: Some(StageName::new(VIDEO)),
        key: SettingKey::MaxRetries,
        from: SettingValue::Count(5),
        to: SettingValue::Count(7),
        who: "a person".to_owned(),
        why: "resume --retries 2".to_owned(),
    });
    lived(stopped, vec![more], Script::new(4)).unwrap().records
}

/// One process is killed in a chunk, the next one just before the gate is decided, and a
/// third finishes the run.
fn killed_and_resumed() -> Vec<Record> {
    let log = tinygate::store::MemoryLog::with(
        first(short_policy())
            .into_iter()
            .map(|record| (record.time_ms, record.event)),
    );
    let directory = tempfile::tempdir().unwrap();
    let trainer = ScriptedTrainer::new(Script::new(9));
    let killed = Disturbance::new(VIDEO, 27, Trouble::Killed);
    let life = live(
        &log,
        directory.path(),
        &Ticks::from(1_700_000_000_000),
        vec![],
        trainer.disturbed(killed),
        &mut tinygate_testing::Quiet,
    );
    assert!(life.unwrap().ending.is_err());
    let second = lived(&log.records(), vec![], Script::new(9))
        .unwrap()
        .records;
    let before_gate = second
        .iter()
        .position(
            |record| matches!(&record.event, Event::GateDecided(gate) if gate.stage.as_str() == LATENT),
        )
        .unwrap();
    lived(&second[..before_gate], vec![], Script::new(9))
        .unwrap()
        .records
}

fn signalled_and_resumed() -> Vec<Record> {
    let records = signalled(DYNAMICS, 40);
    lived(&records, vec![], Script::new(10)).unwrap().records
}

/// The target of the current stage is raised.
fn extended() -> Vec<Record> {
    let longer = [(SettingKey::NUpdates, count(60), count(90))];
    changed(signalled(DYNAMICS, 40), DYNAMICS, longer)
}

/// Settings of the current stage are changed.
fn changed_settings() -> Vec<Record> {
    let rate = |value: f64| SettingValue::Real(value.into());
    let changes = [
        (SettingKey::LearningRate, rate(1e-3), rate(2.5e-4)),
        (SettingKey::GradientAccumulationSteps, count(1), count(2)),
        (SettingKey::ChunkSize, count(20), count(10)),
    ];
    changed(signalled(VIDEO, 15), VIDEO, changes)
}

fn count(value: u64) -> SettingValue {
    SettingValue::Count(value)
}

fn changed<const N: usize>(
    before: Vec<Record>,
    stage: &str,
    changes: [(SettingKey, SettingValue, SettingValue); N],
) -> Vec<Record> {
    let changes = changes.map(|(key, from, to)| {
        Event::SettingChanged(SettingChanged {
            stage: Some(StageName::new(stage)),
            key,
            from,
            to,
            who: "a person".to_owned(),
            why: "command line".to_owned(),
        })
    });
    lived(&before, changes.into(), Script::new(10))
        .unwrap()
        .records
}

/// A run that a signal ends after `after` updates of a stage.
fn signalled(stage: &str, after: u64) -> Vec<Record> {
    let log = tinygate::store::MemoryLog::with(
        first(short_policy())
            .into_iter()
            .map(|record| (record.time_ms, record.event)),
    );
    let directory = tempfile::tempdir().unwrap();
    let signal = Trouble::Signal("SIGTERM".to_owned());
    let trainer =
        ScriptedTrainer::new(Script::new(10)).disturbed(Disturbance::new(stage, after, signal));
    live(
        &log,
        directory.path(),
        &Ticks::from(1_700_000_000_000),
        vec![],
        trainer,
        &mut tinygate_testing::Quiet,
    )
    .unwrap();
    let records = log.records();
    assert!(matches!(
        &records.last().unwrap().event,
        Event::RunInterrupted(RunInterrupted {
            reason: InterruptReason::Signal { .. }
        })
    ));
    records
}

/// By rules 2 a stage that started from a given checkpoint and diverges returns to it.
fn given_after_nan() -> Vec<Record> {
    let mut records = first(short_policy());
    let Event::RunCreated(created) = &mut records[0].event else {
        panic!("a log begins with its run");
    };
    created.init_from = vec![InitFrom {
        stage: StageName::new(VIDEO),
        checkpoint: CheckpointRef {
            path: "/given/video_tokenizer_step_5".to_owned(),
            step: Step::new(5),
        },
        files: Vec::new(),
        fresh_optimizer: false,
    }];
    let broken =
        ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::decay(0.1, 2.0).but(7, f64::NAN));
    let script = Script::new(11).chunk(VIDEO, 1, broken);
    lived(&records, vec![], script).unwrap().records
}

/// The newest checkpoint is given up, and old ones are pruned.
fn given_up_and_pruned() -> Vec<Record> {
    let before = signalled(VIDEO, 33);
    let written = before.iter().rev().find_map(|record| match &record.event {
        Event::CheckpointWritten(written) => Some(written.checkpoint.clone()),
        _ => None,
    });
    let facts = vec![
        Event::CheckpointGivenUp(CheckpointGivenUp {
            stage: StageName::new(VIDEO),
            checkpoint: written.unwrap(),
            who: "a person".to_owned(),
            why: "its files are gone".to_owned(),
        }),
        Event::PruneRequested(PruneRequested {
            keep_last: 0,
            who: "a person".to_owned(),
        }),
    ];
    lived(&before, facts, Script::new(10)).unwrap().records
}

fn before_the_second_gate(records: &[Record]) -> Vec<Record> {
    let gates = records
        .iter()
        .enumerate()
        .filter(|(_, record)| matches!(record.event, Event::GateDecided(_)));
    let (second, _) = gates.take(2).last().unwrap();
    records[..second].to_vec()
}

/// A failed gate is edited into a passed one.
fn edited_decision(records: &[Record]) -> Vec<Record> {
    let mut records = records.to_vec();
    for record in &mut records {
        if let Event::GateDecided(gate) = &mut record.event
            && gate.decision == Action::Retune
        {
            gate.decision = Action::Continue;
            gate.failures = 0;
            return records;
        }
    }
    panic!("no gate was retuned");
}

/// One loss before the failed gate is lowered.
fn edited_loss(records: &[Record]) -> Vec<Record> {
    let mut records = records.to_vec();
    for record in &mut records {
        if let Event::MetricsLogged(logged) = &mut record.event
            && logged.chunk.get() == 2
        {
            logged.columns[0].values[0] = 0.0001.into();
            return records;
        }
    }
    panic!("no second chunk");
}

fn missing_decision(records: &[Record]) -> Vec<Record> {
    let place = records
        .iter()
        .position(|record| matches!(record.event, Event::PatchApplied(_)))
        .unwrap();
    let mut records = records.to_vec();
    records.remove(place);
    records
}

fn newer_rules(records: &[Record]) -> Vec<Record> {
    let mut records = records.to_vec();
    if let Event::RunCreated(created) = &mut records[0].event {
        // Far ahead, so that the log stays one of newer rules.
        created.rules = 1000;
    }
    records
}

/// Increments the file's format and updates the header's hash.
fn newer_format(bytes: &mut [u8]) {
    let (header, _) = bytes.split_at_mut(FILE_HEADER);
    header[8] += 1;
    let (said, hash) = header.split_at_mut(FILE_HEADER - 32);
    hash.copy_from_slice(blake3::hash(said).as_bytes());
}

/// The exported journal of `records`, with one append up to each decision, so that the same
/// events give the same bytes.
fn bytes_of(what: &str, records: &[Record]) -> Vec<u8> {
    let run = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::new(run.path()));
    let nonce = nonce_of(what);
    let store = Store::create_on(disk, "scripted", nonce).unwrap();
    let mut head = Seq::FIRST;
    let mut batch = Vec::new();
    for record in records {
        batch.push((record.time_ms, record.event.clone()));
        if record.event.is_decision() || record.event.kind() == "run_created" {
            head = store.append(head, &batch, Durability::Durable).unwrap();
            batch.clear();
        }
    }
    if !batch.is_empty() {
        store.append(head, &batch, Durability::Durable).unwrap();
    }
    store.close().unwrap();
    let file = run.path().join("exported.tgj");
    export(run.path(), &file, false).unwrap();
    fs::read(file).unwrap()
}

/// Sixteen bytes derived from a log's name.
fn nonce_of(what: &str) -> [u8; 16] {
    let mut nonce = [0; 16];
    for (place, byte) in what.bytes().enumerate() {
        nonce[place % 16] ^= byte;
    }
    nonce
}
