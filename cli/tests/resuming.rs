//! What a resume does with checkpoints that are missing, changes that cannot be made, and commands
//! that a queue gives again; and how disk space is made.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]
#![cfg(feature = "train")]

mod support;

use std::fs;
use std::process::Stdio;

use serde_json::Value;
use support::{Done, Place, folded, journal, records, run, scripted, tinygate, wait_for};
use tinygate::events::{Event, Seq, SettingKey, StageName};
use tinygate::machine::{Judgement, Machine};
use tinygate::store::{Durability, EventLog, LogFile, Store};
use tinygate_testing::{Script, short_policy};

const VIDEO: &str = "video_tokenizer";

/// The video stage, long enough to be killed inside its second chunk.
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

fn begin(place: &Place, more: &[&str]) -> std::process::Command {
    let mut command = tinygate();
    command
        .args(["run", &place.config(), "--dir", &place.arg("run")])
        .args(more);
    command
}

/// A run of the video stage, killed after its first gate.
fn killed() -> Place {
    killed_after(40)
}

/// Until the kill leaves no checkpoint without a verdict, which a resume may accept.
fn killed_after(step: u64) -> Place {
    loop {
        let place = killed_anywhere_after(step);
        let state = folded(&records(&place.path("run")));
        let stage = state.stage_named(&StageName::new(VIDEO)).unwrap();
        if stage
            .lineage
            .present()
            .all(|one| one.judgement != Judgement::Pending)
        {
            return place;
        }
    }
}

fn killed_anywhere_after(step: u64) -> Place {
    let place = Place::with_config(200);
    let mut child = begin(&place, &LONG)
        .arg("--quiet")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let wanted = |event: &Value| event["kind"] == "checkpoint_judged" && step < step_of(event);
    wait_for(&place.arg("run"), wanted);
    child.kill().unwrap();
    child.wait().unwrap();
    place
}

fn step_of(event: &Value) -> u64 {
    event["checkpoint"]["step"].as_u64().unwrap_or(0)
}

fn resume(place: &Place, more: &[&str]) -> Done {
    let dir = place.arg("run");
    run(["resume", dir.as_str()].iter().chain(more))
}

/// Paths of the accepted checkpoints that a resume may start from, oldest first.
fn accepted(place: &Place) -> Vec<String> {
    let state = folded(&records(&place.path("run")));
    let stage = state.stage_named(&StageName::new(VIDEO)).unwrap();
    let usable = stage.lineage.present().filter(|one| one.is_usable());
    usable.map(|one| one.reference.path.clone()).collect()
}

fn given_up(place: &Place) -> Vec<(String, String)> {
    let events = records(&place.path("run")).into_iter();
    events
        .filter_map(|record| match record.event {
            Event::CheckpointGivenUp(event) => Some((event.checkpoint.path, event.who)),
            _ => None,
        })
        .collect()
}

/// The run is made shorter, so that it ends.
const END_SOON: [&str; 2] = ["--set", "video_tokenizer.n_updates=280"];

#[test]
fn a_missing_checkpoint_is_given_up_only_when_a_person_says_so() {
    let place = killed();
    let before = accepted(&place);
    let [.., older, newest] = &before[..] else {
        panic!("{before:?}");
    };
    fs::remove_dir_all(place.path("run").join(newest)).unwrap();
    for _ in 0..2 {
        resume(&place, &[]).expect_error(2, &[newest, older, "--give-up"]);
    }
    assert_eq!(given_up(&place), []);
    let done = resume(
        &place,
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
    assert_eq!(given_up(&place), [(newest.clone(), "somebody".to_owned())]);
    // Inside its chunk, or by a chunk of its own where the one before began at what is missing.
    let resumed = records(&place.path("run"))
        .into_iter()
        .skip_while(|record| !matches!(record.event, Event::CheckpointGivenUp(_)))
        .find_map(|record| match record.event {
            Event::SamplesSuperseded(event) => Some(event.resume_from.unwrap().path),
            Event::ChunkStarted(event) => Some(event.resume_from.unwrap().path),
            _ => None,
        });
    assert_eq!(resumed.as_ref(), Some(older));
    run(["replay", &place.arg("run")]).expect(0);
}

#[test]
fn a_checkpoint_with_a_missing_file_is_missing() {
    let place = killed();
    let newest = accepted(&place).pop().unwrap();
    let file = place.path("run").join(&newest).join("optim_state_dict.pt");
    fs::remove_file(file).unwrap();
    resume(&place, &[]).expect_error(2, &[&newest, "--give-up"]);
}

#[test]
fn the_last_checkpoint_cannot_be_given_up() {
    let place = killed();
    fs::remove_dir_all(place.path("run/video_tokenizer/checkpoints")).unwrap();
    for more in [&[][..], &["--give-up"]] {
        resume(&place, more).expect_error(2, &["every accepted checkpoint of `video_tokenizer`"]);
    }
    assert_eq!(given_up(&place), []);
}

/// Events in the middle are whole in neither copy.
fn damage_both_copies(place: &Place) {
    let log = journal(&place.path("run"));
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, bytes).unwrap();
    fs::remove_dir_all(place.path("run/log/sled")).unwrap();
}

#[test]
fn a_loss_that_is_accepted_takes_the_checkpoints_that_went_with_it() {
    let place = killed_after(200);
    damage_both_copies(&place);
    let dir = place.arg("run");
    run(["resume", &dir]).expect_error(3, &["--accept-loss"]);
    // The events behind the damage let go what the events before it still count on.
    let sound = LogFile::open(&place.path("run")).unwrap().records();
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
    // Retention may have deleted it already, by an event that is lost.
    let _ = fs::remove_dir_all(place.path("run").join(&newest));
    let tried = run(["repair", &dir, "--accept-loss", "--dry-run"]).expect(0);
    assert!(
        tried
            .stderr
            .contains(&format!("`{newest}` would be given up")),
        "{}",
        tried.stderr
    );
    run(["repair", &dir, "--accept-loss"]).expect(0);
    let lost = given_up(&place);
    assert!(lost.contains(&(newest, "somebody".to_owned())), "{lost:?}");
    let there = |path: &str| place.path("run").join(path).exists();
    assert!(!lost.iter().any(|(path, _)| there(path)), "{lost:?}");
    resume(&place, &END_SOON).expect(0);
    run(["replay", &dir]).expect(0);
}

#[test]
fn a_repair_that_loses_nothing_gives_up_nothing() {
    let place = killed();
    let newest = accepted(&place).pop().unwrap();
    fs::remove_dir_all(place.path("run").join(&newest)).unwrap();
    run(["repair", &place.arg("run"), "--accept-loss"]).expect(0);
    assert_eq!(given_up(&place), []);
}

#[test]
fn nothing_is_pruned_while_checkpoints_are_missing() {
    let place = killed();
    let newest = accepted(&place).pop().unwrap();
    fs::remove_dir_all(place.path("run").join(&newest)).unwrap();
    run(["prune", &place.arg("run"), "--keep", "0", "--delete"])
        .expect_error(2, &[&newest, "--give-up"]);
}

#[test]
fn giving_up_where_nothing_is_missing_changes_nothing() {
    let place = killed();
    let done = resume(
        &place,
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
    assert_eq!(given_up(&place), []);
}

#[test]
fn a_command_that_a_queue_gives_again_resumes() {
    let place = Place::with_config(200);
    let rate = ["--or-resume", "--set", "video_tokenizer.learning_rate=5e-5"];
    let more: Vec<&str> = LONG.iter().chain(&rate).copied().collect();
    let mut child = begin(&place, &more)
        .arg("--quiet")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&place.arg("run"), |event| event["kind"] == "gate_decided");
    child.kill().unwrap();
    child.wait().unwrap();
    // What a ladder or a person made of a setting since is not undone by the same command.
    resume_and_kill(&place, "video_tokenizer.checkpoint_interval=20");
    resume_and_kill(&place, "video_tokenizer.learning_rate=1e-5");
    // Somebody edits the config meanwhile.
    let edited = support::CONFIG.replace("seed = 3", "seed = 4").replacen(
        "log_interval = 5",
        "log_interval = 4",
        1,
    );
    place.write("config.toml", edited);
    let mut child = begin(&place, &more)
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
    let changes = records(&place.path("run"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::SettingChanged(event) => Some(event.key),
            _ => None,
        });
    assert_eq!(
        changes.collect::<Vec<_>>(),
        [SettingKey::CheckpointInterval, SettingKey::LearningRate],
        "what the command sets was set before"
    );
}

/// Resumes with a change, and is killed after the next gate.
fn resume_and_kill(place: &Place, set: &str) {
    let before = records(&place.path("run")).len() as u64;
    let mut child = tinygate()
        .args(["resume", &place.arg("run"), "--quiet", "--set", set])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let gate =
        |event: &Value| event["kind"] == "gate_decided" && before <= event["seq"].as_u64().unwrap();
    wait_for(&place.arg("run"), gate);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_queue_may_give_what_a_run_began_from_again() {
    let place = Place::with_config(200);
    run([
        "run",
        &place.config(),
        "--dir",
        &place.arg("first"),
        "--stage",
        VIDEO,
        "--quiet",
    ])
    .expect(0);
    let given = place.path("first/video_tokenizer/checkpoints/video_tokenizer_step_36");
    let init = format!("{VIDEO}={}", given.display());
    let (parent, dir) = (place.arg("first"), place.arg("run"));
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
    // Neither is needed again.
    fs::remove_dir_all(place.path("first")).unwrap();
    let again = command().expect(0);
    assert!(again.stderr.contains("has finished"), "{}", again.stderr);
    let longer = [
        "--quiet",
        "--or-resume",
        "--set",
        "video_tokenizer.n_updates=400",
    ];
    Done::of(begin(&place, &longer).output().unwrap()).expect_error(
        2,
        &[
            "`video_tokenizer` has passed",
            "`video_tokenizer.n_updates`",
        ],
    );
}

#[test]
fn a_finished_run_refuses_changes() {
    let place = Place::with_config(200);
    scripted(&place, "run", short_policy(), Script::new(1));
    let before = fs::read(journal(&place.path("run"))).unwrap();
    resume(&place, &["--retries", "2"]).expect_error(2, &["`--retries`", "has finished"]);
    resume(&place, &["--set", "dynamics.n_updates=400"])
        .expect_error(2, &["`dynamics.n_updates`", "--init-from dynamics="]);
    resume(&place, &["--set", "policy.max_retries=9"])
        .expect_error(2, &["the run has finished", "`policy.max_retries`"]);
    resume(&place, &["--set", "foo.bar=1"]).expect_error(2, &["unknown key"]);
    resume(&place, &["--set", "seed=4"])
        .expect_error(2, &["`seed` cannot change in an existing run"]);
    resume(&place, &["--set", "threads=1"]).expect(0);
    assert_eq!(fs::read(journal(&place.path("run"))).unwrap(), before);
}

#[test]
fn a_stage_that_has_passed_refuses_changes() {
    let place = Place::with_config(200);
    let mut child = begin(&place, &["--quiet"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&place.arg("run"), |event| event["kind"] == "stage_passed");
    child.kill().unwrap();
    child.wait().unwrap();
    resume(&place, &["--set", "video_tokenizer.learning_rate=2e-3"]).expect_error(
        2,
        &[
            "`video_tokenizer` has passed",
            "from 0.001 to 0.002",
            "--init-from video_tokenizer=",
        ],
    );
}

/// A run whose log ends just before its first gate is decided, as a kill there leaves it.
fn before_a_gate() -> Place {
    let place = Place::with_config(200);
    begin(&place, &["--stage", VIDEO, "--quiet"])
        .output()
        .unwrap();
    let dir = place.path("run");
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
    place
}

#[test]
fn a_gate_that_the_last_process_left_is_printed_once_also_where_a_resume_fails() {
    let place = before_a_gate();
    let (here, away) = (place.path("frames.npy"), place.path("moved.npy"));
    fs::rename(&here, &away).unwrap();
    let mut printed = String::new();
    for _ in 0..2 {
        printed += &resume(&place, &["--json", "--quiet"]).expect(2).stdout;
    }
    fs::rename(&away, &here).unwrap();
    printed += &resume(&place, &["--json", "--quiet"]).expect(0).stdout;
    printed += &resume(&place, &["--json", "--quiet"]).expect(0).stdout;
    let gates: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let steps: Vec<u64> = gates
        .iter()
        .map(|gate| gate["gate_step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [20, 40], "{printed}");
    run(["replay", &place.arg("run")]).expect(0);
}

#[test]
fn what_is_refused_records_nothing() {
    let place = killed();
    let newest = accepted(&place).pop().unwrap();
    fs::remove_dir_all(place.path("run").join(newest)).unwrap();
    let before = fs::read(journal(&place.path("run"))).unwrap();
    resume(&place, &["--give-up", "--set", "sed=4"]).expect_error(2, &["unknown key `sed`"]);
    resume(&place, &["--give-up", "--retries", "1"]).expect_error(2, &["no stage of this run"]);
    fs::rename(place.path("frames.npy"), place.path("moved.npy")).unwrap();
    resume(&place, &["--give-up"]).expect(2);
    assert_eq!(fs::read(journal(&place.path("run"))).unwrap(), before);
}

#[test]
fn pruning_lists_first_and_deletes_on_record() {
    let place = Place::with_config(200);
    begin(&place, &["--quiet"]).output().unwrap();
    let dir = place.arg("run");
    let whole = fs::read(journal(&place.path("run"))).unwrap();
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
    let there = |path: &String| place.path("run").join(path).is_dir();
    assert!(paths.iter().all(there));
    assert_eq!(fs::read(journal(&place.path("run"))).unwrap(), whole);

    let done = run(["prune", &dir, "--keep", "0", "--delete"]).expect(0);
    assert!(
        done.stdout.contains(&format!("deleted `{}`", paths[0])),
        "{}",
        done.stdout
    );
    assert!(!paths.iter().any(there));
    let recorded: Vec<String> = records(&place.path("run"))
        .into_iter()
        .filter_map(|record| match record.event {
            Event::CheckpointDeleted(deleted) => Some(deleted.checkpoint.path),
            _ => None,
        })
        .collect();
    assert!(paths.iter().all(|path| recorded.contains(path)));
    // What is handed on and what is best stays.
    for stage in [VIDEO, "latent_actions", "dynamics"] {
        let best = place.path("run").join(stage).join("best");
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
fn pruning_an_interrupted_run_lets_it_resume() {
    let place = killed();
    run(["prune", &place.arg("run"), "--keep", "0", "--delete"]).expect(0);
    resume(&place, &END_SOON).expect(0);
    run(["replay", &place.arg("run")]).expect(0);
}

#[test]
fn pruning_where_no_run_is_says_so() {
    let place = Place::new();
    run(["prune", &place.arg("away")]).expect_error(2, &["does not exist"]);
    assert!(!place.path("away").exists());
}
