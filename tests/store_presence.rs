//! Distinguishes a run from the remains of one that was killed before its first event was
//! durable. Files that may hold an event are a run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test panics to fail

mod store_support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use store_support::any_event::{Gen, of_kind};
use store_support::sim_disk::SimDisk;
use store_support::{Direct, fact, read_all, records};
use tinygate::events::{Event, Seq};
use tinygate::store::disk::{JOURNAL, LOCK, MirrorError, NEW_JOURNAL, SLED};
use tinygate::store::{
    Durability, EventLog, FILE_HEADER, OpenError, Presence, RepairOptions, Store, Writer, import,
    presence, rehearse, verify,
};

/// A first event of several blocks, as with a large config.
fn first_event() -> Event {
    let Event::RunCreated(mut created) = of_kind(0, &mut Gen::new(1)) else {
        panic!("kind 0 is run_created")
    };
    created.config = serde_json::json!({ "text": "config ".repeat(3000) });
    Event::RunCreated(created)
}

/// A disk with the first event in the journal, from a process that was killed before it updated
/// sled.
fn begun() -> SimDisk {
    let disk = SimDisk::default();
    Direct::create(&disk.arc())
        .append(&[(1, first_event())])
        .unwrap();
    disk
}

#[track_caller]
fn expect_remains(name: &str, disk: &SimDisk) {
    let before = disk.journal();
    assert!(
        matches!(Writer::open(&disk.arc()), Err(OpenError::NotALog { .. })),
        "{name}"
    );
    for accept_loss in [false, true] {
        let wishes = RepairOptions {
            accept_loss,
            keep: None,
        };
        let repaired = Store::repair_on(disk.arc(), wishes);
        assert!(
            matches!(repaired, Err(OpenError::NotALog { .. })),
            "{name}: repair"
        );
    }
    assert_eq!(disk.journal(), before, "{name}: nothing was changed");
    let event = [(2, fact("anew"))];
    Direct::create(&disk.arc()).append(&event).unwrap();
    let (store, repairs) = Store::open_on(disk.arc()).unwrap();
    assert_eq!(
        (read_all(&store), repairs),
        (records(&event), vec![]),
        "{name}"
    );
}

#[test]
fn an_incomplete_first_append_is_not_a_run() {
    let whole = begun();
    let journal = whole.journal();
    assert!(journal.len() > FILE_HEADER + 2 * 8192, "several blocks");
    for end in 0..journal.len() {
        // Every byte of the headers of the file and the first blocks, otherwise every 61st.
        if 600 < end && end % 8192 > 400 && end % 61 != 0 {
            continue;
        }
        for sled in ["missing", "bare"] {
            let disk = whole.copy();
            disk.set_journal(&journal[..end]);
            if sled == "missing" {
                disk.state().mirror = None;
            }
            expect_remains(&format!("{end} bytes, sled {sled}"), &disk);
        }
        // A file that grew before its bytes were written.
        if FILE_HEADER <= end {
            let disk = whole.copy();
            let mut bytes = journal[..end].to_vec();
            bytes.resize(journal.len(), 0);
            if bytes != journal {
                let torn = [&journal[..FILE_HEADER], &vec![0; 9000][..]].concat();
                disk.set_journal(&torn);
                expect_remains("zeros", &disk);
            }
        }
    }
    assert!(Writer::open(&whole.arc()).is_ok());
    assert!(matches!(
        Writer::create(&whole.arc(), "another", [9; 16]),
        Err(OpenError::Exists)
    ));
}

#[test]
fn a_journal_appears_with_its_first_event() {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    assert_eq!(disk.file(JOURNAL), None);
    assert!(disk.file(NEW_JOURNAL).is_some());
    expect_remains("before the first event", &disk.copy());
    log.append(&[(1, first_event())]).unwrap();
    assert_eq!(disk.file(NEW_JOURNAL), None);
    let (store, repairs) = Store::open_on(disk.arc()).unwrap();
    assert_eq!(store.head(), Seq::new(1));
    assert_eq!(repairs, []);
}

/// Files that a person should inspect are never treated as remains.
#[test]
fn damaged_files_and_files_with_events_are_a_log() {
    let whole = begun();
    let journal = whole.journal();
    let is_log = |name: &str, disk: &SimDisk| {
        assert!(
            matches!(
                Writer::create(&disk.arc(), "another", [9; 16]),
                Err(OpenError::Exists | OpenError::NewerVersion(_))
            ),
            "{name}"
        );
        assert!(
            !matches!(Writer::open(&disk.arc()), Err(OpenError::NotALog { .. })),
            "{name}"
        );
    };
    for at in 0..FILE_HEADER {
        for end in [FILE_HEADER, journal.len()] {
            let disk = whole.copy();
            let mut bytes = journal[..end].to_vec();
            bytes[at] ^= 1;
            disk.set_journal(&bytes);
            is_log(
                &format!("byte {at} of the header flipped, {end} bytes"),
                &disk,
            );
        }
    }
    for at in (FILE_HEADER..FILE_HEADER + 8192).step_by(37) {
        let disk = whole.copy();
        let mut bytes = journal.clone();
        bytes[at] ^= 1;
        disk.set_journal(&bytes);
        is_log(&format!("byte {at} of the first event flipped"), &disk);
    }
    for (name, bytes) in [
        ("zeros", vec![0; 500]),
        ("a few zeros", vec![0; 5]),
        ("text", b"nothing of ours".to_vec()),
        ("text after the magic", [&journal[..8], b"x"].concat()),
        ("a long text", vec![b'x'; 5000]),
        (
            "a header and text",
            [&journal[..FILE_HEADER], &[b'x'; 300][..]].concat(),
        ),
    ] {
        let disk = whole.copy();
        disk.set_journal(&bytes);
        is_log(name, &disk);
    }

    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    log.append(&[(1, first_event())]).unwrap();
    log.follow();
    for end in [0, 100, FILE_HEADER, FILE_HEADER + 50] {
        let disk = disk.copy();
        disk.set_journal(&journal[..end]);
        is_log(&format!("sled has the event, {end} bytes"), &disk);
        assert_eq!(Store::open_on(disk.arc()).unwrap().0.head(), Seq::new(1));
    }
    disk.remove_journal();
    is_log("sled has the event, no journal", &disk);

    let disk = whole.copy();
    disk.set_journal(&journal[..FILE_HEADER]);
    disk.state().faults.mirror_does_not_open = Some(MirrorError::Failed("it panicked".into()));
    is_log("the content of sled is unknown", &disk);
}

struct Run {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Run {
    fn new() -> Run {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        fs::create_dir(&path).unwrap();
        Run {
            _folder: folder,
            path,
        }
    }

    /// The files of a process that was killed before its first event.
    fn killed() -> Run {
        let run = Run::new();
        drop(Store::create(&run.path, "run").unwrap());
        run
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[track_caller]
    fn expect_remains(&self, name: &str) {
        assert_eq!(presence(&self.path).unwrap(), Presence::Remains, "{name}");
        for error in [
            Store::open(&self.path).err(),
            Store::repair(&self.path, RepairOptions::default()).err(),
            rehearse(&self.path, RepairOptions::default()).err(),
        ] {
            assert!(
                matches!(error, Some(OpenError::NotALog { remains: true })),
                "{name}: {error:?}"
            );
        }
        let store = Store::create(&self.path, "anew").unwrap();
        let event = [(2, fact("anew"))];
        store
            .append(Seq::FIRST, &event, Durability::Durable)
            .unwrap();
        store.close().unwrap();
        let (store, repairs) = Store::open(&self.path).unwrap();
        assert_eq!(
            (read_all(&store), repairs),
            (records(&event), vec![]),
            "{name}"
        );
        drop(store);
        assert_eq!(verify(&self.path).unwrap().problems, Vec::<String>::new());
    }
}

#[test]
fn remains_on_a_real_disk_are_not_a_run() {
    Run::killed().expect_remains("before its first event");
    let run = Run::new();
    fs::create_dir(run.path.join("log")).unwrap();
    run.expect_remains("an empty log folder");
    let run = Run::new();
    fs::create_dir_all(run.path.join(SLED)).unwrap();
    fs::write(run.path.join(LOCK), "pid 1\nhost x\n").unwrap();
    run.expect_remains("an empty sled folder and a lock");
    let run = Run::new();
    fs::create_dir(run.path.join("log")).unwrap();
    fs::write(run.path.join(NEW_JOURNAL), "half a header").unwrap();
    run.expect_remains("a temporary file");
    let run = Run::killed();
    let begun = fs::read(run.path.join(NEW_JOURNAL)).unwrap();
    for end in [0, 1, 100, FILE_HEADER] {
        let run = Run::killed();
        fs::write(run.path.join(JOURNAL), &begun[..end]).unwrap();
        run.expect_remains(&format!("{end} bytes of a header"));
    }
    let run = Run::killed();
    fs::write(run.path.join(JOURNAL), &begun).unwrap();
    fs::remove_dir_all(run.path.join(SLED)).unwrap();
    run.expect_remains("a header and no sled");
}

/// sled cannot be opened if its process was killed while creating it, and holds nothing then.
#[test]
fn half_created_sled_folders_are_not_a_run() {
    let whole = Run::killed();
    let files: Vec<PathBuf> = fs::read_dir(whole.path.join(SLED))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in &files {
        let bytes = fs::read(file).unwrap();
        for end in [0, 1, 7, bytes.len() / 2, bytes.len().saturating_sub(1)] {
            let run = Run::killed();
            let place = run.path.join(SLED).join(file.file_name().unwrap());
            fs::write(&place, &bytes[..end]).unwrap();
            run.expect_remains(&format!("{end} bytes of {}", place.display()));
        }
        let run = Run::killed();
        fs::remove_file(run.path.join(SLED).join(file.file_name().unwrap())).unwrap();
        run.expect_remains(&format!("without {}", file.display()));
    }
}

/// A sled folder with bytes of an event that cannot be opened is damaged.
#[test]
fn a_broken_sled_with_events_is_kept() {
    let run = Run::new();
    let store = Store::create(&run.path, "run").unwrap();
    store
        .append(Seq::FIRST, &[(1, first_event())], Durability::Durable)
        .unwrap();
    store.close().unwrap();
    fs::remove_file(run.path.join(JOURNAL)).unwrap();
    let conf = run.path.join(SLED).join("conf");
    fs::write(&conf, "x").unwrap();
    assert_eq!(presence(&run.path).unwrap(), Presence::Log);
    assert!(matches!(
        Store::create(&run.path, "anew"),
        Err(OpenError::Exists)
    ));
    assert_eq!(fs::read(&conf).unwrap(), b"x");
}

#[test]
fn a_cut_journal_with_checkpoints_is_damage() {
    let run = Run::killed();
    fs::rename(run.path.join(NEW_JOURNAL), run.path.join(JOURNAL)).unwrap();
    fs::create_dir_all(run.path.join("video_tokenizer/checkpoints")).unwrap();
    assert_eq!(presence(&run.path).unwrap(), Presence::Log);
    assert!(matches!(
        Store::create(&run.path, "anew"),
        Err(OpenError::Exists)
    ));
    let accepting = RepairOptions {
        accept_loss: true,
        keep: None,
    };
    for error in [
        Store::open(&run.path).err(),
        Store::repair(&run.path, RepairOptions::default()).err(),
        Store::repair(&run.path, accepting).err(),
    ] {
        assert!(matches!(error, Some(OpenError::NoEventLeft)), "{error:?}");
    }
}

#[test]
fn a_directory_without_a_run_stays_empty() {
    let run = Run::new();
    let file = run.path.with_file_name("no-log");
    fs::write(&file, "text").unwrap();
    for (name, path) in [
        ("empty", run.path.clone()),
        ("missing", run.path.join("none")),
    ] {
        let not_there = |error: Option<OpenError>| {
            assert!(
                matches!(error, Some(OpenError::NotALog { remains: false })),
                "{name}: {error:?}"
            );
        };
        not_there(Store::open(&path).err());
        not_there(Store::repair(&path, RepairOptions::default()).err());
        not_there(rehearse(&path, RepairOptions::default()).err());
        assert!(import(&file, &path).is_err(), "{name}");
        assert_eq!(run.names(), Vec::<String>::new(), "{name}");
    }
    // A rejected import does not change a run either.
    let other = Run::new();
    let store = Store::create(&other.path, "run").unwrap();
    store
        .append(Seq::FIRST, &[(1, fact("x"))], Durability::Durable)
        .unwrap();
    store.close().unwrap();
    fs::remove_file(other.path.join(LOCK)).unwrap();
    assert!(import(&other.path.join(JOURNAL), &other.path).is_err());
    assert!(Store::create(&other.path, "run").is_err());
    assert_eq!(other.names(), ["log"]);
}

/// A reader that checks for a writer holds the lock briefly, which may be long on a busy machine.
#[test]
fn a_writer_waits_for_a_reader_but_not_for_a_writer() {
    let run = Run::new();
    drop(Store::create(&run.path, "run").unwrap());
    let reader = File::open(run.path.join(LOCK)).unwrap();
    reader.lock_shared().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = sender.send(Store::create(&run.path, "run"));
        });
        let early = receiver.recv_timeout(Duration::from_millis(200));
        assert!(early.is_err(), "it waits");
        drop(reader);
        let store = receiver.recv().unwrap().unwrap();
        assert!(matches!(
            Store::create(&run.path, "run"),
            Err(OpenError::Locked { .. })
        ));
        drop(store);
    });
}

/// The lock file names the previous writer until the next one has written its name.
#[test]
fn a_process_that_ended_is_not_reported_as_holder() {
    let run = Run::killed();
    let ended = {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    };
    let host = tinygate::store::host_name();
    let lock = run.path.join(LOCK);
    fs::write(&lock, format!("pid {ended}\nhost {host}\n")).unwrap();
    let writer = File::open(&lock).unwrap();
    writer.lock().unwrap();
    let error = Store::create(&run.path, "run").err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("another process has this run open"),
        "{error}"
    );
    let path: &Path = &run.path;
    fs::write(&lock, format!("pid {}\nhost {host}\n", std::process::id())).unwrap();
    let error = Store::open(path).err().unwrap();
    assert!(
        error
            .to_string()
            .starts_with(&format!("process {} on host", std::process::id())),
        "{error}"
    );
}
