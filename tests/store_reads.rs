//! How much of a journal is read while a run is opened, measured in bytes read from its disk.

#![allow(clippy::unwrap_used, clippy::panic)] // a test panics to fail

mod store_support;

use std::path::Path;

use store_support::sim_disk::SimDisk;
use store_support::{Direct, decision, fact, read_all, records};
use tinygate::controller::{Controller, Fold};
use tinygate::events::{Event, Record};
use tinygate::store::Store;
use tinygate::store::disk::{JOURNAL, MirrorKey};
use tinygate_testing::{Quiet, Script, ScriptedTrainer, Ticks, created, live, short_policy};

/// About three megabytes in twenty appends.
fn long_log() -> (SimDisk, Vec<(u64, Event)>) {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    let mut events = Vec::new();
    for at in 0..20 {
        let append: Vec<(u64, Event)> = (0..50).map(|_| (at, fact(&"x".repeat(3000)))).collect();
        log.append(&append).unwrap();
        events.extend(append);
    }
    log.follow();
    (disk, events)
}

/// How often `work` reads the whole journal, in hundredths.
fn passes(disk: &SimDisk, work: impl FnOnce(&SimDisk)) -> u64 {
    let before = disk.bytes_read(JOURNAL);
    let length = disk.journal().len() as u64;
    work(disk);
    (disk.bytes_read(JOURNAL) - before) * 100 / length
}

fn open_and_read(disk: &SimDisk, events: &[(u64, Event)]) {
    let mut read: Vec<Record> = Vec::new();
    let opened = Store::open_and_read_on(disk.arc(), |record| read.push(record.unwrap()));
    let (store, _) = opened.unwrap();
    assert_eq!(read, records(events));
    store.close().unwrap();
}

/// One pass and a little more, for the check whether there is a log and for blocks that cross
/// the end of a window.
const ONCE: std::ops::Range<u64> = 100..125;

#[test]
fn a_log_is_read_once_to_be_verified_and_folded() {
    let (disk, events) = long_log();
    let twice = passes(&disk, |disk| {
        let (store, _) = Store::open_on(disk.arc()).unwrap();
        assert_eq!(read_all(&store), records(&events));
    });
    assert!(200 < twice, "the bytes are counted: {twice}");
    let once = passes(&disk, |disk| open_and_read(disk, &events));
    assert!(ONCE.contains(&once), "{once}");
}

/// As after a kill: the journal is ahead of sled by the events since the last sync of sled.
#[test]
fn an_older_sled_is_updated_from_where_it_ends() {
    let (disk, events) = long_log();
    {
        let mut state = disk.state();
        let mirror = state.mirror.as_mut().unwrap();
        let last = mirror.keys().rev().find_map(|key| match key {
            MirrorKey::Block(number) => Some(*number),
            MirrorKey::FileHeader | MirrorKey::Head => None,
        });
        mirror.retain(|key, _| *key < MirrorKey::Block(last.unwrap() - 5));
        mirror.remove(&MirrorKey::Head);
    }
    let whole = disk.copy();
    let once = passes(&disk, |disk| open_and_read(disk, &events));
    assert!(ONCE.contains(&once), "{once}");
    // sled was updated correctly: it alone restores the log.
    disk.remove_journal();
    open_and_read(&disk, &events);
    // A missing sled needs a second pass.
    whole.lose_mirror(None);
    let twice = passes(&whole, |disk| open_and_read(disk, &events));
    assert!((200..225).contains(&twice), "{twice}");
}

#[test]
fn resuming_reads_the_log_once() {
    let (disk, clock) = (SimDisk::default(), Ticks::from(1000));
    let directory = tempfile::tempdir().unwrap();
    let run = |store: &Store, facts| {
        let trainer = ScriptedTrainer::new(Script::new(7));
        live(store, directory.path(), &clock, facts, trainer, &mut Quiet).unwrap()
    };
    let store = Store::create_on(disk.arc(), "a run", [3; 16]).unwrap();
    let facts = vec![created(short_policy(), 7)];
    let ended = run(&store, facts).state;
    store.close().unwrap();

    let mut fold = Fold::new();
    let opened = Store::open_and_read_on(disk.arc(), |record| fold.add(record));
    let (store, repairs) = opened.unwrap();
    assert_eq!(repairs, []);
    let before = disk.bytes_read(JOURNAL);
    let mut controller = Controller::resume(fold, &store, Path::new(""), || 5).unwrap();
    assert_eq!(*controller.state(), ended);
    controller.record_fact(decision(1)).unwrap();
    assert_eq!(disk.bytes_read(JOURNAL), before, "nothing is read again");
    let last = read_all(&store).pop().unwrap();
    assert_eq!(last.event, decision(1));
}
