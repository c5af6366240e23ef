//! `repair` of logs that are damaged, whose copies differ, that were edited, and whose repair
//! was killed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test panics at anything unexpected"
)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::{Sandbox, journal, run, scripted, tinygate, with_newer_version};
use tinygate::events::{Action, Event, InterruptReason, Record, RunInterrupted, Seq};
use tinygate::presets::ModelKind;
use tinygate::store::{Durability, EventLog, LogFile, Store};
use tinygate_testing::{ChunkPlan, Curve, Script, short_policy};

/// A finished run with a scripted trainer.
fn finished() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::with_config(200);
    let run = scripted(&sandbox, "run", short_policy(), Script::new(1));
    (sandbox, run)
}

fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn records(run: &Path) -> Vec<Record> {
    let log = LogFile::open(run).unwrap();
    log.records().map(Result::unwrap).collect()
}

/// Copies a folder with its subfolders and files.
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

/// Every file below a folder, with its bytes.
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
fn a_sound_log_needs_no_repair() {
    let (_sandbox, dir) = finished();
    let before = fs::read(journal(&dir)).unwrap();
    let done = run(["repair", arg(&dir)]).expect(0);
    assert!(done.stderr.contains("nothing to repair"), "{}", done.stderr);
    assert_eq!(fs::read(journal(&dir)).unwrap(), before);
}

#[test]
fn a_damaged_journal_is_rebuilt_and_the_repair_is_recorded() {
    let (_sandbox, dir) = finished();
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
    assert_eq!(all_files(&dir), before, "a dry run changed something");

    let done = run(["repair", arg(&dir)]).expect(0);
    let words: Vec<&str> = tried.stderr.lines().skip(1).collect();
    let said: Vec<&str> = done.stderr.lines().collect();
    assert_eq!(words.len(), said.len());
    for (word, said) in words.iter().zip(&said) {
        assert_eq!(word, said, "a dry run reports what a repair does");
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
fn a_loss_is_accepted_only_on_request() {
    let (_sandbox, dir) = finished();
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
    assert_eq!(
        names(all_files(&dir)),
        names(before),
        "something was changed"
    );

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

/// A log whose copies end with different events: the journal of one run, the sled of a copy of it.
fn forked() -> (Sandbox, PathBuf, usize) {
    let (sandbox, dir) = finished();
    let other = sandbox.path("other");
    copy(&dir, &other);
    append(&dir, fact("ours".to_owned()));
    append(&other, fact("theirs".to_owned()));
    fs::remove_dir_all(dir.join("log/sled")).unwrap();
    copy(&other.join("log/sled"), &dir.join("log/sled"));
    let events = records(&dir).len();
    (sandbox, dir, events)
}

#[test]
fn no_copy_is_chosen_silently_when_both_are_sound() {
    for (keep, text) in [("journal", "ours"), ("sled", "theirs")] {
        let (_sandbox, dir, events) = forked();
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
        assert_eq!(after.len(), events + 1, "the repair is one more event");
        assert_eq!(after[events - 1].event, fact(text.to_owned()));
        let aside = dir.join("quarantine");
        assert_eq!(fs::read_dir(aside).unwrap().count(), 1);
        run(["replay", arg(&dir)]).expect(0);
    }
}

/// An edit with valid checksums is found by recomputing the decisions.
#[test]
fn an_edited_decision_is_not_damage_but_found_by_replay() {
    let sandbox = Sandbox::with_config(200);
    let bad = ChunkPlan::good(ModelKind::VideoTokenizer).loss(Curve::flat(0.5));
    let script = Script::new(1).chunk("video_tokenizer", 1, bad);
    let dir = scripted(&sandbox, "run", short_policy(), script);
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
    let forged = sandbox.path("forged");
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
fn failed_repairs_have_their_exit_codes() {
    let (sandbox, dir) = finished();
    run(["repair", &sandbox.arg("none")]).expect_error(2, &["no run"]);
    run(["repair", &sandbox.arg("none"), "--dry-run"]).expect_error(2, &["no run"]);
    fs::create_dir(sandbox.path("empty")).unwrap();
    run(["repair", &sandbox.arg("empty"), "--dry-run"]).expect_error(2, &["no run"]);
    Store::create(&sandbox.path("no-events"), "x")
        .unwrap()
        .close()
        .unwrap();
    run(["repair", &sandbox.arg("no-events")]).expect_error(2, &["no run"]);

    let (store, _) = Store::open(&dir).unwrap();
    run(["repair", arg(&dir)]).expect_error(2, &["has this run open"]);
    run(["repair", arg(&dir), "--dry-run"]).expect_error(2, &["has this run open"]);
    drop(store);

    let newer = with_newer_version(&fs::read(journal(&dir)).unwrap());
    fs::write(journal(&dir), &newer).unwrap();
    for options in [
        &[][..],
        &["--accept-loss"],
        &["--keep", "sled"],
        &["--dry-run"],
    ] {
        let args = [&["repair", arg(&dir)][..], options].concat();
        run(args).expect_error(4, &["newer build"]);
    }
    assert_eq!(fs::read(journal(&dir)).unwrap(), newer);
}

/// How far a repair has got: a description, and a condition on the run directory.
type Progress = (&'static str, fn(&Path) -> bool);

const MOMENTS: [Progress; 5] = [
    ("just started", |_| true),
    ("bytes are in quarantine", |run| {
        run.join("quarantine").exists()
    }),
    ("a new journal is created", |run| {
        run.join("log/journal.tgj.new").exists()
    }),
    ("a new journal is half written", |run| {
        let length = fs::metadata(run.join("log/journal.tgj.new")).map(|file| file.len());
        length.is_ok_and(|length| length > 1 << 20)
    }),
    ("sled is rebuilt", |run| {
        run.join("quarantine/2-sled").exists()
    }),
];

#[test]
fn a_killed_repair_is_completed_by_the_next() {
    let sandbox = Sandbox::new();
    let whole = sandbox.path("whole");
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
    // Damage both copies, at different positions.
    let mut bytes = fs::read(journal(&whole)).unwrap();
    bytes[100_000] ^= 1;
    fs::write(journal(&whole), &bytes).unwrap();
    let db = whole.join("log/sled/db");
    let mut sled = fs::read(&db).unwrap();
    let late = sled.len() - 1_500_000;
    sled[late] ^= 1;
    fs::write(&db, sled).unwrap();
    let want = sandbox.path("want");
    copy(&whole, &want);
    let first = run(["repair", arg(&want), "--accept-loss"]).expect(0);
    let sound = records(&want);
    let kept = sound
        .iter()
        .zip(&events)
        .take_while(|(a, b)| a == b)
        .count();

    let mut killed = 0;
    for (name, reached) in MOMENTS {
        let dir = sandbox.path("killed");
        copy(&whole, &dir);
        let mut child = tinygate()
            .args(["repair", arg(&dir), "--accept-loss"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !reached(&dir) && child.try_wait().unwrap().is_none() {
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
    assert!(killed > 0, "no repair was killed before it finished");
}
