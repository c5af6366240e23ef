//! The program `tinygate-audit`, run as a child process.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tinygate_replay::{Outcome, audit_file};
use tinygate_words::audit_text;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tinygate-audit"))
        .args(arguments)
        .output()
        .unwrap()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../logs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn each_recorded_log_gets_the_result_of_the_library() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "tgj") {
            continue;
        }
        let audit = audit_file(&path);
        let name = path.to_str().unwrap();
        let output = run(&[name]);
        assert_eq!(
            text(&output.stdout),
            format!("{name}: {}", audit_text(&audit))
        );
        assert_eq!(
            output.status.code(),
            Some(i32::from(audit.outcome.exit_code())),
            "{name}"
        );
        let json: serde_json::Value =
            serde_json::from_slice(&run(&["--json", name]).stdout).unwrap();
        assert_eq!(json["log"], name);
        assert_eq!(
            json["outcome"],
            serde_json::to_value(audit.outcome).unwrap()
        );
        seen += 1;
    }
    assert!(20 < seen, "{seen} logs");
}

#[test]
fn the_most_severe_outcome_of_a_folder_counts() {
    let folder = folder();
    let output = run(&["--json", folder.to_str().unwrap()]);
    let damaged = i32::from(Outcome::Damaged.exit_code());
    assert_eq!(output.status.code(), Some(damaged));
    let lines = text(&output.stdout).lines().count();
    let logs = tinygate_replay::places::logs(&folder).unwrap().len();
    assert_eq!(lines, logs);
}

#[track_caller]
fn check(name: &str, arguments: &[&str], code: i32, stderr: &str) {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(code), "{name}");
    assert_eq!(text(&output.stderr), stderr, "{name}");
    assert!(output.stdout.is_empty(), "{name}");
}

#[test]
fn wrong_usage_and_missing_logs_are_reported() {
    check(
        "no log",
        &[],
        2,
        "error: no log is given\n\nhint: tinygate-audit --help\n",
    );
    check(
        "an unknown option",
        &["--jsn", "x.tgj"],
        2,
        "error: unknown option `--jsn`\n\nhint: tinygate-audit --help\n",
    );
    check(
        "a file that is not there",
        &["--", "--json"],
        2,
        "error: there is nothing at `--json`\n\nhint: name run directories, exported logs, or folders of them\n",
    );
    let empty = tempfile::tempdir().unwrap();
    check(
        "a folder without logs",
        &[empty.path().to_str().unwrap()],
        5,
        "there is no log here, so nothing was checked\n",
    );
}
