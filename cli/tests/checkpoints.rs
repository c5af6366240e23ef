//! `checkpoint verify`: each refusal by its own reason, and nothing executed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Place, run, workspace};

const NAME: &str = "video_tokenizer_step_149";

fn fixture() -> PathBuf {
    workspace().join("tests/fixtures/tinyworlds_checkpoint")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_checkpoint_of_tinyworlds_is_accepted_with_its_updates() {
    let path = fixture().join(NAME);
    let done = run(["checkpoint".as_ref(), "verify".as_ref(), path.as_os_str()]).expect(0);
    assert!(done.stdout.starts_with("accepted"), "{}", done.stdout);
    assert!(
        done.stdout.contains("foreign, 150 updates"),
        "{}",
        done.stdout
    );
}

#[track_caller]
fn check(folder: &str, code: &str) {
    let path = fixture().join("broken").join(folder).join(NAME);
    let before = listing(Path::new("."));
    let done = run(["checkpoint".as_ref(), "verify".as_ref(), path.as_os_str()]).expect(1);
    assert!(
        done.stdout.starts_with("refused"),
        "{folder}: {}",
        done.stdout
    );
    assert!(done.stdout.contains(code), "{folder}: {}", done.stdout);
    assert_eq!(listing(Path::new(".")), before, "{folder} made a file");
}

fn listing(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    names.sort();
    names
}

#[test]
fn each_broken_one_is_refused_by_its_reason() {
    check("empty_dicts", "empty_dict: ");
    check("executes", "foreign_code: ");
    check("missing_optimizer", "missing_file: `optim_state_dict.pt`");
    check("non_finite", "non_finite: ");
    check("not_a_checkpoint", "not_an_archive: ");
    check("truncated_zip", "truncated: ");
    let folders = listing(&fixture().join("broken"));
    assert_eq!(folders.len(), 6, "a new one needs a row: {folders:?}");
}

#[test]
fn a_model_file_under_1000_bytes_is_refused() {
    let place = Place::new();
    let small = place.path(NAME);
    copy(&fixture().join(NAME), &small);
    fs::write(small.join("model_state_dict.pt"), vec![0; 999]).unwrap();
    let done = run(["checkpoint".as_ref(), "verify".as_ref(), small.as_os_str()]).expect(1);
    assert!(
        done.stdout
            .contains("too_small: `model_state_dict.pt` has 999 bytes"),
        "{}",
        done.stdout
    );
}

#[test]
fn a_folder_is_searched_and_one_refusal_is_enough() {
    let done = run([
        "checkpoint".as_ref(),
        "verify".as_ref(),
        fixture().as_os_str(),
    ])
    .expect(1);
    let verdicts = |word: &str| {
        done.stdout
            .lines()
            .filter(|line| line.starts_with(word))
            .count()
    };
    assert_eq!(
        (verdicts("accepted"), verdicts("refused")),
        (1, 6),
        "{}",
        done.stdout
    );
}

#[test]
fn an_empty_folder_is_a_checkpoint_without_files() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let done = run(["checkpoint", "verify", &place.arg("empty")]).expect(1);
    assert!(done.stdout.contains("missing_file: "), "{}", done.stdout);
    run(["checkpoint", "verify", &place.arg("none")]).expect_error(2, &["cannot look into"]);
}
