//! Real training in real processes: it finishes, and it can be killed anywhere with the same
//! result.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;
use support::{
    Done, Sandbox, checkpoints, decisions, folded, records, run, scripted, tinygate,
    tinyworlds_checkpoint,
};
use tinygate::events::{Event, Record, Scalar, SettingKey, SettingValue};
use tinygate::presets::ModelKind;
use tinygate_testing::{ChunkPlan, Script, short_policy};

const KEYS: [&str; 6] = [
    "stage",
    "gate_step",
    "decision",
    "metrics",
    "resume_from",
    "config_patch_applied",
];

fn start_args(sandbox: &Sandbox, dir: &str, more: &[&str]) -> Vec<String> {
    let args = ["run", &sandbox.config(), "--dir", &sandbox.arg(dir)];
    args.iter()
        .chain(more)
        .map(|arg| (*arg).to_owned())
        .collect()
}

/// Starts a run. Returns the process and an iterator over the gates that it prints.
fn start(
    sandbox: &Sandbox,
    dir: &str,
    more: &[&str],
) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = tinygate()
        .args(start_args(sandbox, dir, more))
        .args(["--json", "--quiet"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines.map(Result::unwrap))
}

/// Waits until the log of a run in progress contains a matching event, from event `from` on.
fn wait_for(dir: &str, from: usize, mut wanted: impl FnMut(&Value) -> bool) {
    let mut follower = tinygate()
        .args([
            "log",
            dir,
            "--json",
            "--follow",
            "--from",
            &from.to_string(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let seen = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .any(|event| wanted(&event));
    assert!(seen, "the run ended before that");
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn a_run_finishes_and_every_decision_replays() {
    let sandbox = Sandbox::with_config(200);
    let done = run(start_args(&sandbox, "run", &["--json"])).expect(0);
    let gates: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(gates.len(), 6, "{}", done.stdout);
    for gate in &gates {
        check_keys(gate);
    }
    let dir = sandbox.arg("run");
    let audit = run(["replay", &dir]).expect(0).stdout;
    assert!(audit.contains("0 divergences"), "{audit}");
    run(["checkpoint", "verify", &dir]).expect(0);
    for stage in ["video_tokenizer", "latent_actions", "dynamics"] {
        let best = fs::canonicalize(sandbox.path("run").join(stage).join("best")).unwrap();
        assert!(
            best.ends_with(format!("{stage}_step_40")),
            "{}",
            best.display()
        );
    }
    let created = folded(&records(&sandbox.path("run"))).created.unwrap();
    let parts: Vec<&str> = created.libtorch_version.split('.').collect();
    assert!(
        parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok()),
        "{parts:?}"
    );
    // A single process trains with one rank, which is not a fallback.
    let granted = |record: &Record| matches!(record.event, Event::FallbackGranted(_));
    assert!(!records(&sandbox.path("run")).iter().any(granted));
    // `explain` describes the same gates in words.
    let explained = run(["explain", &dir]).expect(0).stdout;
    assert!(
        explained.contains("dynamics, gate at update 40"),
        "{explained}"
    );
}

/// A gate has exactly the six keys, in this order, and its metrics are numbers or null.
#[track_caller]
fn check_keys(gate: &str) {
    let positions: Vec<usize> = KEYS
        .iter()
        .map(|key| {
            gate.find(&format!("\"{key}\":"))
                .unwrap_or_else(|| panic!("no {key}: {gate}"))
        })
        .collect();
    assert!(positions.is_sorted(), "{gate}");
    let value: Value = serde_json::from_str(gate).unwrap();
    let object = value.as_object().unwrap();
    assert_eq!(object.len(), KEYS.len(), "{gate}");
    for (name, metric) in object["metrics"].as_object().unwrap() {
        assert!(metric.is_number() || metric.is_null(), "{name}: {gate}");
    }
}

#[test]
fn gates_and_a_table_are_printed_to_stderr() {
    let sandbox = Sandbox::with_config(200);
    let done = run(start_args(&sandbox, "run", &["--stage", "video_tokenizer"])).expect(0);
    assert_eq!(done.stdout, "");
    for want in [
        "video_tokenizer gate at 20: continue",
        "  pass  checkpoint_valid",
        "  n/a   loss_trend",
        "note: ",
        "times the loss",
        "video_tokenizer passed",
        "stage            phase",
        "best: video_tokenizer/checkpoints/",
    ] {
        assert!(
            done.stderr.contains(want),
            "no `{want}` in:\n{}",
            done.stderr
        );
    }
    let sandbox = Sandbox::with_config(200);
    let args = start_args(&sandbox, "run", &["--stage", "video_tokenizer", "--quiet"]);
    assert_eq!(run(args).expect(0).stderr, "");
}

#[test]
fn a_killed_run_ends_like_an_undisturbed_one() {
    let sandbox = Sandbox::with_config(200);
    // Both run directories have the same name, because the name is part of the state.
    fs::create_dir_all(sandbox.path("whole")).unwrap();
    fs::create_dir_all(sandbox.path("killed")).unwrap();
    run(start_args(&sandbox, "whole/run", &[])).expect(0);

    let dir = sandbox.arg("killed/run");
    let (mut child, mut gates) = start(&sandbox, "killed/run", &[]);
    let gate: Value = serde_json::from_str(&gates.next().unwrap()).unwrap();
    assert_eq!(gate["gate_step"], 20);
    // The second chunk is under way once it has a checkpoint of its own.
    wait_for(&dir, 0, |event| {
        event["kind"] == "checkpoint_judged" && event["checkpoint"]["step"].as_u64() > Some(20)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    drop(gates);
    let killed_at = records(&sandbox.path("killed/run")).len();

    run(["resume", &dir]).expect(0);
    let (whole, killed) = (
        records(&sandbox.path("whole/run")),
        records(&sandbox.path("killed/run")),
    );
    let starts = |records: &[Record]| {
        let of = |record: &&Record| matches!(record.event, Event::ProcessStarted(_));
        records.iter().filter(of).count()
    };
    assert_eq!((starts(&whole), starts(&killed)), (1, 2));
    assert!(killed_at < killed.len() - 10, "it was killed too late");
    assert_eq!(checkpoints(&whole), checkpoints(&killed), "weights differ");
    assert_eq!(decisions(&whole), decisions(&killed), "decisions differ");
    assert_eq!(folded(&whole), folded(&killed), "states differ");
    run(["replay", &dir]).expect(0);
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_signal_stops_a_run_with_a_checkpoint() {
    use rustix::process::Signal;
    for (name, signal_name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let sandbox = Sandbox::with_config(200);
        let dir = sandbox.arg("run");
        let (child, mut gates) = start(&sandbox, "run", &[]);
        gates.next().unwrap();
        signal(&child, name);
        drop(gates);
        let done = Done::of(child.wait_with_output().unwrap());
        let done = done.expect(130);
        assert_eq!(done.stderr, "", "{signal_name}");

        let records = records(&sandbox.path("run"));
        let last = records.last().unwrap();
        assert_eq!(last.event.kind(), "run_interrupted");
        let text = serde_json::to_string(last).unwrap();
        assert!(text.contains(signal_name), "{text}");
        let before = records.iter().rev().nth(1).unwrap();
        assert_eq!(
            before.event.kind(),
            "checkpoint_judged",
            "no checkpoint was written"
        );
        let status = run(["status", &dir]).expect(0).stdout;
        assert!(
            status.contains(&format!(
                "interrupted ({signal_name}), resumable, no process has it open"
            )),
            "{status}"
        );

        run(["resume", &dir]).expect(0);
        run(["replay", &dir]).expect(0);
    }
}

#[test]
fn a_moved_run_can_be_resumed_with_moved_data() {
    let sandbox = Sandbox::with_config(200);
    let (child, mut gates) = start(&sandbox, "run", &[]);
    gates.next().unwrap();
    signal(&child, rustix::process::Signal::INT);
    drop(gates);
    Done::of(child.wait_with_output().unwrap()).expect(130);

    // What a crash in the middle of a write leaves.
    let leftover = "video_tokenizer/checkpoints/.tmp-video_tokenizer_step_99";
    fs::create_dir(sandbox.path("run").join(leftover)).unwrap();

    let elsewhere = Sandbox::new();
    fs::rename(sandbox.path("run"), elsewhere.path("moved")).unwrap();
    fs::rename(sandbox.path("frames.npy"), elsewhere.path("frames.npy")).unwrap();
    let dir = elsewhere.arg("moved");
    run(["resume", &dir]).expect_error(2, &["no file or folder", "--set data.path=PATH"]);
    let data = format!("data.path={}", elsewhere.arg("frames.npy"));
    run(["resume", &dir, "--set", &data]).expect(0);
    assert!(!elsewhere.path("moved").join(leftover).exists());
    run(["replay", &dir]).expect(0);
    run(["checkpoint", "verify", &dir]).expect(0);
}

#[test]
fn a_stopped_run_continues_with_more_retries() {
    let sandbox = Sandbox::with_config(200);
    // A limit that no model reaches, and no retry.
    let more = [
        "--stage",
        "video_tokenizer",
        "--set",
        "video_tokenizer.gate.loss_latest=1e-9",
        "--set",
        "policy.max_retries=0",
    ];
    let done = run(start_args(&sandbox, "run", &more)).expect(1);
    for want in [
        "loss_latest failed at",
        "--retries N` allows N more failures",
    ] {
        assert!(done.stderr.contains(want), "no `{want}`: {}", done.stderr);
    }
    let dir = sandbox.arg("run");
    run(["resume", &dir]).expect_error(1, &["--retries"]);
    let again = run(["resume", &dir, "--retries", "1", "--json"]).expect(1);
    let gates: Vec<Value> = again
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let decided: Vec<&Value> = gates.iter().map(|gate| &gate["decision"]).collect();
    // The gate at which the stage was reopened is not printed again.
    assert_eq!(decided, ["stop"], "{}", again.stdout);
    let records = records(&sandbox.path("run"));
    let reopened = records.iter().find_map(|record| match &record.event {
        Event::StageReopened(reopened) => Some(&reopened.config_patch_applied),
        _ => None,
    });
    let patch = &reopened.unwrap()[0];
    assert_eq!(patch.key, SettingKey::LearningRate);
    assert_eq!(patch.to, SettingValue::Real(Scalar::new(0.0005)));
    let changed = records.iter().find_map(|record| match &record.event {
        Event::SettingChanged(changed) => Some(changed.clone()),
        _ => None,
    });
    assert_eq!(changed.unwrap().who, "somebody");
    run(["replay", &dir]).expect(0);
}

#[test]
fn a_stop_that_retries_alone_cannot_resolve_is_explained() {
    let sandbox = Sandbox::with_config(200);
    // A limit that no model reaches, and a ladder whose only rung is at its bound.
    let more = [
        "--stage",
        "video_tokenizer",
        "--set",
        "video_tokenizer.gate.loss_latest=1e-9",
        "--set",
        "video_tokenizer.ladder=[\"log_interval /= 2\"]",
        "--set",
        "video_tokenizer.log_interval=1",
    ];
    let done = run(start_args(&sandbox, "run", &more)).expect(1);
    let want = "--retries N --set video_tokenizer.learning_rate=RATE`";
    assert!(done.stderr.contains(want), "{}", done.stderr);
    run(["resume", &sandbox.arg("run")]).expect_error(1, &["was stopped at a gate", want]);
}

#[test]
fn each_chunk_and_attempt_has_its_own_pictures() {
    let sandbox = Sandbox::with_config(200);
    // The second gate fails, and its chunk is trained again from the first.
    let more = [
        "--stage",
        "video_tokenizer",
        "--set",
        "video_tokenizer.gate.loss_latest=[[20, 100.0], [40, 1e-9]]",
        "--set",
        "policy.max_retries=1",
        "--set",
        "policy.retry_from=last_passed",
    ];
    run(start_args(&sandbox, "run", &more)).expect(1);
    let mut pictures = Vec::new();
    for record in records(&sandbox.path("run")) {
        if let Event::PictureScored(picture) = record.event {
            let bytes = fs::read(sandbox.path("run").join(&picture.path)).unwrap();
            let hash = blake3::hash(&bytes).to_hex().to_string();
            assert_eq!(hash, picture.blake3, "`{}` was overwritten", picture.path);
            pictures.push((picture.step, picture.path));
        }
    }
    let again = |(index, (step, _)): (usize, &(_, _))| {
        pictures
            .iter()
            .skip(index + 1)
            .any(|(other, _)| other == step)
    };
    assert!(
        pictures.iter().enumerate().any(again),
        "no step was repeated: {pictures:?}"
    );
}

#[test]
fn a_single_stage_builds_on_given_checkpoints() {
    let sandbox = Sandbox::with_config(200);
    run(start_args(&sandbox, "first", &[])).expect(0);
    let best = |stage: &str| {
        format!(
            "{stage}={}",
            sandbox.path("first").join(stage).join("best").display()
        )
    };
    let (video, actions) = (best("video_tokenizer"), best("latent_actions"));
    let more = [
        "--stage",
        "dynamics",
        "--init-from",
        &video,
        "--init-from",
        &actions,
    ];
    run(start_args(&sandbox, "second", &more)).expect(0);
    let last = |run: &str| checkpoints(&records(&sandbox.path(run))).pop().unwrap();
    assert_eq!(
        last("first"),
        last("second"),
        "the same stage on the same models"
    );
    run(["replay", &sandbox.arg("second")]).expect(0);

    // A stage can also continue from its own checkpoint.
    let more = [
        "--stage",
        "video_tokenizer",
        "--init-from",
        &video,
        "--set",
        "video_tokenizer.n_updates=60",
    ];
    run(start_args(&sandbox, "third", &more)).expect(0);
    let written = checkpoints(&records(&sandbox.path("third")));
    assert!(
        written.first().unwrap().0.ends_with("_step_44"),
        "{:?}",
        written.first()
    );
}

/// The shape of the checkpoint that TinyWorlds wrote.
const TINYWORLDS: [&str; 12] = [
    "--set",
    "patch_size=8",
    "--set",
    "latent_dim=5",
    "--set",
    "num_bins=4",
    "--set",
    "video_tokenizer.embed_dim=16",
    "--set",
    "video_tokenizer.num_heads=4",
    "--set",
    "video_tokenizer.hidden_dim=64",
];

#[test]
fn a_stage_starts_from_a_tinyworlds_checkpoint() {
    let sandbox = Sandbox::with_config(200);
    let given = tinyworlds_checkpoint();
    let more = ["--stage", "video_tokenizer", "--init-from", &given];
    let target = ["--set", "video_tokenizer.n_updates=160"];
    let more: Vec<&str> = more.into_iter().chain(TINYWORLDS).chain(target).collect();
    run(start_args(&sandbox, "run", &more)).expect(0);
    let records = records(&sandbox.path("run"));
    let steps: Vec<(u64, u64)> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::ChunkStarted(started) => Some((started.from.get(), started.to.get())),
            _ => None,
        })
        .collect();
    assert_eq!(steps, [(150, 160)], "`_step_149` has done 150 updates");
    let failed = |record: &&Record| matches!(record.event, Event::ChunkFailed(_));
    assert_eq!(records.iter().filter(failed).count(), 0);
    run(["replay", &sandbox.arg("run")]).expect(0);
}

/// A run of all stages that was interrupted in the last one.
fn interrupted_in_dynamics() -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    let (child, mut gates) = start(&sandbox, "run", &[]);
    let in_dynamics = |gate: String| gate.contains("\"stage\":\"dynamics\"");
    assert!(gates.any(in_dynamics));
    signal(&child, rustix::process::Signal::INT);
    drop(gates);
    Done::of(child.wait_with_output().unwrap()).expect(130);
    sandbox
}

/// Resumes the run to its end. Nothing that happened before was recorded as a failure.
#[track_caller]
fn finishes_without_a_failure(sandbox: &Sandbox) {
    run(["resume", &sandbox.arg("run")]).expect(0);
    let records = records(&sandbox.path("run"));
    let failed = |event: &Event| matches!(event, Event::ChunkFailed(_) | Event::FailureDecided(_));
    assert!(!records.iter().any(|record| failed(&record.event)));
    let rejected = |event: &Event| matches!(event, Event::CheckpointJudged(judged) if judged.rejected.is_some());
    assert!(!records.iter().any(|record| rejected(&record.event)));
    run(["replay", &sandbox.arg("run")]).expect(0);
}

#[test]
fn a_replaced_model_is_not_built_on() {
    let sandbox = interrupted_in_dynamics();
    let folder = sandbox.path("run/video_tokenizer/checkpoints");
    let (passed, aside) = (
        folder.join("video_tokenizer_step_40"),
        sandbox.path("aside"),
    );
    fs::rename(&passed, &aside).unwrap();
    // A valid checkpoint, but not the one on which dynamics was trained.
    fs::create_dir(&passed).unwrap();
    for file in tinygate::checkpoint::FILE_NAMES {
        fs::copy(
            folder.join("video_tokenizer_step_36").join(file),
            passed.join(file),
        )
        .unwrap();
    }
    run(["resume", &sandbox.arg("run"), "--quiet"]).expect_error(
        2,
        &[
            "`video_tokenizer/checkpoints/video_tokenizer_step_40` to build on no longer matches the log",
            "BLAKE3",
        ],
    );
    fs::remove_dir_all(&passed).unwrap();
    fs::rename(&aside, &passed).unwrap();
    finishes_without_a_failure(&sandbox);
}

#[test]
fn missing_checkpoints_are_not_a_failure_of_the_chunk() {
    let sandbox = interrupted_in_dynamics();
    for stage in ["dynamics", "latent_actions"] {
        let (here, away) = (sandbox.path("run").join(stage), sandbox.path("away"));
        fs::rename(&here, &away).unwrap();
        for _ in 0..4 {
            run(["resume", &sandbox.arg("run"), "--quiet"])
                .expect_error(2, &["is missing", stage, "bring"]);
        }
        // Remove what the attempts created at this path.
        let _ = fs::remove_dir_all(&here);
        fs::rename(&away, &here).unwrap();
    }
    finishes_without_a_failure(&sandbox);
}

#[test]
fn a_given_checkpoint_that_changed_is_refused() {
    let sandbox = Sandbox::with_config(200);
    run(start_args(
        &sandbox,
        "first",
        &["--stage", "video_tokenizer"],
    ))
    .expect(0);
    let folder = sandbox.path("first/video_tokenizer/checkpoints");
    let given = folder.join("video_tokenizer_step_36");
    let init = format!("video_tokenizer={}", given.display());
    let more = [
        "--stage",
        "video_tokenizer",
        "--init-from",
        &init,
        "--set",
        "video_tokenizer.n_updates=100000",
        "--set",
        "video_tokenizer.chunk_size=100000",
    ];
    // Killed before it has written a checkpoint.
    let mut child = tinygate()
        .args(start_args(&sandbox, "run", &more))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let begins = |line: &std::io::Result<String>| {
        line.as_ref()
            .is_ok_and(|line| line.starts_with("video_tokenizer started"))
    };
    lines.find(begins).unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drop(lines);
    let other = folder.join("video_tokenizer_step_40");
    for file in tinygate::checkpoint::FILE_NAMES {
        fs::copy(other.join(file), given.join(file)).unwrap();
    }
    run(["resume", &sandbox.arg("run"), "--quiet"])
        .expect_error(2, &["to resume from no longer matches the log"]);
}

#[test]
fn the_next_cycle_uses_the_first_config() {
    let sandbox = Sandbox::with_config(200);
    let more = [
        "--stage",
        "video_tokenizer",
        "--set",
        "video_tokenizer.learning_rate=2e-3",
    ];
    run(start_args(&sandbox, "first", &more)).expect(0);
    let (first, second) = (sandbox.arg("first"), sandbox.arg("second"));
    let args = [
        "run",
        "--next-cycle-of",
        &first,
        "--dir",
        &second,
        "--stage",
        "video_tokenizer",
    ];
    run(args).expect(0);
    let (first, second) = (
        folded(&records(first.as_ref())),
        folded(&records(second.as_ref())),
    );
    let (first, second) = (first.created.unwrap(), second.created.unwrap());
    assert_eq!(first.config, second.config);
    assert_eq!(second.parent.unwrap().run, "first");
}

#[test]
fn the_next_cycle_applies_the_changes_that_the_ladder_deferred() {
    let sandbox = Sandbox::with_config(200);
    let collapsed = ChunkPlan::good(ModelKind::LatentActions).collapsing();
    let script = [1, 2, 3].into_iter().fold(Script::new(1), |script, chunk| {
        script.chunk("latent_actions", chunk, collapsed.clone())
    });
    let parent = scripted(&sandbox, "parent", short_policy(), script);
    let deferred = |record: &Record| matches!(record.event, Event::PatchDeferred(_));
    assert_eq!(
        records(&parent)
            .iter()
            .filter(|record| deferred(record))
            .count(),
        1
    );

    let child = sandbox.arg("child");
    let parent = parent.to_str().unwrap();
    let args = [
        "run",
        "--next-cycle-of",
        parent,
        "--dir",
        &child,
        "--stage",
        "latent_actions",
    ];
    run(args).expect(0);
    let created = folded(&records(child.as_ref())).created.unwrap();
    assert_eq!(created.config["n_actions"], 2, "the first config has 4");
    assert_eq!(created.parent.unwrap().patches.len(), 1);
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    use rustix::process::Signal;
    let sandbox = Sandbox::with_config(200);
    let more = [
        "--stage",
        "video_tokenizer",
        // Updates long enough for two signals.
        "--set",
        "video_tokenizer.gradient_accumulation_steps=32",
    ];
    let (child, mut gates) = start(&sandbox, "run", &more);
    gates.next().unwrap();
    // Both are pending until the process continues, so the second arrives within an update.
    for name in [Signal::STOP, Signal::INT, Signal::TERM, Signal::CONT] {
        signal(&child, name);
    }
    drop(gates);
    Done::of(child.wait_with_output().unwrap()).expect(130);
    // The first alone would have stopped the run at the next update, with a checkpoint and an event.
    let last = records(&sandbox.path("run")).pop().unwrap();
    assert_ne!(last.event.kind(), "run_interrupted");
    let dir = sandbox.arg("run");
    let status = run(["status", &dir]).expect(0).stdout;
    assert!(status.contains("ended unexpectedly"), "{status}");
    run(["resume", &dir]).expect(0);
    run(["replay", &dir]).expect(0);
}

#[test]
fn a_dry_run_measures_and_writes_nothing() {
    let sandbox = Sandbox::with_config(200);
    let config = sandbox.config();
    let before = listing(&sandbox);
    let done = run(["run", &config, "--dry-run", "--dir", &sandbox.arg("run")]).expect(0);
    for want in [
        "loss_latest",
        "latest loss <= 100",
        "every 20 to 40",
        "time: ",
        "memory: ",
    ] {
        assert!(
            done.stdout.contains(want),
            "no `{want}` in:\n{}",
            done.stdout
        );
    }
    assert_eq!(listing(&sandbox), before);
}

#[test]
fn a_dry_run_prints_json() {
    let sandbox = Sandbox::with_config(200);
    let done = run(["run", &sandbox.config(), "--dry-run", "--json", "--quiet"]).expect(0);
    assert_eq!(done.stderr, "");
    let json: Value = serde_json::from_str(&done.stdout).unwrap();
    let stages = json["stages"].as_array().unwrap();
    let names: Vec<&Value> = stages.iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(names, ["video_tokenizer", "latent_actions", "dynamics"]);
    for stage in stages {
        assert_eq!(
            (&stage["updates"], &stage["gates"]),
            (&40.into(), &2.into())
        );
        assert!(stage["numbers"].as_u64() > Some(1000), "{stage}");
        assert!(stage["seconds_per_update"].as_f64() > Some(0.0), "{stage}");
        assert_eq!(stage["criteria"][0]["criterion"], "checkpoint_valid");
    }
    assert!(json["seconds"].as_f64() > Some(0.0), "{json}");
}

#[test]
fn a_dry_run_prints_what_it_measures_unless_quiet() {
    let sandbox = Sandbox::with_config(200);
    let done = run(["run", &sandbox.config(), "--dry-run"]).expect(0);
    for stage in ["video_tokenizer", "latent_actions", "dynamics"] {
        let want = format!("{stage}: measuring 8 updates");
        assert!(done.stderr.contains(&want), "{}", done.stderr);
    }
    let quiet = run(["run", &sandbox.config(), "--dry-run", "--quiet"]).expect(0);
    assert_eq!(quiet.stdout + &quiet.stderr, "");
}

#[test]
fn a_dry_run_stops_for_a_signal_and_cleans_up() {
    let sandbox = Sandbox::with_config(200);
    fs::create_dir(sandbox.path("temporary")).unwrap();
    let mut child = tinygate()
        .args(["run", &sandbox.config(), "--dry-run"])
        .args(["--set", "video_tokenizer.gradient_accumulation_steps=32"])
        .env("TMPDIR", sandbox.path("temporary"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Signals are handled before the first output.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    signal(&child, rustix::process::Signal::TERM);
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    let done = Done::of(child.wait_with_output().unwrap()).expect(130);
    assert!(!done.stderr.contains("error"), "{}", done.stderr);
    assert!(
        !said.iter().any(|line| line.starts_with("time: ")),
        "{said:?}"
    );
    let left = fs::read_dir(sandbox.path("temporary")).unwrap().count();
    assert_eq!(left, 0, "the temporary folder is still there");
}

fn listing(sandbox: &Sandbox) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(sandbox.path(".")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}
