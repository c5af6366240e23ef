//! What is said of the data before a run begins, and when it is resumed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use std::fs;

use serde_json::Value;
use support::{Place, created_run, npy, run, scripted};
use tinygate::store::EventLog;
use tinygate_testing::{Script, short_policy};

/// A dry run of a build with a trainer goes on to train; what it says of the data comes first.
fn start(place: &Place, more: &[&str]) -> support::Done {
    let (config, dir) = (place.config(), place.arg("run"));
    let args = ["run", &config, "--dir", &dir];
    run(args.iter().chain(more))
}

/// An npy of 200 frames in which every byte is this one.
fn constant(byte: u8) -> Vec<u8> {
    let mut file = npy(200);
    let header = file.len() - 200 * 64 * 64 * 3;
    file[header..].fill(byte);
    file
}

#[test]
fn frames_that_never_change_are_refused_and_leave_nothing_behind() {
    let place = Place::with_config(200);
    place.write("frames.npy", constant(9));
    let texts = ["the same picture, every pixel [9, 9, 9]", "hint: "];
    let done = start(&place, &[]).expect_error(2, &texts);
    assert_eq!(done.stdout, "");
    start(&place, &["--stage", "video_tokenizer"]).expect_error(2, &texts);
    run(["run", &place.config(), "--dry-run"]).expect_error(2, &texts);
    assert!(!place.path("run").exists());
}

/// A run of the data of `place` that has not begun to train.
fn created(place: &Place) {
    let (store, created) = created_run(place, "run", short_policy());
    let durable = tinygate::store::Durability::Durable;
    let event = (1_700_000_000_000, created);
    store.append(store.head(), &[event], durable).unwrap();
    store.close().unwrap();
}

#[track_caller]
fn resume(place: &Place, text: &str) {
    let done = run(["resume", &place.arg("run")]).expect(2);
    assert!(
        done.stderr.contains(text),
        "no `{text}` in:\n{}",
        done.stderr
    );
}

/// The run was created by a build that did not look; only one with a trainer gets further than this.
#[cfg(not(feature = "train"))]
#[test]
fn a_run_that_exists_is_not_asked_whether_its_data_changes() {
    let place = Place::with_config(200);
    place.write("frames.npy", constant(9));
    created(&place);
    resume(&place, "no trainer");
}

#[test]
fn other_data_is_described_by_what_differs() {
    let place = Place::with_config(200);
    created(&place);
    place.write("frames.npy", npy(201));
    resume(&place, "it has 201 frames, the log says 200");
    fs::remove_file(place.path("frames.npy")).unwrap();
    resume(&place, "no file or folder");
}

#[test]
fn the_first_event_says_what_was_read() {
    let place = Place::with_config(200);
    scripted(&place, "run", short_policy(), Script::new(1));
    let json = run(["log", &place.arg("run"), "--json"]).expect(0).stdout;
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
    let log = run(["log", &place.arg("run")]).expect(0).stdout;
    let first = log.lines().next().unwrap();
    assert!(first.contains("200 frames in 1 recording"), "{first}");
}
