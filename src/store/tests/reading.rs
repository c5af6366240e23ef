//! What needs no sled: reading and verifying logs, and telling whether there is one.

#![allow(clippy::unwrap_used)] // a test panics to fail

use std::fs;
use std::path::{Path, PathBuf};

use tinygate_store::{FILE_HEADER, LogFile, Presence, ReadErrorKind, presence};

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../replay/logs/v1-clean-pass.tgj")
}

/// A run directory whose journal has these bytes.
fn run(journal: &[u8]) -> tempfile::TempDir {
    let run = tempfile::tempdir().unwrap();
    fs::create_dir(run.path().join("log")).unwrap();
    fs::write(run.path().join("log/journal.tgj"), journal).unwrap();
    run
}

#[test]
fn a_log_is_read_to_its_end() {
    let mut log = LogFile::open(&recorded()).unwrap().records();
    let events = log.by_ref().map(Result::unwrap).count();
    assert!(events > 20, "{events}");
    assert_eq!(log.tail().unwrap(), None);
}

#[test]
fn a_flipped_bit_is_damage() {
    let mut journal = fs::read(recorded()).unwrap();
    let middle = journal.len() / 2;
    journal[middle] ^= 1;
    let run = run(&journal);
    let log = LogFile::open(run.path()).unwrap();
    let error = log.records().find_map(Result::err).unwrap();
    assert!(matches!(error.kind, ReadErrorKind::Damaged { .. }));
}

#[test]
fn a_log_is_told_from_the_remains_of_a_start() {
    let journal = fs::read(recorded()).unwrap();
    let check = |journal: &[u8], want: Presence| {
        assert_eq!(presence(run(journal).path()).unwrap(), want);
    };
    check(&journal, Presence::Log);
    check(&journal[..FILE_HEADER + 1], Presence::Remains);
    check(b"something else", Presence::Log);
    let nothing = tempfile::tempdir().unwrap();
    assert_eq!(presence(nothing.path()).unwrap(), Presence::Nothing);
}

/// A sled folder that may hold events is a log, although it cannot be opened here.
#[test]
fn a_sled_folder_is_judged_by_its_bytes() {
    let check = |name: &str, bytes: &[u8], want: Presence| {
        let run = tempfile::tempdir().unwrap();
        fs::create_dir_all(run.path().join("log/sled")).unwrap();
        fs::write(run.path().join("log/sled/db"), bytes).unwrap();
        assert_eq!(presence(run.path()).unwrap(), want, "{name}");
    };
    check("zeros", &[0; 9000], Presence::Remains);
    check("a few bytes", &[7; 100], Presence::Remains);
    check("a block", b"....TGBK....", Presence::Log);
}
