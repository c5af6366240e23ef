//! Resuming with missing checkpoints, with changes that cannot be made, and by a command that a job
//! queue repeats; and `prune`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::process::Stdio;

use serde_json::Value;
use support::{Done, Sandbox, folded, journal, records, run, scripted, tinygate, wait_for};
use tinygate::events::{Event, Seq, SettingKey, StageName};
use tinygate::machine::{Judgement, Machine};
use tinygate::store::{Durability, EventLog, LogFile, Store};
use tinygate_testing::{Script, short_policy};

const VIDEO: &str = "video_tokenizer";

/// A video stage that is long enough to be killed in its second chunk.
const LONG: [&str; 8] = [
    "--stage",
    VIDEO,
    "--set",
    "video_tokenizer.n_updates=2000",
    "--set",
    "video_tokenizer.chunk_size=40",
    "--set",
    "video_tokenizer.checkpoint_interval=10",
];

fn begin(sandbox: &Sandbox, more: &[&str]) -> std::process::Command {
    let mut command = tinygate();
    command
        .args(["run", &sandbox.config(), "--dir", &sandbox.arg("run")])
        .args(more);
    command
}

/// A run of the video stage, killed after its first gate.
fn killed() -> Sandbox {
    killed_after(40)
}

/// Tries until the kill leaves no checkpoint without a verdict, because a resume could accept such a checkpoint.
fn killed_after(step: u64) -> Sandbox {
    loop {
        let sandbox = killed_anywhere_after(step);
        let state = folded(&records(&sandbox.path("run")));
        let stage = state.stage_named(&StageName::new(VIDEO)).unwrap();
        if stage
            .lineage
            .present()
            .all(|one| one.judgement != Judgement::Pending)
        {
            return sandbox;
        }
    }
}

fn killed_anywhere_after(step: u64) -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    let mut child = begin(&sandbox, &LONG)
        .arg("--quiet")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let wanted = |event: &Value| event["kind"] == "checkpoint_judged" && step < step_of(event);
    wait_for(&sandbox.arg("run"), wanted);
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox
}

fn step_of(event: &Value) -> u64 {
    event["checkpoint"]["step"].as_u64().unwrap_or(0)
}

fn resume(sandbox: &Sandbox, more: &[&str]) -> Done {
    let dir = sandbox.arg("run");
    run(["resume", dir.as_str()].iter().chain(more))
}

/// Paths of the accepted checkpoints that a resume may start from, oldest first.
fn accepted(sandbox: &Sandbox) -> Vec<String> {
    let state = folded(&records(&sandbox.path("run")));
    let stage = state.stage_named(&StageName::new(VIDEO)).unwrap();
    let usable = stage.lineage.present().filter(|one| one.is_usable());
    usable.map(|one| one.reference.path.clone()).collect()
}

fn given_up(sandbox: &Sandbox) -> Vec<(String, String)> {
    let events = records(&sandbox.path("run")).into_iter();
    events
        .filter_map(|record| match record.event {
            Event::CheckpointGivenUp(event) => Some((event.checkpoint.path, event.who)),
            _ => None,
        })
        .collect()
}

/// A smaller target, so that the run finishes soon.
const END_SOON: [&str; 2] = ["--set", "video_tokenizer.n_updates=280"];

#[test]
fn a_missing_checkpoint_is_given_up_only_on_request() {
    let sandbox = killed();
    let before = accepted(&sandbox);
    let [.., older, newest] = &before[..] else {
        panic!("{before:?}");
    };
    fs::remove_dir_all(sandbox.path("run").join(newest)).unwrap();
    for _ in 0..2 {
        resume(&sandbox, &[]).expect_error(2, &[newest, older, "--give-up"]);
    }
    assert_eq!(given_up(&sandbox), []);
    let done = resume(
        &sandbox,
        &["--give-up"]
            .iter()
            .chain(&END_SOON)
            .copied()
            .collect::<Vec<_>>(),
    );
    let done = done.expect(0);
    assert!(
        done.stderr.contains("given up by somebody"),
        "{}",
        done.stderr
    );
    assert_eq!(
        given_up(&sandbox),
        [(newest.clone(), "somebody".to_owned())]
    );
    // In the same chunk, or in a new one if the chunk had started from the missing checkpoint.
    let resumed = records(&sandbox.path("run"))
        .into_iter()
        .skip_while(|record| !matches!(record.event, Event::CheckpointGivenUp(_)))
        .find_map(|record| match record.event {
            Event::SamplesSuperseded(event) => Some(event.resume_from.unwrap().path),
            Event::ChunkStarted(event) => Some(event.resume_from.unwrap().path),
            _ => None,
        });
    assert_eq!(resumed.as_ref(), Some(older));
    run(["replay", &sandbox.arg("run")]).expect(0);
}

#[test]
fn a_checkpoint_with_a_missing_file_is_missing() {
    let sandbox = killed();
    let newest = accepted(&sandbox).pop().unwrap();
    let file = sandbox
        .path("run")
        .join(&newest)
        .join("optim_state_dict.pt");
    fs::remove_file(file).unwrap();
    resume(&sandbox, &[]).expect_error(2, &[&newest, "--give-up"]);
}

#[test]
fn the_last_checkpoint_cannot_be_given_up() {
    let sandbox = killed();
    fs::remove_dir_all(sandbox.path("run/video_tokenizer/checkpoints")).unwrap();
    for more in [&[][..], &["--give-up"]] {
        resume(&sandbox, more).expect_error(2, &["every accepted checkpoint of `video_tokenizer`"]);
    }
    assert_eq!(given_up(&sandbox), []);
}

/// Leaves events in the middle of the log that neither copy holds completely.
fn damage_both_copies(sandbox: &Sandbox) {
    let log = journal(&sandbox.path("run"));
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    fs::remove_dir_all(sandbox.path("run/log/sled")).unwrap();
}

#[test]
fn accepting_a_loss_gives_up_checkpoints_that_lost_events_deleted() {
    let sandbox = killed_after(200);
    damage_both_copies(&sandbox);
    let dir = sandbox.arg("run");
    run(["resume", &dir]).expect_error(3, &["--accept-loss"]);
    // Events after the damage may have deleted checkpoints that the events before it refer to.
    let sound = LogFile::open(&sandbox.path("run")).unwrap().records();
    let mut machine = Machine::default();
    for record in sound.map_while(Result::ok) {
        machine.apply(&record.event);
    }
    let stage = machine.state().stage().unwrap();
    let newest = stage
        .lineage
        .newest_accepted()
        .unwrap()
        .reference
        .path
        .clone();
    // A lost event may have deleted it already.
    let _ = fs::remove_dir_all(sandbox.path("run").join(&newest));
    let tried = run(["repair", &dir, "--accept-loss", "--dry-run"]).expect(0);
    assert!(
        tried
            .stderr
            .contains(&format!("`{newest}` would be given up")),
        "{}",
        tried.stderr
    );
    run(["repair", &dir, "--accept-loss"]).expect(0);
    let lost = given_up(&sandbox);
    assert!(lost.contains(&(newest, "somebody".to_owned())), "{lost:?}");
    let there = |path: &str| sandbox.path("run").join(path).exists();
    assert!(!lost.iter().any(|(path, _)| there(path)), "{lost:?}");
    resume(&sandbox, &END_SOON).expect(0);
    run(["replay", &dir]).expect(0);
}

#[test]
fn a_repair_that_loses_nothing_gives_up_nothing() {
    let sandbox = killed();
    let newest = accepted(&sandbox).pop().unwrap();
    fs::remove_dir_all(sandbox.path("run").join(&newest)).unwrap();
    run(["repair", &sandbox.arg("run"), "--accept-loss"]).expect(0);
    assert_eq!(given_up(&sandbox), []);
}

#[test]
fn nothing_is_pruned_while_checkpoints_are_missing() {
    let sandbox = killed();
    let newest = accepted(&sandbox).pop().unwrap();
    fs::remove_dir_all(sandbox.path("run").join(&newest)).unwrap();
    run(["prune", &sandbox.arg("run"), "--keep", "0", "--delete"])
        .expect_error(2, &[&newest, "--give-up"]);
}

#[test]
fn giving_up_where_nothing_is_missing_changes_nothing() {
    let sandbox = killed();
    let done = resume(
        &sandbox,
        &["--give-up"]
            .iter()
            .chain(&END_SOON)
            .copied()
            .collect::<Vec<_>>(),
    );
    let done = done.expect(0);
    assert!(
        done.stderr.contains("no checkpoint is missing"),
        "{}",
        done.stderr
    );
    assert_eq!(given_up(&sandbox), []);
}

#[test]
fn a_command_repeated_by_a_queue_resumes() {
    let sandbox = Sandbox::with_config(200);
    let rate = ["--or-resume", "--set", "video_tokenizer.learning_rate=5e-5"];
    let more: Vec<&str> = LONG.iter().chain(&rate).copied().collect();
    let mut child = begin(&sandbox, &more)
        .arg("--quiet")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&sandbox.arg("run"), |event| event["kind"] == "gate_decided");
    child.kill().unwrap();
    child.wait().unwrap();
    // The same command does not undo what a ladder or a person has changed since.
    resume_and_kill(&sandbox, "video_tokenizer.checkpoint_interval=20");
    resume_and_kill(&sandbox, "video_tokenizer.learning_rate=1e-5");
    // Somebody edits the config meanwhile.
    let edited = support::CONFIG.replace("seed = 3", "seed = 4").replacen(
        "log_interval = 5",
        "log_interval = 4",
        1,
    );
    sandbox.write("config.toml", edited);
    let mut child = begin(&sandbox, &more)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let mut said = String::new();
    while !said.contains("resumes from") && !said.contains("started") {
        let Some(line) = lines.next() else { break };
        said += &(line.unwrap() + "\n");
        if said.contains("gate at") {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for text in [
        "`seed` is 4 in the config given; the run was created with 3",
        "`video_tokenizer.log_interval` is 4 in the config given; the run was created with 5",
    ] {
        assert!(said.contains(text), "no `{text}` in:\n{said}");
    }
    let changes = records(&sandbox.path("run"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::SettingChanged(event) => Some(event.key),
            _ => None,
        });
    assert_eq!(
        changes.collect::<Vec<_>>(),
        [SettingKey::CheckpointInterval, SettingKey::LearningRate],
        "the repeated `--set` is not a change"
    );
}

/// Resumes with a change and kills the process after the next gate.
fn resume_and_kill(sandbox: &Sandbox, set: &str) {
    let before = records(&sandbox.path("run")).len() as u64;
    let mut child = tinygate()
        .args(["resume", &sandbox.arg("run"), "--quiet", "--set", set])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let gate =
        |event: &Value| event["kind"] == "gate_decided" && before <= event["seq"].as_u64().unwrap();
    wait_for(&sandbox.arg("run"), gate);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn options_that_create_a_run_may_be_repeated() {
    let sandbox = Sandbox::with_config(200);
    run([
        "run",
        &sandbox.config(),
        "--dir",
        &sandbox.arg("first"),
        "--stage",
        VIDEO,
        "--quiet",
    ])
    .expect(0);
    let given = sandbox.path("first/video_tokenizer/checkpoints/video_tokenizer_step_36");
    let init = format!("{VIDEO}={}", given.display());
    let (parent, dir) = (sandbox.arg("first"), sandbox.arg("run"));
    let command = || {
        run([
            "run",
            "--next-cycle-of",
            &parent,
            "--dir",
            &dir,
            "--or-resume",
            "--stage",
            VIDEO,
            "--init-from",
            &init,
        ])
    };
    command().expect(0);
    // The parent and the checkpoint in it are not needed again.
    fs::remove_dir_all(sandbox.path("first")).unwrap();
    let again = command().expect(0);
    assert!(again.stderr.contains("has finished"), "{}", again.stderr);
    let longer = [
        "--quiet",
        "--or-resume",
        "--set",
        "video_tokenizer.n_updates=400",
    ];
    Done::of(begin(&sandbox, &longer).output().unwrap()).expect_error(
        2,
        &[
            "`video_tokenizer` has passed",
            "`video_tokenizer.n_updates`",
        ],
    );
}

#[test]
fn a_finished_run_refuses_changes() {
    let sandbox = Sandbox::with_config(200);
    scripted(&sandbox, "run", short_policy(), Script::new(1));
    let before = fs::read(journal(&sandbox.path("run"))).unwrap();
    resume(&sandbox, &["--retries", "2"]).expect_error(2, &["`--retries`", "has finished"]);
    resume(&sandbox, &["--set", "dynamics.n_updates=400"])
        .expect_error(2, &["`dynamics.n_updates`", "--init-from dynamics="]);
    resume(&sandbox, &["--set", "policy.max_retries=9"])
        .expect_error(2, &["the run has finished", "`policy.max_retries`"]);
    resume(&sandbox, &["--set", "foo.bar=1"]).expect_error(2, &["unknown key"]);
    resume(&sandbox, &["--set", "seed=4"])
        .expect_error(2, &["`seed` cannot change in an existing run"]);
    resume(&sandbox, &["--set", "threads=1"]).expect(0);
    assert_eq!(fs::read(journal(&sandbox.path("run"))).unwrap(), before);
}

#[test]
fn a_stage_that_has_passed_refuses_changes() {
    let sandbox = Sandbox::with_config(200);
    let mut child = begin(&sandbox, &["--quiet"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&sandbox.arg("run"), |event| event["kind"] == "stage_passed");
    child.kill().unwrap();
    child.wait().unwrap();
    resume(&sandbox, &["--set", "video_tokenizer.learning_rate=2e-3"]).expect_error(
        2,
        &[
            "`video_tokenizer` has passed",
            "from 0.001 to 0.002",
            "--init-from video_tokenizer=",
        ],
    );
}

/// A run whose log ends just before the decision of its first gate, as after a kill.
fn before_a_gate() -> Sandbox {
    let sandbox = Sandbox::with_config(200);
    begin(&sandbox, &["--stage", VIDEO, "--quiet"])
        .output()
        .unwrap();
    let dir = sandbox.path("run");
    let events = records(&dir);
    let end = events
        .iter()
        .position(|record| matches!(record.event, Event::GateDecided(_)))
        .unwrap();
    let events: Vec<(u64, Event)> = events
        .into_iter()
        .take(end)
        .map(|record| (record.time_ms, record.event))
        .collect();
    fs::remove_dir_all(dir.join("log")).unwrap();
    let store = Store::create(&dir, "cut").unwrap();
    store
        .append(Seq::FIRST, &events, Durability::Durable)
        .unwrap();
    store.close().unwrap();
    sandbox
}

#[test]
fn a_pending_gate_is_printed_once_even_if_a_resume_fails() {
    let sandbox = before_a_gate();
    let (here, away) = (sandbox.path("frames.npy"), sandbox.path("moved.npy"));
    fs::rename(&here, &away).unwrap();
    let mut printed = String::new();
    for _ in 0..2 {
        printed += &resume(&sandbox, &["--json", "--quiet"]).expect(2).stdout;
    }
    fs::rename(&away, &here).unwrap();
    printed += &resume(&sandbox, &["--json", "--quiet"]).expect(0).stdout;
    printed += &resume(&sandbox, &["--json", "--quiet"]).expect(0).stdout;
    let gates: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<u64> = gates
        .iter()
        .map(|gate| gate["gate_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [20, 40], "{printed}");
    run(["replay", &sandbox.arg("run")]).expect(0);
}

#[test]
fn a_refused_resume_records_nothing() {
    let sandbox = killed();
    let newest = accepted(&sandbox).pop().unwrap();
    fs::remove_dir_all(sandbox.path("run").join(newest)).unwrap();
    let before = fs::read(journal(&sandbox.path("run"))).unwrap();
    resume(&sandbox, &["--give-up", "--set", "sed=4"]).expect_error(2, &["unknown key `sed`"]);
    resume(&sandbox, &["--give-up", "--retries", "1"]).expect_error(2, &["no stage of this run"]);
    fs::rename(sandbox.path("frames.npy"), sandbox.path("moved.npy")).unwrap();
    resume(&sandbox, &["--give-up"]).expect(2);
    assert_eq!(fs::read(journal(&sandbox.path("run"))).unwrap(), before);
}

#[test]
fn prune_lists_checkpoints_and_records_deletions() {
    let sandbox = Sandbox::with_config(200);
    begin(&sandbox, &["--quiet"]).output().unwrap();
    let dir = sandbox.arg("run");
    let whole = fs::read(journal(&sandbox.path("run"))).unwrap();
    let hinted = run(["prune", &dir, "--keep", "0"]).expect(0);
    assert!(
        hinted.stderr.contains("--keep 0 --delete"),
        "{}",
        hinted.stderr
    );
    let listed = run(["prune", &dir, "--keep", "0", "--json"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let paths: Vec<String> = listed["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect();
    assert!(!paths.is_empty());
    assert!(1000 < listed["bytes"].as_u64().unwrap());
    assert_eq!(listed["deleted"], false);
    let there = |path: &String| sandbox.path("run").join(path).is_dir();
    assert!(paths.iter().all(there));
    assert_eq!(fs::read(journal(&sandbox.path("run"))).unwrap(), whole);

    let done = run(["prune", &dir, "--keep", "0", "--delete"]).expect(0);
    assert!(
        done.stdout.contains(&format!("deleted `{}`", paths[0])),
        "{}",
        done.stdout
    );
    assert!(!paths.iter().any(there));
    let recorded: Vec<String> = records(&sandbox.path("run"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::CheckpointDeleted(deleted) => Some(deleted.checkpoint.path),
            _ => None,
        })
        .collect();
    assert!(paths.iter().all(|path| recorded.contains(path)));
    // The best checkpoints stay, and those that passed.
    for stage in [VIDEO, "latent_actions", "dynamics"] {
        let best = sandbox.path("run").join(stage).join("best");
        assert!(best.join("model_state_dict.pt").is_file(), "{stage}");
    }
    run(["replay", &dir]).expect(0);
    let again = run(["prune", &dir, "--keep", "0", "--delete"]).expect(0);
    assert!(
        again.stdout.contains("nothing to delete"),
        "{}",
        again.stdout
    );
}

#[test]
fn an_interrupted_run_can_be_resumed_after_pruning() {
    let sandbox = killed();
    run(["prune", &sandbox.arg("run"), "--keep", "0", "--delete"]).expect(0);
    resume(&sandbox, &END_SOON).expect(0);
    run(["replay", &sandbox.arg("run")]).expect(0);
}

#[test]
fn pruning_a_missing_run_is_an_error() {
    let sandbox = Sandbox::new();
    run(["prune", &sandbox.arg("away")]).expect_error(2, &["does not exist"]);
    assert!(!sandbox.path("away").exists());
}
