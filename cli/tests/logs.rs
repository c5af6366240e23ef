//! Commands that do not train: `status`, `log`, `explain`, `replay`, `export` and `import`,
//! on runs with a scripted trainer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use support::{
    Sandbox, created_run, journal, records, run, scripted, tinygate, with_newer_version, workspace,
};
use tinygate::events::{
    Attempt, ChunkNumber, Column, Event, InterruptReason, MetricsLogged, RunInterrupted, Scalar,
    StageName, Steps,
};
use tinygate::presets::ModelKind;
use tinygate::store::{Durability, EventLog};
use tinygate_testing::{ChunkPlan, Curve, Script, short_policy};

/// A run that passes, with one retune in its first stage.
fn retuned() -> (Sandbox, String) {
    let sandbox = Sandbox::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).chunk("video_tokenizer", 1, bad);
    let run = scripted(&sandbox, "run", short_policy(), script);
    let arg = run.to_str().unwrap().to_owned();
    (sandbox, arg)
}

/// A run that stops at a gate.
fn stopped() -> (Sandbox, String) {
    let sandbox = Sandbox::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).stage("video_tokenizer", bad);
    let run = scripted(&sandbox, "run", short_policy(), script);
    let arg = run.to_str().unwrap().to_owned();
    (sandbox, arg)
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn status_shows_the_progress_of_each_stage() {
    let (_sandbox, dir) = retuned();
    let text = run(["status", &dir]).expect(0).stdout;
    for want in [
        "run (created as `scripted`): finished",
        "video_tokenizer  passed",
        "dynamics         passed",
        "1/5",
    ] {
        assert!(text.contains(want), "no `{want}` in:\n{text}");
    }
    let status = json(&run(["status", &dir, "--json"]).expect(0).stdout);
    assert_eq!(status["phase"], "finished");
    assert_eq!(status["process"], Value::Null);
    assert_eq!(status["stages"][0]["failures"], 1);
    assert_eq!(status["stages"].as_array().unwrap().len(), 3);
}

#[test]
fn status_shows_the_state_at_any_event() {
    let (_sandbox, dir) = retuned();
    let at = |seq: &str| {
        json(
            &run(["status", &dir, "--json", "--at", seq])
                .expect(0)
                .stdout,
        )
    };
    assert_eq!(at("0")["stages"][0]["phase"], "waiting");
    assert_eq!(at("0")["events"], 1);
    // For an earlier event, the process that has the run open now is not shown.
    let text = run(["status", &dir, "--at", "0"]).expect(0).stdout;
    assert!(
        text.starts_with("run (created as `scripted`): under way\n"),
        "{text}"
    );
    run(["status", &dir, "--at", "1000000"]).expect_error(2, &["the log ends at event"]);
}

#[test]
fn status_of_an_interrupted_run_gives_the_reason() {
    let sandbox = Sandbox::with_config(200);
    let (store, created) = created_run(&sandbox, "run", short_policy());
    let append = |event: Event| {
        let time_ms = 1_700_000_000_000;
        store
            .append(store.head(), &[(time_ms, event)], Durability::Durable)
            .unwrap();
    };
    let status = || run(["status", &sandbox.arg("run")]).expect(0).stdout;
    append(created);
    assert!(status().contains(": under way, process "), "{}", status());
    append(Event::RunInterrupted(RunInterrupted {
        reason: InterruptReason::Signal {
            name: "SIGTERM".to_owned(),
        },
    }));
    store.close().unwrap();
    let text = status();
    let want = ": interrupted (SIGTERM), resumable, no process has it open";
    assert!(text.contains(want), "{text}");
    let status = json(
        &run(["status", &sandbox.arg("run"), "--json"])
            .expect(0)
            .stdout,
    );
    assert_eq!(status["phase"], "interrupted");
}

#[test]
fn log_prints_all_events_or_a_range() {
    let (_sandbox, dir) = retuned();
    let lines = run(["log", &dir, "--json"]).expect(0).stdout;
    let events: Vec<Value> = lines.lines().map(json).collect();
    assert_eq!(events[0]["kind"], "run_created");
    assert_eq!(events.last().unwrap()["kind"], "run_finished");
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index);
    }
    let part = run(["log", &dir, "--json", "--from", "3", "--to", "5"])
        .expect(0)
        .stdout;
    let seqs: Vec<u64> = part
        .lines()
        .map(|line| json(line)["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, [3, 4, 5]);
    for (range, want) in [
        (
            ["--from", "99999"].as_slice(),
            "from 99999 on: the log ends at",
        ),
        (&["--from", "10", "--to", "5"], "from 10 to 5"),
    ] {
        let empty = run(["log", &dir].iter().chain(range)).expect(0);
        assert_eq!(empty.stdout, "");
        assert!(empty.stderr.contains(want), "{}", empty.stderr);
    }
    let text = run(["log", &dir]).expect(0).stdout;
    assert_eq!(text.lines().count(), events.len(), "one line per event");
    assert!(text.contains("gate_decided"), "{text}");
}

#[test]
fn following_a_log_ends_with_the_run() {
    let (_sandbox, dir) = retuned();
    let whole = run(["log", &dir, "--json"]).expect(0).stdout;
    let followed = run(["log", &dir, "--json", "--follow"]).expect(0).stdout;
    assert_eq!(followed, whole);
}

#[test]
fn explain_gives_the_reasons_in_words() {
    let (_sandbox, dir) = stopped();
    let last = run(["explain", &dir]).expect(0).stdout;
    for want in [
        "video_tokenizer stopped",
        "loss_latest failed at",
        "0.5",
        "0.01",
    ] {
        assert!(last.contains(want), "no `{want}` in:\n{last}");
    }
    let events = run(["log", &dir, "--json"]).expect(0).stdout;
    let gate = events
        .lines()
        .map(json)
        .find(|event| event["kind"] == "gate_decided")
        .unwrap();
    let gate = run(["explain", &dir, &gate["seq"].to_string()])
        .expect(0)
        .stdout;
    for want in [
        "retune",
        "loss_latest FAILED",
        "learning_rate from",
        "rung 1",
    ] {
        assert!(gate.contains(want), "no `{want}` in:\n{gate}");
    }
    run(["explain", &dir, "100000"]).expect_error(2, &["no event 100000"]);
}

#[test]
fn replay_recomputes_every_decision() {
    let (_sandbox, dir) = retuned();
    let text = run(["replay", &dir]).expect(0).stdout;
    assert!(text.contains("0 divergences"), "{text}");
    let audit = json(&run(["replay", &dir, "--json"]).expect(0).stdout);
    assert_eq!(audit["outcome"], "agreed");
    let checked = &audit["checked"];
    assert!(checked["recomputed"].as_u64().unwrap() > 10, "{checked}");
    assert_eq!(checked["recomputed"], checked["decisions"]);
}

#[test]
fn an_imported_export_is_the_same_run() {
    let (sandbox, dir) = stopped();
    let file = sandbox.arg("run.tgj");
    run(["export", &dir, &file]).expect(0);
    run(["export", &dir, &file]).expect_error(2, &[&file, "already exists", "--force"]);
    run(["export", &dir, &file, "--force"]).expect(0);
    let dir_of_files = sandbox.path("");
    let left = fs::read_dir(dir_of_files).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().contains("export-")),
        "{left:?}"
    );
    run(["export", &dir, &sandbox.arg("none/run.tgj")]).expect_error(2, &["cannot write", "none"]);
    let copy = sandbox.arg("copy");
    run(["import", &file, &copy]).expect(0);
    run(["import", &file, &copy]).expect_error(2, &["already has a log"]);
    let log = |path: &str| run(["log", path, "--json"]).expect(0).stdout;
    assert_eq!(log(&dir), log(&copy));
    assert_eq!(log(&dir), log(&file));
    let stages =
        |path: &str| json(&run(["status", path, "--json"]).expect(0).stdout)["stages"].clone();
    assert_eq!(stages(&dir), stages(&copy));
    // Neither a scripted trainer nor an export has checkpoint files.
    let text = run(["status", &copy]).expect(0).stdout;
    let best: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("best: "))
        .collect();
    assert!(!best.is_empty(), "{text}");
    for line in best {
        assert!(line.ends_with("(not in this directory)"), "{line}");
    }
    let text = run(["status", &file]).expect(0).stdout;
    assert!(!text.contains("not in this directory"), "{text}");
}

#[test]
fn the_most_severe_outcome_of_several_logs_counts() {
    let (sandbox, dir) = retuned();
    let bytes = fs::read(journal(dir.as_ref())).unwrap();
    fs::create_dir(sandbox.path("logs")).unwrap();
    let logs = sandbox.arg("logs");
    // An empty folder has nothing to check.
    run(["replay", &logs]).expect(5);
    sandbox.write("logs/good.tgj", &bytes);
    sandbox.write("logs/notes.txt", "no log");
    run(["replay", &logs]).expect(0);
    sandbox.write("logs/empty.tgj", "");
    run(["replay", &logs]).expect(5);
    let missing =
        run(["replay", &logs, &sandbox.arg("none")]).expect_error(2, &["there is nothing at"]);
    assert!(
        missing.stdout.contains("good.tgj"),
        "the other logs are replayed too"
    );
    sandbox.write("logs/newer.tgj", with_newer_version(&bytes));
    run(["replay", &logs]).expect(4);
    sandbox.write("logs/damaged.tgj", damaged(&bytes));
    let answers = run(["replay", &logs, "--json"]).expect(3).stdout;
    let outcomes: BTreeSet<String> = answers
        .lines()
        .map(|line| json(line)["outcome"].as_str().unwrap().to_owned())
        .collect();
    let want = ["agreed", "damaged", "newer_version", "nothing_checked"];
    assert_eq!(outcomes, want.map(str::to_owned).into());
}

/// Flips a bit in the middle of a log.
fn damaged(log: &[u8]) -> Vec<u8> {
    let mut log = log.to_vec();
    let middle = log.len() / 2;
    log[middle] ^= 1;
    log
}

#[test]
fn unreadable_logs_have_their_exit_codes() {
    let (sandbox, dir) = retuned();
    let bytes = fs::read(journal(dir.as_ref())).unwrap();
    let empty = sandbox.write("empty.tgj", "");
    let newer = sandbox.write("newer.tgj", with_newer_version(&bytes));
    let broken = sandbox.write("broken.tgj", damaged(&bytes));
    let none = sandbox.arg("none");
    for command in ["status", "log", "explain"] {
        run([command, &empty]).expect(5);
        run([command, &none]).expect_error(2, &["none"]);
        run([command, &newer]).expect_error(4, &["newer build"]);
        run([command, &broken]).expect_error(3, &["damaged"]);
    }
    run(["import", &newer, &sandbox.arg("a")]).expect_error(4, &["newer build"]);
    run(["import", &broken, &sandbox.arg("b")]).expect_error(3, &["damaged"]);
    let rescued = sandbox.arg("rescued.tgj");
    run(["export", &broken, &rescued]).expect_error(3, &["damaged", "rescued.tgj"]);
    // The rescued part is a complete log.
    run(["log", &rescued]).expect(0);
}

#[test]
fn recorded_logs_have_their_expected_outcomes() {
    let folder = workspace().join("replay/logs");
    let folder = folder.to_str().unwrap();
    // Among them are damaged ones, and damage is the most severe.
    let answers = run(["replay", folder, "--json"]).expect(3).stdout;
    assert!(answers.lines().count() > 10, "{answers}");
    for audit in answers.lines().map(json) {
        let log = audit["log"].as_str().unwrap();
        let expected = fs::read_to_string(log.replace(".tgj", ".json")).unwrap();
        assert_eq!(audit["outcome"], json(&expected)["outcome"], "{log}");
        let code = run(["replay", log]).code.unwrap();
        let known = [
            "agreed",
            "diverged",
            "unreadable",
            "damaged",
            "newer_version",
            "nothing_checked",
        ];
        let want = known
            .iter()
            .position(|known| audit["outcome"] == *known)
            .unwrap();
        assert_eq!(code, want as i32, "{log}");
    }
}

#[test]
fn a_run_directory_of_a_newer_build_is_not_changed() {
    let (_sandbox, dir) = stopped();
    let path = journal(dir.as_ref());
    let newer = with_newer_version(&fs::read(&path).unwrap());
    fs::write(&path, &newer).unwrap();
    for command in ["resume", "status", "replay"] {
        run([command, &dir]).expect(4);
    }
    assert_eq!(fs::read(&path).unwrap(), newer);
}

#[test]
fn a_pipe_closed_by_its_reader_is_not_an_error() {
    use std::process::Stdio;
    let (_sandbox, dir) = retuned();
    let mut child = tinygate()
        .args(["log", &dir, "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// Creates the log of a run in the middle of its first chunk, with the events of `more` appended:
/// seconds after the start, and event.
fn inside_a_chunk(sandbox: &Sandbox, more: &[(u64, Event)]) -> String {
    const START_MS: u64 = 1_700_000_000_000;
    let whole = scripted(sandbox, "whole", short_policy(), Script::new(1));
    let (store, _) = created_run(sandbox, "run", short_policy());
    let started = records(&whole)
        .into_iter()
        .scan(false, |begun, record| {
            let over = std::mem::replace(begun, matches!(record.event, Event::ChunkStarted(_)));
            (!over).then_some(record)
        })
        .map(|record| (START_MS, record.event));
    let later = more
        .iter()
        .map(|(seconds, event)| (START_MS + seconds * 1000, event.clone()));
    for event in started.chain(later) {
        store
            .append(store.head(), &[event], Durability::Durable)
            .unwrap();
    }
    store.close().unwrap();
    sandbox.arg("run")
}

fn metrics(first: u64, columns: &[(&str, &[f64])]) -> Event {
    let column = |(name, values): &(&str, &[f64])| Column {
        name: (*name).to_owned(),
        steps: Steps::Stride { first, stride: 1 },
        values: values.iter().copied().map(Scalar::new).collect(),
    };
    Event::MetricsLogged(MetricsLogged {
        stage: StageName::new("video_tokenizer"),
        chunk: ChunkNumber::FIRST,
        attempt: Attempt::FIRST,
        columns: columns.iter().map(column).collect(),
    })
}

#[test]
fn status_inside_a_chunk_shows_its_progress() {
    let sandbox = Sandbox::with_config(200);
    let logged = [
        (2, metrics(1, &[("train/loss", &[0.5, 0.25])])),
        (
            3,
            metrics(
                3,
                &[
                    ("train/loss", &[0.125]),
                    ("learning_rate", &[0.001]),
                    ("updates_per_second", &[0.5]),
                ],
            ),
        ),
    ];
    let dir = inside_a_chunk(&sandbox, &logged);
    let created = &records(&sandbox.path("run"))[0].event;
    let Event::RunCreated(created) = created else {
        panic!("the first event creates a run");
    };
    let settings = &created.policy.stages[0].settings;
    let (gate, target) = (settings.chunk_size, settings.n_updates);
    let text = run(["status", &dir]).expect(0).stdout;
    let line = format!(
        "video_tokenizer: update 3, gate at {gate}, loss 0.125, learning rate 0.001, 0.5 updates/s, gate in "
    );
    assert!(text.contains(&line), "no `{line}` in:\n{text}");
    let row = text
        .lines()
        .find(|line| line.starts_with("video_tokenizer "));
    let row: Vec<&str> = row.unwrap().split_whitespace().collect();
    for want in [format!("3/{target}").as_str(), "0.125", "3.0"] {
        assert!(row.contains(&want), "no `{want}` in {row:?}");
    }
    let status = json(&run(["status", &dir, "--json"]).expect(0).stdout);
    let chunk = &status["stages"][0]["chunk"];
    assert_eq!(chunk["step"], 3);
    assert_eq!(chunk["loss"], 0.125);
    assert_eq!(chunk["learning_rate"], 0.001);
    assert_eq!(chunk["updates_per_second"], 0.5);
    assert_eq!(chunk["gate_eta_seconds"], (gate - 3) as f64 * 2.0);
    assert_eq!(chunk["target_eta_seconds"], (target - 3) as f64 * 2.0);
    assert_eq!(status["stages"][1]["chunk"], Value::Null);
    // Without logged metrics there is no such line.
    let bare = Sandbox::with_config(200);
    let dir = inside_a_chunk(&bare, &[]);
    let text = run(["status", &dir]).expect(0).stdout;
    assert!(!text.contains("gate at"), "{text}");
}

#[test]
fn explain_gives_the_reason_of_an_interruption() {
    let signal = Event::RunInterrupted(RunInterrupted {
        reason: InterruptReason::Signal {
            name: "SIGTERM".to_owned(),
        },
    });
    let sandbox = Sandbox::with_config(200);
    let dir = inside_a_chunk(&sandbox, &[(5, signal)]);
    let said = run(["explain", &dir]).expect(0).stdout;
    for want in ["SIGTERM", "nothing was decided before that"] {
        assert!(said.contains(want), "no `{want}` in:\n{said}");
    }
    let sandbox = Sandbox::with_config(200);
    let dir = inside_a_chunk(&sandbox, &[]);
    let said = run(["explain", &dir]).expect(0).stdout;
    assert!(said.contains("ended without recording why"), "{said}");
    // A run that a gate stopped was not interrupted.
    let (_sandbox, dir) = stopped();
    let said = run(["explain", &dir]).expect(0).stdout;
    assert!(!said.contains("after that"), "{said}");
}

#[test]
fn import_reports_which_files_it_accepts() {
    let (sandbox, dir) = stopped();
    let text = sandbox.write("notes.txt", "no log at all");
    let to = sandbox.arg("copy");
    run(["import", &text, &to]).expect_error(2, &["notes.txt", "`tinygate export` wrote"]);
    run(["import", &dir, &to]).expect_error(2, &["is a directory", "tinygate export"]);
    run(["import", &sandbox.arg("none.tgj"), &to])
        .expect_error(2, &["none.tgj", "`tinygate export` wrote"]);
    assert!(!sandbox.path("copy").exists());
}
