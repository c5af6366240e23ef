//! `repair` on run directories that were damaged, forked, forged, and killed in the
//! middle of it.

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
use std::process::Stdio;

use support::{Place, journal, made_newer, run, scripted, tinygate};
use tinygate::events::{Action, Event, InterruptReason, Record, RunInterrupted, Seq};
use tinygate::presets::ModelKind;
use tinygate::store::{Durability, EventLog, LogFile, Store};
use tinygate_testing::{ChunkPlan, Curve, Script, short_policy};

/// A finished run whose trainer was a script.
fn finished() -> (Place, PathBuf) {
    let place = Place::with_config(200);
    let run = scripted(&place, "run", short_policy(), Script::new(1));
    (place, run)
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn records(run: &Path) -> Vec<Record> {
    let log = LogFile::open(run).unwrap();
    log.records().map(Result::unwrap).collect()
}

/// Copies the folders and files that a log is made of.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file of a folder with its bytes.
fn all_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                files.push((entry.path(), bytes));
            }
        }
    }
    files.sort();
    files
}

fn flip_the_middle(run: &Path) {
    let mut bytes = fs::read(journal(run)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(journal(run), bytes).unwrap();
}

fn fact(detail: String) -> Event {
    let reason = InterruptReason::Environment { detail };
    Event::RunInterrupted(RunInterrupted { reason })
}

fn append(run: &Path, event: Event) {
    let (store, _) = Store::open(run).unwrap();
    let head = store.head();
    store
        .append(head, &[(1, event)], Durability::Durable)
        .unwrap();
    store.close().unwrap();
}

#[test]
fn a_sound_log_needs_nothing() {
    let (_place, dir) = finished();
    let before = fs::read(journal(&dir)).unwrap();
    let done = run(["repair", arg(&dir)]).expect(0);
    assert!(done.stderr.contains("nothing to repair"), "{}", done.stderr);
    assert_eq!(fs::read(journal(&dir)).unwrap(), before);
}

#[test]
fn a_damaged_journal_is_written_anew_and_that_is_on_record() {
    let (_place, dir) = finished();
    let whole = records(&dir);
    flip_the_middle(&dir);
    let damaged = fs::read(journal(&dir)).unwrap();

    let before = all_files(&dir);
    let tried = run(["repair", arg(&dir), "--dry-run"]).expect(0);
    assert!(
        tried.stderr.contains("nothing here was changed"),
        "{}",
        tried.stderr
    );
    assert_eq!(all_files(&dir), before, "a rehearsal changes nothing");

    let done = run(["repair", arg(&dir)]).expect(0);
    let words: Vec<&str> = tried.stderr.lines().skip(1).collect();
    let said: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(words.len(), said.len());
    for (word, said) in words.iter().zip(&said) {
        assert_eq!(word, said, "the rehearsal says what is done");
    }
    let kept = fs::read(dir.join("quarantine/1-journal")).unwrap();
    assert!(damaged.ends_with(&kept));
    let after = records(&dir);
    assert_eq!(after[..whole.len()], whole);
    assert_eq!(after.len(), whole.len() + 1);
    assert_eq!(after[whole.len()].event.kind(), "store_repaired");
    run(["replay", arg(&dir)]).expect(0);
    let again = run(["repair", arg(&dir)]).expect(0);
    assert!(
        again.stderr.contains("nothing to repair"),
        "{}",
        again.stderr
    );
    assert_eq!(records(&dir), after);
}

#[test]
fn a_loss_is_accepted_by_a_person_only() {
    let (_place, dir) = finished();
    let whole = records(&dir);
    flip_the_middle(&dir);
    fs::remove_dir_all(dir.join("log/sled")).unwrap();
    let before = all_files(&dir);
    for command in ["resume", "repair"] {
        run([command, arg(&dir)]).expect_error(3, &["damaged", "--accept-loss"]);
    }
    run(["repair", arg(&dir), "--dry-run"]).expect(3);
    let names = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<(PathBuf, Vec<u8>)> {
        let lock = |path: &Path| path.ends_with("lock");
        files.into_iter().filter(|(path, _)| !lock(path)).collect()
    };
    assert_eq!(names(all_files(&dir)), names(before), "nothing was changed");

    let done = run(["repair", arg(&dir), "--accept-loss"]).expect(0);
    assert!(
        done.stderr.contains("were given up on request"),
        "{}",
        done.stderr
    );
    let after = records(&dir);
    let kept = after
        .iter()
        .take_while(|record| record.event.kind() != "store_repaired");
    let kept = kept.count();
    assert!(0 < kept && kept < whole.len());
    assert_eq!(after[..kept], whole[..kept]);
    run(["replay", arg(&dir)]).expect(0);
    assert!(dir.join("quarantine/1-journal").is_file());
}

/// Two runs that were one: the journal of the first, the sled of the second.
fn forked() -> (Place, PathBuf, usize) {
    let (place, dir) = finished();
    let other = place.path("other");
    copy(&dir, &other);
    append(&dir, fact("ours".to_owned()));
    append(&other, fact("theirs".to_owned()));
    fs::remove_dir_all(dir.join("log/sled")).unwrap();
    copy(&other.join("log/sled"), &dir.join("log/sled"));
    let events = records(&dir).len();
    (place, dir, events)
}

#[test]
fn of_two_whole_copies_none_is_chosen_in_silence() {
    for (keep, text) in [("journal", "ours"), ("sled", "theirs")] {
        let (_place, dir, events) = forked();
        for command in [&["repair"][..], &["resume"], &["repair", "--accept-loss"]] {
            let args = [command, &[arg(&dir)]].concat();
            run(args).expect_error(3, &["differ at event", "journal: ", "sled: ", "--keep"]);
        }
        assert!(!dir.join("quarantine").exists());
        let done = run(["repair", arg(&dir), "--keep", keep]).expect(0);
        assert!(
            done.stderr.contains("was kept on request"),
            "{}",
            done.stderr
        );
        let after = records(&dir);
        assert_eq!(after.len(), events + 1, "and what was done");
        assert_eq!(after[events - 1].event, fact(text.to_owned()));
        let aside = dir.join("quarantine");
        assert_eq!(fs::read_dir(aside).unwrap().count(), 1);
        run(["replay", arg(&dir)]).expect(0);
    }
}

/// Whoever computes every checksum anew is found by computing the decisions anew.
#[test]
fn an_edited_decision_is_no_damage_and_is_found_by_replay() {
    let place = Place::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).chunk("video_tokenizer", 1, bad);
    let dir = scripted(&place, "run", short_policy(), script);
    let mut events = records(&dir);
    let failed = events
        .iter_mut()
        .find_map(|record| match &mut record.event {
            Event::GateDecided(gate) if gate.decision == Action::Retune => Some(gate),
            _ => None,
        });
    let gate = failed.unwrap();
    gate.decision = Action::Continue;
    gate.failures = 0;
    let forged = place.path("forged");
    let store = Store::create(&forged, "scripted").unwrap();
    for record in events {
        let append = [(record.time_ms, record.event)];
        store.append(record.seq, &append, Durability::Lazy).unwrap();
    }
    store.close().unwrap();
    let done = run(["repair", arg(&forged)]).expect(0);
    assert!(done.stderr.contains("nothing to repair"), "{}", done.stderr);
    let found = run(["replay", arg(&forged)]).expect(1);
    assert!(found.stdout.contains("gate_decided"), "{}", found.stdout);
    run(["replay", arg(&dir)]).expect(0);
}

#[test]
fn what_cannot_be_repaired_has_its_code() {
    let (place, dir) = finished();
    run(["repair", &place.arg("none")]).expect_error(2, &["no run"]);
    run(["repair", &place.arg("none"), "--dry-run"]).expect_error(2, &["no run"]);
    fs::create_dir(place.path("empty")).unwrap();
    run(["repair", &place.arg("empty"), "--dry-run"]).expect_error(2, &["no run"]);
    Store::create(&place.path("no-events"), "x")
        .unwrap()
        .close()
        .unwrap();
    run(["repair", &place.arg("no-events")]).expect_error(2, &["no run"]);

    let (store, _) = Store::open(&dir).unwrap();
    run(["repair", arg(&dir)]).expect_error(2, &["has this run open"]);
    run(["repair", arg(&dir), "--dry-run"]).expect_error(2, &["has this run open"]);
    drop(store);

    let newer = made_newer(&fs::read(journal(&dir)).unwrap());
    fs::write(journal(&dir), &newer).unwrap();
    for wish in [
        &[][..],
        &["--accept-loss"],
        &["--keep", "sled"],
        &["--dry-run"],
    ] {
        let args = [&["repair", arg(&dir)][..], wish].concat();
        run(args).expect_error(4, &["newer build"]);
    }
    assert_eq!(fs::read(journal(&dir)).unwrap(), newer);
}

/// What a killed repair leaves behind, as seen from outside.
type Sign = (&'static str, fn(&Path) -> bool);

const SIGNS: [Sign; 5] = [
    ("it has just begun", |_| true),
    ("bytes are put aside", |run| run.join("quarantine").exists()),
    ("a new journal is begun", |run| {
        run.join("log/journal.tgj.new").exists()
    }),
    ("a new journal is half there", |run| {
        let length = fs::metadata(run.join("log/journal.tgj.new")).map(|file| file.len());
        length.is_ok_and(|length| length > 1 << 20)
    }),
    ("sled is made anew", |run| {
        run.join("quarantine/2-sled").exists()
    }),
];

#[test]
fn a_killed_repair_is_ended_by_the_next() {
    let place = Place::new();
    let whole = place.path("whole");
    let store = Store::create(&whole, "large").unwrap();
    let mut head = Seq::FIRST;
    for at in 0..3000 {
        let events: Vec<(u64, Event)> = (0..4)
            .map(|n| (at, fact(format!("{at}.{n} {}", "and so on ".repeat(20)))))
            .collect();
        head = store.append(head, &events, Durability::Lazy).unwrap();
    }
    store.close().unwrap();
    let events = records(&whole);
    // both copies, at different places
    let mut bytes = fs::read(journal(&whole)).unwrap();
    bytes[100_000] ^= 1;
    fs::write(journal(&whole), &bytes).unwrap();
    let db = whole.join("log/sled/db");
    let mut sled = fs::read(&db).unwrap();
    let late = sled.len() - 1_500_000;
    sled[late] ^= 1;
    fs::write(&db, sled).unwrap();
    let want = place.path("want");
    copy(&whole, &want);
    let first = run(["repair", arg(&want), "--accept-loss"]).expect(0);
    let sound = records(&want);
    let kept = sound
        .iter()
        .zip(&events)
        .take_while(|(a, b)| a == b)
        .count();

    let mut killed = 0;
    for (name, sign) in SIGNS {
        let dir = place.path("killed");
        copy(&whole, &dir);
        let mut child = tinygate()
            .args(["repair", arg(&dir), "--accept-loss"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !sign(&dir) && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        killed += u32::from(child.wait().unwrap().code().is_none());
        run(["repair", arg(&dir), "--accept-loss"]).expect(0);
        let after = records(&dir);
        let same = after
            .iter()
            .zip(&events)
            .take_while(|(a, b)| a == b)
            .count();
        assert_eq!(same, kept, "{name}: {}", first.stderr);
        let again = run(["repair", arg(&dir)]).expect(0);
        assert!(again.stderr.contains("nothing to repair"), "{name}");
        fs::remove_dir_all(&dir).unwrap();
    }
    assert!(killed > 0, "no repair was killed before its end");
}
