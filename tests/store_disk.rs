//! The log on a real disk with a real sled: reopening, locks, kills, damage,
//! export and import, and reading during writes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)] // a test panics to fail

mod store_support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use store_support::{decision, fact, mixture, read_all, read_file, records};
use tinygate::events::{Event, Record, Seq};
use tinygate::store::disk::{Disk, JOURNAL, MirrorError, MirrorKey, SLED};
use tinygate::store::{
    AppendError, CopyState, Durability, EventLog, FILE_HEADER, LogCopy, LogFile, MemoryLog,
    OpenError, ReadError, ReadErrorKind, RealDisk, Store, TransferError, export, import, verify,
};

struct Run {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn run() -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs/one");
    Run {
        _folder: folder,
        path,
    }
}

/// A run with `events`, closed.
fn filled(events: &[(u64, Event)]) -> Run {
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    for chunk in events.chunks(7) {
        store
            .append(store.head(), chunk, Durability::Durable)
            .unwrap();
    }
    assert_eq!(store.close().unwrap().get(), events.len() as u64);
    run
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn appended_events_are_there_after_reopening() {
    let events = mixture(1, 500);
    let run = filled(&events[..300]);
    let (store, repairs) = Store::open(&run.path).unwrap();
    assert_eq!(repairs, []);
    assert_eq!(store.header().label(), "one");
    assert_eq!(read_all(&store), records(&events[..300]));
    for (at, event) in events[300..].iter().enumerate() {
        let durability = if at % 3 == 0 {
            Durability::Durable
        } else {
            Durability::Lazy
        };
        let head = store
            .append(
                Seq::new(300 + at as u64),
                std::slice::from_ref(event),
                durability,
            )
            .unwrap();
        assert_eq!(head.get(), 301 + at as u64);
    }
    assert_eq!(read_all(&store), records(&events));
    let from: Vec<Record> = store
        .read(Seq::new(417))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(from, records(&events)[417..]);
    assert!(store.read(Seq::new(500)).unwrap().next().is_none());
    drop(store);
    let (read, error) = read_file(LogFile::open(&run.path).unwrap());
    assert!(error.is_none());
    assert_eq!(read, records(&events));
    // sled would store values above 8 KB in files that it never syncs.
    let blobs = std::fs::read_dir(run.path.join("log/sled/blobs")).unwrap();
    assert_eq!(blobs.count(), 0);
}

#[test]
fn logs_in_memory_and_on_disk_behave_the_same() {
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    let memory = MemoryLog::new();
    for log in [&store as &dyn EventLog, &memory] {
        assert_eq!(log.head(), Seq::FIRST);
        assert_eq!(
            log.append(Seq::FIRST, &[], Durability::Durable).unwrap(),
            Seq::FIRST
        );
        log.append(
            Seq::FIRST,
            &[(5, fact("a")), (6, decision(1))],
            Durability::Lazy,
        )
        .unwrap();
        for wrong in [0, 1, 3, u64::MAX] {
            let answer = log.append(Seq::new(wrong), &[(7, fact("b"))], Durability::Durable);
            assert!(
                matches!(answer, Err(AppendError::Conflict { expected, actual }) if expected.get() == wrong && actual.get() == 2),
                "{answer:?}"
            );
        }
        assert_eq!(log.sync().unwrap().get(), 2);
        assert_eq!(read_all(log), records(&[(5, fact("a")), (6, decision(1))]));
    }
}

#[test]
fn one_of_several_racing_appends_wins() {
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                let mut mine = 0;
                while mine < 25 {
                    match store.append(
                        store.head(),
                        &[(thread, fact(&format!("{thread} {mine}")))],
                        Durability::Durable,
                    ) {
                        Ok(_) => mine += 1,
                        Err(AppendError::Conflict { expected, actual }) => {
                            assert!(expected < actual)
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    let all = read_all(&store);
    assert_eq!(all.len(), 100);
    for thread in 0..4 {
        let of_one: Vec<&Record> = all
            .iter()
            .filter(|record| record.time_ms == thread)
            .collect();
        assert_eq!(of_one.len(), 25);
        for (at, record) in of_one.iter().enumerate() {
            assert_eq!(record.event, fact(&format!("{thread} {at}")));
        }
    }
}

#[test]
fn a_second_writer_gets_the_holder_of_the_lock() {
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    store
        .append(Seq::FIRST, &[(1, fact("x"))], Durability::Durable)
        .unwrap();
    let pid = std::process::id().to_string();
    for error in [
        Store::open(&run.path).err().unwrap(),
        Store::create(&run.path, "one").err().unwrap(),
    ] {
        let OpenError::Locked { pid: holder, host } = &error else {
            panic!("{error}")
        };
        assert_eq!(*holder, pid);
        assert!(!host.is_empty() && host != "unknown");
        assert!(
            error
                .to_string()
                .starts_with(&format!("process {pid} on host `{host}`")),
            "{error}"
        );
    }
    // Readers need no lock.
    assert_eq!(read_file(LogFile::open(&run.path).unwrap()).0.len(), 1);
    let state = verify(&run.path).unwrap();
    assert_eq!((state.events, state.sled), (1, CopyState::InUse));
    drop(store);
    assert!(matches!(
        Store::create(&run.path, "one"),
        Err(OpenError::Exists)
    ));
    Store::open(&run.path).unwrap();
}

#[test]
fn a_missing_log_is_reported() {
    let run = run();
    assert!(matches!(
        Store::open(&run.path),
        Err(OpenError::NotALog { .. })
    ));
    assert!(!run.path.exists());
    let missing = LogFile::open(&run.path).err().unwrap();
    assert!(matches!(missing.kind, ReadErrorKind::NotALog { .. }));
    std::fs::create_dir_all(&run.path).unwrap();
    assert!(matches!(
        Store::open(&run.path),
        Err(OpenError::NotALog { .. })
    ));
    let file = run.path.join("empty");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(
        LogFile::open(&file).err().unwrap().kind,
        ReadErrorKind::Empty
    ));
    std::fs::write(&file, "TGJRNL").unwrap();
    assert!(matches!(
        LogFile::open(&file).err().unwrap().kind,
        ReadErrorKind::Damaged { .. }
    ));
    std::fs::write(&file, [b'{'; 500]).unwrap();
    assert!(matches!(
        LogFile::open(&file).err().unwrap().kind,
        ReadErrorKind::NotALog { .. }
    ));
    // Without an event there is no log yet, so it can be created.
    drop(Store::create(&run.path, "one").unwrap());
    let store = Store::create(&run.path, "again").unwrap();
    assert_eq!(
        (store.header().label().as_str(), store.head()),
        ("again", Seq::FIRST)
    );
}

#[test]
fn a_lost_copy_is_rebuilt_from_the_other() {
    let events = mixture(2, 200);
    let run = filled(&events);
    let journal = std::fs::read(run.path.join(JOURNAL)).unwrap();

    std::fs::remove_file(run.path.join(JOURNAL)).unwrap();
    let (store, repairs) = Store::open(&run.path).unwrap();
    assert_eq!(repairs.len(), 1);
    assert_eq!(
        (repairs[0].copy, repairs[0].restored),
        (LogCopy::Journal, 200)
    );
    assert_eq!(read_all(&store), records(&events));
    drop(store);
    assert_eq!(std::fs::read(run.path.join(JOURNAL)).unwrap(), journal);

    std::fs::remove_dir_all(run.path.join("log/sled")).unwrap();
    let (store, repairs) = Store::open(&run.path).unwrap();
    assert_eq!(repairs.len(), 1);
    assert_eq!((repairs[0].copy, repairs[0].restored), (LogCopy::Sled, 200));
    drop(store);
    let state = verify(&run.path).unwrap();
    assert_eq!(state.problems, Vec::<String>::new());
    assert_eq!(state.journal, state.sled);
    assert_eq!((state.events, state.sound_to), (200, Some(Seq::new(199))));
}

#[test]
fn a_fork_is_reported_and_nothing_is_changed() {
    let run = filled(&mixture(3, 50));
    let twin = run.path.with_file_name("two");
    copy_folder(&run.path, &twin);
    for (path, text) in [(&run.path, "ours"), (&twin, "theirs")] {
        let (store, repairs) = Store::open(path).unwrap();
        assert_eq!(repairs, []);
        store
            .append(store.head(), &[(1, fact(text))], Durability::Durable)
            .unwrap();
    }
    let journal = run.path.join(JOURNAL);
    std::fs::copy(twin.join(JOURNAL), &journal).unwrap();
    let before = std::fs::read(&journal).unwrap();
    let error = Store::open(&run.path).err().unwrap();
    assert!(
        matches!(&error, OpenError::Forked { seq, journal, sled } if seq.get() == 50 && journal.hash != sled.hash),
        "{error}"
    );
    assert_eq!(std::fs::read(&journal).unwrap(), before);
    assert!(!run.path.join("quarantine").exists());
    let state = verify(&run.path).unwrap();
    assert_eq!((state.events, state.problems.len()), (50, 1));
}

#[test]
fn large_events_are_split_into_fragments() {
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    let Event::RunCreated(mut created) =
        store_support::any_event::of_kind(0, &mut store_support::any_event::Gen::new(1))
    else {
        panic!("kind 0 is run_created")
    };
    created.config = serde_json::json!({ "text": "config ".repeat(15_000) });
    let events = [
        (1, Event::RunCreated(created)),
        (2, fact(&"stderr\n".repeat(400_000))),
        (3, decision(1)),
        (4, fact(&"z".repeat(8000))),
        (5, fact("end")),
    ];
    store
        .append(Seq::FIRST, &events[..2], Durability::Lazy)
        .unwrap();
    store
        .append(Seq::new(2), &events[2..], Durability::Durable)
        .unwrap();
    assert_eq!(read_all(&store), records(&events));
    let too_large = fact(&"x".repeat(65 << 20));
    let answer = store.append(Seq::new(5), &[(6, too_large)], Durability::Durable);
    assert!(matches!(answer, Err(AppendError::NotStorable { seq, .. }) if seq.get() == 5));
    store.close().unwrap();
    let (store, repairs) = Store::open(&run.path).unwrap();
    assert_eq!(repairs, []);
    assert_eq!(read_all(&store), records(&events));
    assert_eq!(
        std::fs::read_dir(run.path.join("log/sled/blobs"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_reader_follows_a_writer() {
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    let events = mixture(5, 60);
    store
        .append(Seq::FIRST, &events[..4], Durability::Durable)
        .unwrap();
    let mut follower = LogFile::open(&run.path).unwrap().records();
    let mut seen: Vec<Record> = follower.by_ref().map(Result::unwrap).collect();
    assert!(follower.next().is_none());
    for chunk in events[4..].chunks(4) {
        store
            .append(store.head(), chunk, Durability::Durable)
            .unwrap();
        seen.extend(follower.by_ref().map(Result::unwrap));
        assert_eq!(
            seen.len() as u64,
            store.head().get(),
            "what is durable is seen at once"
        );
    }
    assert_eq!(seen, records(&events));
    let mut late = LogFile::open(&run.path).unwrap().records();
    late.skip_to(Seq::new(57)).unwrap();
    let late: Vec<Record> = late.map(Result::unwrap).collect();
    assert_eq!(late, records(&events)[56..], "its append starts at 56");
}

#[test]
fn export_and_import_preserve_the_log() {
    let events = mixture(6, 120);
    let run = filled(&events);
    let file = run.path.with_file_name("run.tgj");
    let exported = export(&run.path, &file, false).unwrap();
    assert_eq!((exported.events, exported.tail), (120, None));
    assert!(exported.fault.is_none());
    assert_eq!(read_file(LogFile::open(&file).unwrap()).0, records(&events));
    assert!(
        matches!(
            export(&run.path, &file, false),
            Err(TransferError::FileExists { .. })
        ),
        "nothing is overwritten"
    );
    let before = std::fs::read(&file).unwrap();
    assert_eq!(export(&run.path, &file, true).unwrap().events, 120);
    assert_eq!(std::fs::read(&file).unwrap(), before, "replaced");
    let journal = run.path.join(JOURNAL);
    assert!(matches!(
        export(&run.path, &journal, true),
        Err(TransferError::FileExists { .. })
    ));

    let there = run.path.with_file_name("imported");
    assert_eq!(import(&file, &there).unwrap(), 120);
    let (store, repairs) = Store::open(&there).unwrap();
    assert_eq!(repairs, []);
    assert_eq!(read_all(&store), records(&events));
    drop(store);
    assert!(matches!(
        import(&file, &there),
        Err(TransferError::Open(OpenError::Exists))
    ));

    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let elsewhere = run.path.with_file_name("elsewhere");
    assert!(matches!(
        import(&file, &elsewhere),
        Err(TransferError::Log(_))
    ));
    assert!(!elsewhere.exists());
    // The sound part of a damaged log is exported, and the fault is reported.
    let part = run.path.with_file_name("part.tgj");
    let exported = export(&file, &part, false).unwrap();
    let fault = exported.fault.unwrap();
    assert!(matches!(fault.kind, ReadErrorKind::Damaged { .. }));
    assert_eq!(fault.seq.get(), exported.events);
    let (read, error) = read_file(LogFile::open(&part).unwrap());
    assert!(error.is_none());
    assert_eq!(read, records(&events)[..exported.events as usize]);
}

/// Rewrites parts of a journal with valid hashes.
mod forge {
    use super::FILE_HEADER;

    fn key(header: &[u8]) -> [u8; 32] {
        *blake3::hash(header).as_bytes()
    }

    /// Updates the hash of the header.
    pub fn header(header: &mut [u8]) {
        let hash = blake3::hash(&header[..FILE_HEADER - 32]);
        header[FILE_HEADER - 32..].copy_from_slice(hash.as_bytes());
    }

    /// Changes the first frame of the only block, and updates all checksums.
    pub fn first_frame(journal: &mut [u8], change: impl Fn(&mut [u8])) {
        let (head, block) = journal.split_at_mut(FILE_HEADER);
        let key = key(head);
        let frame = &mut block[104..];
        let length = u32::from_le_bytes(frame[16..20].try_into().unwrap()) as usize;
        change(&mut frame[..24 + length]);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&frame[..20]);
        crc.update(&frame[24..24 + length]);
        frame[20..24].copy_from_slice(&crc.finalize().to_le_bytes());
        let hash = blake3::keyed_hash(&key, &block[36..]);
        block[4..36].copy_from_slice(hash.as_bytes());
    }
}

#[test]
fn a_log_of_a_newer_build_is_not_damaged() {
    let run = filled(&[(1, decision(1))]);
    let file = run.path.with_file_name("forged.tgj");
    let journal = std::fs::read(run.path.join(JOURNAL)).unwrap();
    let check = |name: &str, bytes: &[u8], what: &str, found: u32| {
        std::fs::write(&file, bytes).unwrap();
        let error = match LogFile::open(&file) {
            Ok(log) => read_file(log).1.unwrap(),
            Err(error) => error,
        };
        let ReadErrorKind::NewerVersion(newer) = &error.kind else {
            panic!("{name}: {error}")
        };
        assert_eq!((newer.what.as_str(), newer.found), (what, found), "{name}");
    };
    let mut newer = journal.clone();
    newer[8] = 2;
    forge::header(&mut newer[..FILE_HEADER]);
    check("the file's format", &newer, "log format", 2);
    // A run of that format is left unchanged.
    std::fs::write(run.path.join(JOURNAL), &newer).unwrap();
    let error = Store::open(&run.path).err().unwrap();
    assert!(matches!(error, OpenError::NewerVersion(_)), "{error}");
    assert!(matches!(verify(&run.path), Err(OpenError::NewerVersion(_))));
    assert_eq!(std::fs::read(run.path.join(JOURNAL)).unwrap(), newer);

    let mut newer = journal.clone();
    forge::first_frame(&mut newer, |frame| frame[0] = 2);
    check("the frame's format", &newer, "frame format", 2);
    let mut newer = journal.clone();
    forge::first_frame(&mut newer, |frame| frame[2] = 200);
    check("an event's kind", &newer, "event kind", 200);
    let mut newer = journal.clone();
    forge::first_frame(&mut newer, |frame| frame[4] = 3);
    check("a kind's version", &newer, "version of `run_finished`", 3);
    check_opening_agrees("a kind's version", &newer);

    // Valid checksums do not make the body valid.
    let mut broken = journal;
    forge::first_frame(&mut broken, |frame| frame[2] = 1);
    std::fs::write(&file, &broken).unwrap();
    let error = read_file(LogFile::open(&file).unwrap()).1.unwrap();
    assert!(
        matches!(error.kind, ReadErrorKind::Damaged { .. }),
        "{error}"
    );
    check_opening_agrees("a body", &broken);
}

/// A log with an intact block whose event cannot be decoded can be opened. Folding the log while
/// opening it gives the same error as reading it, after the same events.
#[track_caller]
fn check_opening_agrees(name: &str, journal: &[u8]) {
    let disk = store_support::sim_disk::SimDisk::default();
    disk.set_journal(journal);
    let (want, want_error) =
        read_file(LogFile::new(disk.arc().open(JOURNAL).unwrap().unwrap()).unwrap());
    let place = |error: &ReadError| (error.seq, error.offset, std::mem::discriminant(&error.kind));
    let mut got = Vec::new();
    let mut errors = Vec::new();
    let opened = Store::open_and_read_on(disk.arc(), |record| match record {
        Ok(record) => got.push(record),
        Err(error) => errors.push(place(&error)),
    });
    assert!(opened.is_ok(), "{name}");
    assert_eq!(got, want, "{name}");
    assert_eq!(errors, [place(&want_error.unwrap())], "{name}");
}

/// The bytes of an old journal stay readable.
#[test]
fn the_golden_journal_is_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal.v1.tgj");
    let events: Vec<(u64, Event)> = [
        (1_750_000_000_000, fact("begin")),
        (1_750_000_000_001, decision(3)),
        (1_750_000_000_002, fact(&"long ".repeat(2000))),
    ]
    .into();
    if std::env::var_os("TINYGATE_WRITE_GOLDEN").is_some() {
        let disk = store_support::sim_disk::SimDisk::default();
        let mut log = store_support::Direct::create(&disk.arc());
        log.append(&events[..1]).unwrap();
        log.append(&events[1..]).unwrap();
        std::fs::write(&golden, disk.journal()).unwrap();
    }
    let (read, error) = read_file(LogFile::open(&golden).unwrap());
    assert!(error.is_none());
    assert_eq!(read, records(&events));
}

// Child processes: this test binary runs one of its tests, with the folder in the environment.

const CHILD: &str = "TINYGATE_STORE_TEST_DIR";

fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, folder);
    command
}

fn nth(at: u64) -> Event {
    if at.is_multiple_of(5) {
        decision(at as u32)
    } else {
        fact(&format!("event {at} {}", "x".repeat((at % 300) as usize)))
    }
}

/// Appends until it is killed, and prints what was acknowledged. Does nothing unless it is a child
/// process.
#[test]
fn child_that_appends() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let (store, _) = match Store::open(Path::new(&folder)) {
        Err(OpenError::NotALog { .. }) => (
            Store::create(Path::new(&folder), "one").unwrap(),
            Vec::new(),
        ),
        other => other.unwrap(),
    };
    let first = store.head().get();
    for at in first..first + 100_000 {
        let durability = if at % 4 == 3 {
            Durability::Lazy
        } else {
            Durability::Durable
        };
        store
            .append(Seq::new(at), &[(at, nth(at))], durability)
            .unwrap();
        if durability == Durability::Durable {
            println!("acknowledged {at}");
        }
    }
}

#[test]
fn a_killed_writer_loses_no_acknowledged_event() {
    let run = run();
    let mut before = 0;
    for round in 0..6u64 {
        let mut writer = child("child_that_appends", &run.path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let wanted = 1 + round * 37;
        let mut acknowledged = None;
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut count = 0;
        for line in lines.by_ref() {
            if let Some(at) = line.unwrap().split("acknowledged ").nth(1) {
                acknowledged = Some(at.parse::<u64>().unwrap());
                count += 1;
                if count == wanted {
                    writer.kill().unwrap();
                    break;
                }
            }
        }
        // What it printed before it was killed.
        for line in lines.map_while(Result::ok) {
            if let Some(at) = line
                .split("acknowledged ")
                .nth(1)
                .and_then(|at| at.parse().ok())
            {
                acknowledged = Some(at);
            }
        }
        writer.wait().unwrap();
        let acknowledged = acknowledged.unwrap();
        let (store, repairs) = Store::open(&run.path).unwrap();
        assert!(
            repairs.iter().all(|repair| repair.copy == LogCopy::Journal),
            "{repairs:?}"
        );
        let all = read_all(&store);
        assert!(
            all.len() as u64 > acknowledged && acknowledged >= before,
            "{acknowledged} was kept, {} are there",
            all.len()
        );
        for record in &all {
            assert_eq!(record.event, nth(record.seq.get()));
        }
        before = acknowledged;
    }
}

/// Damages sled's folder in many ways, and opens the run after each.
#[test]
fn child_with_a_damaged_sled() {
    let Some(folder) = std::env::var_os(CHILD) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let whole = folder.join("whole");
    let events = read_file(LogFile::open(&whole).unwrap()).0;
    type Damage = Box<dyn Fn(&Path)>;
    let mut cases: Vec<(String, Damage)> = Vec::new();
    let db = std::fs::read(whole.join("log/sled/db")).unwrap();
    let used = db.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for part in 0..24usize {
        let at = part * used / 24 + part;
        let mut damaged = db.clone();
        damaged[at] ^= 0x40;
        cases.push((
            format!("byte {at} of db flipped"),
            Box::new(move |sled| std::fs::write(sled.join("db"), &damaged).unwrap()),
        ));
    }
    for part in 0..8usize {
        let cut = db[..part * used / 8].to_vec();
        cases.push((
            format!("db cut to {}", cut.len()),
            Box::new(move |sled| std::fs::write(sled.join("db"), &cut).unwrap()),
        ));
        let mut zeroed = db.clone();
        let end = (part * used / 8 + 4096).min(zeroed.len());
        zeroed[part * used / 8..end].fill(0);
        cases.push((
            format!("a page of db zeroed at {}", end - 4096.min(end)),
            Box::new(move |sled| std::fs::write(sled.join("db"), &zeroed).unwrap()),
        ));
    }
    for entry in std::fs::read_dir(whole.join("log/sled")).unwrap() {
        let name = entry.unwrap().file_name();
        cases.push((
            format!("{name:?} removed"),
            Box::new(move |sled| {
                let path = sled.join(&name);
                if path.is_dir() {
                    std::fs::remove_dir_all(path).unwrap()
                } else {
                    std::fs::remove_file(path).unwrap()
                }
            }),
        ));
    }
    for (at, (name, damage)) in cases.iter().enumerate() {
        let run = folder.join(format!("case{at}"));
        copy_folder(&whole, &run);
        damage(&run.join("log/sled"));
        let seen = verify(&run).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(seen.events as usize, events.len(), "{name}");
        let (store, repairs) = Store::open(&run).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(read_all(&store), events, "{name}");
        store
            .append(store.head(), &[(1, decision(1))], Durability::Durable)
            .unwrap();
        store.close().unwrap();
        let after = verify(&run).unwrap();
        assert_eq!(after.problems, Vec::<String>::new(), "{name}");
        assert_eq!(after.journal, after.sled, "{name}");
        println!(
            "\ncase {name}: {}",
            repairs
                .first()
                .map_or("no repair", |repair| repair.detail.as_str())
        );
        std::fs::remove_dir_all(&run).unwrap();
    }
    println!("\nall {} cases", cases.len());
}

#[track_caller]
fn check_damaged_sled(name: &str, appends: usize, repairs: usize) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(&folder.path().join("whole"), "one").unwrap();
    for chunk in mixture(9, 40 * appends).chunks(40) {
        store
            .append(store.head(), chunk, Durability::Durable)
            .unwrap();
    }
    store.close().unwrap();
    let output = child("child_with_a_damaged_sled", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{name}: {:?}\n{text}\n{said}",
        output.status
    );
    assert!(text.contains("all 4"), "{name}: {text}");
    let repaired = text.matches("it was rebuilt from the journal").count();
    // If sled only falls back to an older state it is updated without a repair.
    assert!(repaired >= repairs, "{name}: {repaired} repairs, {text}");
    assert!(
        !said.contains("panicked"),
        "{name}: sled's panics are not shown: {said}"
    );
}

#[test]
fn a_damaged_sled_folder_is_rebuilt() {
    check_damaged_sled("written once", 1, 4);
    check_damaged_sled("written many times", 60, 4);
}

#[test]
fn a_log_larger_than_the_read_window_is_imported() {
    let events = mixture(11, 4000);
    let run = run();
    let store = Store::create(&run.path, "one").unwrap();
    for chunk in events.chunks(500) {
        store
            .append(store.head(), chunk, Durability::Durable)
            .unwrap();
    }
    store.close().unwrap();
    let file = run.path.with_extension("tgj");
    export(&run.path, &file, false).unwrap();
    assert!(
        std::fs::metadata(&file).unwrap().len() > 256 << 10,
        "larger than what is read at once"
    );
    let other = run.path.with_file_name("two");
    assert_eq!(import(&file, &other).unwrap(), 4000);
    let (store, repairs) = Store::open(&other).unwrap();
    assert_eq!(repairs, []);
    assert_eq!(read_all(&store), records(&events));
}

#[cfg(target_os = "linux")]
#[test]
fn a_sync_of_the_journal_reaches_the_kernel() {
    // The kernel cannot sync this and returns an error.
    let disk = RealDisk::new("/dev");
    let mut file = disk.open("null").unwrap().unwrap();
    let refused = file.sync().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
}

#[cfg(target_os = "linux")]
#[test]
fn a_sync_of_sled_reaches_the_kernel() {
    let folder = tempfile::tempdir().unwrap();
    let disk = RealDisk::new(folder.path());
    let mut mirror = disk.mirror(true).unwrap().unwrap();
    let block = (MirrorKey::Block(0), Some(vec![1]));
    mirror.put(vec![block]).unwrap();
    assert_eq!(mirror.sync(), Ok(()));
    let db = folder.path().join(SLED).join("db");
    std::fs::remove_file(&db).unwrap();
    std::os::unix::fs::symlink("/dev/null", &db).unwrap();
    assert!(matches!(mirror.sync(), Err(MirrorError::Failed(_))));
}
