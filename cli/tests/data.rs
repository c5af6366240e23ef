//! What is checked and reported about the data when a run is created, and when it is resumed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Sandbox, created_run, npy, run, scripted};
use tinygate::store::EventLog;
use tinygate_testing::{Script, short_policy};

fn start(sandbox: &Sandbox, more: &[&str]) -> support::Done {
    let (config, dir) = (sandbox.config(), sandbox.arg("run"));
    let args = ["run", &config, "--dir", &dir];
    run(args.iter().chain(more))
}

/// An npy file of 200 frames in which all bytes are equal.
fn constant(byte: u8) -> Vec<u8> {
    let mut file = npy(200);
    let header = file.len() - 200 * 64 * 64 * 3;
    file[header..].fill(byte);
    file
}

#[test]
fn frames_that_never_change_are_refused_and_leave_nothing_behind() {
    let sandbox = Sandbox::with_config(200);
    sandbox.write("frames.npy", constant(9));
    let texts = ["the same picture, every pixel [9, 9, 9]", "hint: "];
    let done = start(&sandbox, &[]).expect_error(2, &texts);
    assert_eq!(done.stdout, "");
    start(&sandbox, &["--stage", "video_tokenizer"]).expect_error(2, &texts);
    run(["run", &sandbox.config(), "--dry-run"]).expect_error(2, &texts);
    assert!(!sandbox.path("run").exists());
}

/// Creates a run with the data of `sandbox` that has not started to train.
fn created(sandbox: &Sandbox) {
    let (store, created) = created_run(sandbox, "run", short_policy());
    let durable = tinygate::store::Durability::Durable;
    let event = (1_700_000_000_000, created);
    store.append(store.head(), &[event], durable).unwrap();
    store.close().unwrap();
}

#[track_caller]
fn resume(sandbox: &Sandbox, text: &str) {
    let done = run(["resume", &sandbox.arg("run")]).expect(2);
    assert!(
        done.stderr.contains(text),
        "no `{text}` in:\n{}",
        done.stderr
    );
}

/// An older build that did not check its data created the run. Without a trainer, resuming ends here.
#[cfg(not(feature = "train"))]
#[test]
fn an_existing_run_may_have_data_that_never_changes() {
    let sandbox = Sandbox::with_config(200);
    sandbox.write("frames.npy", constant(9));
    created(&sandbox);
    resume(&sandbox, "no trainer");
}

#[test]
fn other_data_is_reported_with_what_differs() {
    let sandbox = Sandbox::with_config(200);
    created(&sandbox);
    sandbox.write("frames.npy", npy(201));
    resume(&sandbox, "it has 201 frames, the log says 200");
    fs::remove_file(sandbox.path("frames.npy")).unwrap();
    resume(&sandbox, "no file or folder");
}

#[test]
fn the_first_event_describes_the_data() {
    let sandbox = Sandbox::with_config(200);
    scripted(&sandbox, "run", short_policy(), Script::new(1));
    let json = run(["log", &sandbox.arg("run"), "--json"]).expect(0).stdout;
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    let recordings = &first["dataset"]["recordings"];
    assert!(
        recordings[0]["path"]
            .as_str()
            .unwrap()
            .ends_with("frames.npy"),
        "{first}"
    );
    assert_eq!(recordings[0]["frames"], 200);
    assert_eq!(
        (&recordings[0]["height"], &recordings[0]["width"]),
        (&64.into(), &64.into())
    );
    let log = run(["log", &sandbox.arg("run")]).expect(0).stdout;
    let first = log.lines().next().unwrap();
    assert!(first.contains("200 frames in 1 recording"), "{first}");
}
