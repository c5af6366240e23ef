//! `replay --retrain` of real runs: every sample and every file is the same again, and an altered
//! log is found although its decisions agree.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::path::Path;

use serde_json::Value;
use support::{Done, Sandbox, records, run};
use tinygate::events::{Event, Record, Scalar, Seq, metric};
use tinygate::store::{Durability, EventLog, Store};

fn trained() -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    run([
        "run",
        &sandbox.config(),
        "--dir",
        &sandbox.arg("run"),
        "--quiet",
    ])
    .expect(0);
    sandbox
}

fn retrain(sandbox: &Sandbox, more: &[&str]) -> Done {
    let dir = sandbox.arg("run");
    let args = ["replay", "--retrain", &dir];
    run(args.iter().chain(more))
}

#[test]
fn a_run_trained_again_gives_the_same_bits() {
    let sandbox = trained();
    let before = fs::read(support::journal(&sandbox.path("run"))).unwrap();
    let done = retrain(&sandbox, &["--json"]).expect(0);
    let lines: Vec<Value> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let [audit, retrained] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(audit["outcome"], "agreed");
    let totals = &retrained["totals"];
    // Three stages of two chunks; loss, rate and norm of each of their 120 updates, and more.
    assert_eq!(totals["chunks"], 6, "{totals}");
    assert_eq!(totals["skipped"], 0, "{totals}");
    assert!(3 * 120 < totals["samples"].as_u64().unwrap(), "{totals}");
    assert_eq!(totals["samples"], totals["samples_equal"]);
    // At least three files and a picture per chunk.
    assert!(6 * 4 <= totals["files"].as_u64().unwrap(), "{totals}");
    assert_eq!(totals["files"], totals["files_equal"]);
    let after = fs::read(support::journal(&sandbox.path("run"))).unwrap();
    assert!(before == after, "the log of the run has changed");

    // A chunk whose first checkpoint is gone is skipped, and the replay does not pass. The run was moved too.
    fs::rename(sandbox.path("run"), sandbox.path("moved")).unwrap();
    let moved = sandbox.arg("moved");
    fs::remove_dir_all(sandbox.path("moved/dynamics/checkpoints/dynamics_step_20")).unwrap();
    let args = [
        "replay",
        "--retrain",
        &moved,
        "--stage",
        "dynamics",
        "--chunks",
    ];
    let skipped = run(args.iter().chain(&["2"])).expect(5).stdout;
    assert!(skipped.contains("dynamics_step_20` is gone"), "{skipped}");
    // The chunk before it, trained again, writes that checkpoint.
    let both = run(args.iter().chain(&["1..2"])).expect(0).stdout;
    assert!(both.contains("2 chunks trained again, 0 skipped"), "{both}");
}

#[test]
fn an_altered_sample_is_found() {
    let sandbox = trained();
    let dir = sandbox.path("run");
    // No rule reads the norm of a gradient, so every decision still agrees.
    let altered = altered_norm(records(&dir));
    write_log(&dir, &altered);
    run(["replay", &sandbox.arg("run")]).expect(0);
    let done = retrain(&sandbox, &["--stage", "video_tokenizer"]).expect(1);
    assert!(
        done.stdout
            .contains("first difference at update 3, grad_norm: recorded 0.125"),
        "{}",
        done.stdout
    );
}

/// Sets the gradient norm of update 3 in the first chunk to 0.125.
fn altered_norm(mut records: Vec<Record>) -> Vec<Record> {
    for record in &mut records {
        if let Event::MetricsLogged(logged) = &mut record.event {
            for column in &mut logged.columns {
                for index in 0..column.values.len() {
                    let step = column.steps.at(index).unwrap();
                    if column.name == metric::GRAD_NORM && step.get() == 3 {
                        column.values[index] = Scalar::new(0.125);
                        return records;
                    }
                }
            }
        }
    }
    panic!("no norm of update 3");
}

/// Replaces the log of a run directory with a sound log of these records.
fn write_log(dir: &Path, records: &[Record]) {
    fs::remove_dir_all(dir.join("log")).unwrap();
    let store = Store::create(dir, "altered").unwrap();
    let events: Vec<(u64, Event)> = records
        .iter()
        .map(|record| (record.time_ms, record.event.clone()))
        .collect();
    store
        .append(Seq::FIRST, &events, Durability::Durable)
        .unwrap();
    store.close().unwrap();
}

#[test]
fn invalid_requests_to_train_again_are_refused() {
    let sandbox = trained();
    retrain(&sandbox, &["--stage", "dinamics"])
        .expect_error(2, &["no stage `dinamics`", "dynamics"]);
    let set = ["--set", "video_tokenizer.learning_rate=1"];
    retrain(&sandbox, &set).expect_error(2, &["video_tokenizer.learning_rate"]);
    let exported = sandbox.arg("run.tgj");
    run(["export", &sandbox.arg("run"), &exported]).expect(0);
    run(["replay", "--retrain", &exported]).expect(2);
}

/// If a setting was changed inside a chunk, the parts before and after the change are trained again
/// with their own settings.
#[test]
fn each_part_of_a_changed_chunk_is_trained_with_its_settings() {
    let sandbox = Sandbox::with_config(200);
    let dir = sandbox.arg("run");
    let long = [
        "--stage",
        "video_tokenizer",
        "--set",
        "video_tokenizer.n_updates=1000",
        "--set",
        "video_tokenizer.chunk_size=1000",
        "--set",
        "video_tokenizer.checkpoint_interval=20",
    ];
    let mut child = support::tinygate()
        .args(["run", &sandbox.config(), "--dir", &dir, "--quiet"])
        .args(long)
        .spawn()
        .unwrap();
    support::wait_for(&dir, |event| event["kind"] == "checkpoint_judged");
    child.kill().unwrap();
    child.wait().unwrap();
    let set = "video_tokenizer.learning_rate=5e-4";
    run(["resume", &dir, "--quiet", "--set", set]).expect(0);
    let parts: Vec<Event> = records(&sandbox.path("run"))
        .into_iter()
        .map(|record| record.event)
        .filter(|event| matches!(event, Event::ChunkStarted(_) | Event::SamplesSuperseded(_)))
        .collect();
    assert_eq!(parts.len(), 2, "one chunk, resumed in the middle");
    let done = retrain(&sandbox, &[]).expect(0);
    assert!(
        done.stdout.contains("2 chunks trained again, 0 skipped"),
        "{}",
        done.stdout
    );
}
