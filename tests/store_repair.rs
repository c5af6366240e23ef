//! Repairs of a damaged log on request, also if the machine stops during the repair.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test panics to fail"
)]

mod store_support;

use store_support::sim_disk::{MirrorMap, SimDisk};
use store_support::{Direct, decision, fact, read_file, records};
use tinygate::events::{Event, Record};
use tinygate::store::disk::{JOURNAL, MirrorKey};
use tinygate::store::{
    FILE_HEADER, LogCopy, LogFile, OpenError, Repair, RepairOptions, Store, Writer,
};

/// An event and its time.
type Timed = (u64, Event);

const NOTHING: RepairOptions = RepairOptions {
    accept_loss: false,
    keep: None,
};
const LOSS: RepairOptions = RepairOptions {
    accept_loss: true,
    keep: None,
};

fn keep(copy: LogCopy) -> RepairOptions {
    RepairOptions {
        accept_loss: false,
        keep: Some(copy),
    }
}

/// Twelve appends of two events, one block each; sled has the first eight.
fn lagging() -> (SimDisk, Vec<(u64, Event)>) {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    let mut events = Vec::new();
    for at in 0..12u64 {
        let append = [(at, fact(&format!("fact {at}"))), (at, decision(at as u32))];
        log.append(&append).unwrap();
        events.extend(append);
        if at == 7 {
            log.follow();
        }
    }
    drop(log);
    (disk, events)
}

/// The same with both copies up to date.
fn level() -> (SimDisk, Vec<(u64, Event)>) {
    let (disk, events) = lagging();
    drop(Direct::open(&disk.arc()).unwrap());
    (disk, events)
}

/// The offsets of the blocks, and the end.
fn starts(journal: &[u8]) -> Vec<usize> {
    let mut at = FILE_HEADER;
    let mut starts = vec![at];
    while at < journal.len() {
        at += 104 + usize::from(u16::from_le_bytes([journal[at + 36], journal[at + 37]]));
        starts.push(at);
    }
    starts
}

fn break_journal(disk: &SimDisk, block: usize) {
    let mut journal = disk.journal();
    let at = starts(&journal)[block] + 60;
    journal[at] ^= 1;
    disk.set_journal(&journal);
}

fn break_sled(disk: &SimDisk, block: u64) {
    let mut state = disk.state();
    let mirror = state.mirror.as_mut().unwrap();
    mirror.get_mut(&MirrorKey::Block(block)).unwrap()[70] ^= 1;
}

/// The journal and the sled of two logs that only differ in their last append.
fn forked() -> (SimDisk, Vec<Timed>, Vec<Timed>) {
    let (one, events) = level();
    let two = one.copy();
    let mut both = Vec::new();
    for (disk, text, more) in [(&one, "ours", 1), (&two, "theirs", 2)] {
        let (mut log, _) = Direct::open(&disk.arc()).unwrap();
        let mut all = events.clone();
        for _ in 0..more {
            let append = [(20, fact(text))];
            log.append(&append).unwrap();
            all.extend(append);
        }
        log.follow();
        both.push(all);
    }
    one.state().mirror = two.state().mirror.clone();
    one.state().mirror_synced = two.state().mirror.clone();
    let theirs = both.pop().unwrap();
    (one, both.pop().unwrap(), theirs)
}

fn read(disk: &SimDisk) -> Vec<Record> {
    let file = disk.arc().open(JOURNAL).unwrap().unwrap();
    let (all, error) = read_file(LogFile::new(file).unwrap());
    assert!(error.is_none(), "{error:?}");
    all
}

fn repair(disk: &SimDisk, options: RepairOptions) -> Result<Vec<Repair>, OpenError> {
    let (store, repairs) = Store::repair_on(disk.arc(), options)?;
    store.close().unwrap();
    Ok(repairs)
}

fn mirror(disk: &SimDisk) -> MirrorMap {
    disk.state().mirror.clone().unwrap()
}

fn quarantined(disk: &SimDisk) -> Vec<Vec<u8>> {
    disk.file_names()
        .iter()
        .filter(|name| name.starts_with("quarantine/"))
        .map(|name| disk.file(name).unwrap())
        .collect()
}

/// Checks that everything that was in a copy is still there or in quarantine.
#[track_caller]
fn check_nothing_is_deleted(name: &str, before: &SimDisk, after: &SimDisk) {
    if let Some(old) = before.file(JOURNAL) {
        let new = after.journal();
        let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
        let kept = quarantined(after)
            .iter()
            .any(|kept| old.ends_with(kept) && same + kept.len() >= old.len());
        assert!(same == old.len() || kept, "{name}: bytes of the journal");
    }
    let old = before.state().mirror.clone();
    if let Some(old) = old {
        let new = mirror(after);
        let is_there = |(key, value): (&MirrorKey, &Vec<u8>)| {
            *key == MirrorKey::Head || new.get(key) == Some(value)
        };
        let aside = after.state().aside.values().any(|aside| *aside == old);
        assert!(old.iter().all(is_there) || aside, "{name}: blocks of sled");
    }
}

#[test]
fn a_rebuilt_copy_reports_its_restored_events() {
    for copy in [LogCopy::Journal, LogCopy::Sled] {
        let (disk, ours, theirs) = forked();
        let kept = if copy == LogCopy::Journal {
            ours
        } else {
            theirs
        };
        let repairs = repair(&disk, keep(copy)).unwrap();
        assert_eq!(repairs.len(), 1, "{repairs:?}");
        assert_ne!(repairs[0].copy, copy);
        assert_eq!(repairs[0].restored, kept.len() as u64);
        assert_eq!(read(&disk), records(&kept));
    }
}

struct Case {
    name: &'static str,
    disk: SimDisk,
    options: RepairOptions,
    /// The log afterwards.
    events: Vec<(u64, Event)>,
    /// Whether opening alone makes the same repair.
    opens: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, options, opens, (disk, events): (SimDisk, Vec<(u64, Event)>)| {
        cases.push(Case {
            name,
            disk,
            options,
            events,
            opens,
        });
    };
    let with = |(disk, events): (SimDisk, Vec<(u64, Event)>), kept, damage: &dyn Fn(&SimDisk)| {
        damage(&disk);
        let events: Vec<(u64, Event)> = events.into_iter().take(kept).collect();
        (disk, events)
    };
    case(
        "a block of the journal",
        NOTHING,
        true,
        with(level(), 24, &|disk| break_journal(disk, 3)),
    );
    case(
        "a block of sled",
        NOTHING,
        true,
        with(level(), 24, &|disk| break_sled(disk, 3)),
    );
    case(
        "different blocks of both",
        NOTHING,
        true,
        with(level(), 24, &|disk| {
            break_journal(disk, 2);
            break_sled(disk, 9);
        }),
    );
    case(
        "no journal",
        NOTHING,
        true,
        with(level(), 24, &SimDisk::remove_journal),
    );
    case(
        "no sled",
        NOTHING,
        true,
        with(level(), 24, &|disk| {
            let mut state = disk.state();
            (state.mirror, state.mirror_synced) = (None, None);
        }),
    );
    case(
        "a torn tail",
        NOTHING,
        true,
        with(lagging(), 22, &|disk| {
            let journal = disk.journal();
            disk.set_journal(&journal[..journal.len() - 5]);
        }),
    );
    case(
        "the same block of both",
        LOSS,
        false,
        with(level(), 6, &|disk| {
            break_journal(disk, 3);
            break_sled(disk, 3);
        }),
    );
    case(
        "a block that sled does not have yet",
        LOSS,
        false,
        with(lagging(), 18, &|disk| break_journal(disk, 9)),
    );
    case(
        "no journal, and a hole in sled",
        LOSS,
        false,
        with(level(), 10, &|disk| {
            disk.remove_journal();
            let mut state = disk.state();
            let mirror = state.mirror.as_mut().unwrap();
            mirror.remove(&MirrorKey::Block(5));
        }),
    );
    case(
        "no sled, and blocks of the journal moved about",
        LOSS,
        false,
        with(level(), 8, &|disk| {
            let journal = disk.journal();
            let at = starts(&journal);
            let mut mixed = journal[..at[1]].to_vec();
            mixed.extend(&journal[at[2]..at[4]]);
            mixed.extend(&journal[at[1]..at[2]]);
            mixed.extend(&journal[at[5]..]);
            disk.set_journal(&mixed);
            let mut state = disk.state();
            (state.mirror, state.mirror_synced) = (None, None);
        }),
    );
    case(
        "the first block of both",
        LOSS,
        false,
        with(level(), 0, &|disk| {
            break_journal(disk, 0);
            break_sled(disk, 0);
        }),
    );
    let (disk, ours, theirs) = forked();
    case(
        "a fork, the journal",
        keep(LogCopy::Journal),
        false,
        (disk.copy(), ours),
    );
    case("a fork, sled", keep(LogCopy::Sled), false, (disk, theirs));
    let (foreign, events) = level();
    let another = SimDisk::default();
    drop(Writer::create(&another.arc(), "another", [9; 16]).unwrap());
    let (map, synced) = {
        let state = another.state();
        (state.mirror.clone(), state.mirror_synced.clone())
    };
    {
        let mut state = foreign.state();
        (state.mirror, state.mirror_synced) = (map, synced);
    }
    case(
        "the sled of another run",
        keep(LogCopy::Journal),
        false,
        (foreign, events),
    );
    for case in &cases {
        // The events before it were durable.
        let state = &mut case.disk.state();
        state.mirror_synced = state.mirror.clone();
    }
    cases
}

#[test]
fn each_damage_is_repaired_on_request_and_nothing_is_deleted() {
    for case in cases() {
        let name = case.name;
        let disk = case.disk.copy();
        if !case.opens {
            let error = repair(&disk, NOTHING).unwrap_err();
            assert!(
                matches!(error, OpenError::Damaged { .. } | OpenError::Forked { .. }),
                "{name}: {error}"
            );
            assert_eq!(disk.file(JOURNAL), case.disk.file(JOURNAL), "{name}");
            assert_eq!(disk.state().mirror, case.disk.state().mirror, "{name}");
            assert_eq!(quarantined(&disk).len(), 0, "{name}: nothing was changed");
        }
        let repairs = repair(&disk, case.options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!repairs.is_empty(), "{name}: not reported");
        assert_eq!(read(&disk), records(&case.events), "{name}");
        check_nothing_is_deleted(name, &case.disk, &disk);
        let again = repair(&disk, NOTHING);
        if case.events.is_empty() {
            // Without any event there is no run.
            assert!(matches!(again, Err(OpenError::NotALog { .. })), "{name}");
            continue;
        }
        let again = again.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again, [], "{name}: there is no more to do");
    }
}

/// The number of events that are given up, of twelve appends with two events each.
#[test]
fn lost_events_are_counted() {
    #[track_caller]
    fn check(name: &str, want: &str) {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let repairs = repair(&case.disk, LOSS).unwrap();
        assert!(
            repairs.iter().any(|repair| repair.detail.contains(want)),
            "{name}: {repairs:#?}"
        );
    }
    check("the same block of both", "18 events from event 6 on");
    check(
        "a block that sled does not have yet",
        "6 events from event 18 on",
    );
    check(
        "no journal, and a hole in sled",
        "14 events from event 10 on",
    );
    check("the first block of both", "24 events from event 0 on");
    check(
        "no sled, and blocks of the journal moved about",
        "16 events from event 8 on",
    );
}

/// The machine stops before any change of a repair; the next repair completes it.
#[test]
fn an_interrupted_repair_is_completed_by_the_next() {
    let mut stops = 0;
    for case in cases() {
        let name = case.name;
        let undisturbed = case.disk.copy();
        repair(&undisturbed, case.options).unwrap();
        for changes in 0..1000 {
            let mut ended = false;
            for kept in [0, 40, usize::MAX >> 1] {
                let name = format!("{name}: stopped after {changes} changes, {kept} bytes more");
                let disk = case.disk.copy();
                disk.state().faults.changes_left = Some(changes);
                ended = repair_until_it_stops(&disk, case.options);
                stops += u32::from(!ended);
                disk.crash(kept);
                disk.state().faults.changes_left = None;

                let opened = disk.copy();
                match repair(&opened, NOTHING) {
                    Ok(_) => assert_eq!(opened.journal(), undisturbed.journal(), "{name}"),
                    Err(OpenError::Damaged { .. } | OpenError::Forked { .. }) => {
                        assert!(!case.opens && !ended, "{name}");
                    }
                    Err(OpenError::NotALog { .. }) if case.events.is_empty() => {
                        // Everything was already moved to quarantine.
                        assert_eq!(opened.journal(), undisturbed.journal(), "{name}");
                        check_nothing_is_deleted(&name, &case.disk, &disk);
                        continue;
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
                repair(&disk, case.options).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(disk.journal(), undisturbed.journal(), "{name}");
                assert_eq!(mirror(&disk), mirror(&undisturbed), "{name}");
                check_nothing_is_deleted(&name, &case.disk, &disk);
            }
            if ended {
                break;
            }
            assert!(changes < 999, "{name}: a repair has an end");
        }
    }
    assert!(stops > 200, "{stops}");
}

/// Returns whether the repair completed.
fn repair_until_it_stops(disk: &SimDisk, options: RepairOptions) -> bool {
    match Store::repair_on(disk.arc(), options) {
        Ok((store, _)) => store.close().is_ok(),
        Err(_) => false,
    }
}

#[test]
fn a_damaged_copy_cannot_be_kept() {
    let (disk, _, _) = forked();
    break_journal(&disk, 2);
    let (journal, sled) = (disk.journal(), mirror(&disk));
    let error = repair(&disk, keep(LogCopy::Journal)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!((disk.journal(), mirror(&disk)), (journal, sled));
    assert!(disk.state().aside.is_empty());
}

#[test]
fn an_unneeded_option_changes_nothing() {
    for options in [LOSS, keep(LogCopy::Journal), keep(LogCopy::Sled)] {
        let (disk, events) = level();
        let (journal, sled) = (disk.journal(), mirror(&disk));
        assert_eq!(repair(&disk, options).unwrap(), []);
        assert_eq!((disk.journal(), mirror(&disk)), (journal, sled));
        assert_eq!(read(&disk), records(&events));
    }
}

/// The first block of an append whose other blocks are missing is not part of the log.
#[test]
fn a_rebuilt_journal_ends_with_the_last_complete_append() {
    let (disk, events) = level();
    let complete = disk.journal();
    let (mut log, _) = Direct::open(&disk.arc()).unwrap();
    log.append(&[(30, fact(&"long ".repeat(4000)))]).unwrap();
    drop(log);
    let journal = disk.journal();
    let blocks = starts(&journal);
    assert!(blocks.len() > 14, "the append has several blocks");
    disk.set_journal(&journal[..blocks[13]]);
    break_journal(&disk, 3);
    drop(Direct::open(&disk.arc()).unwrap());
    assert_eq!(disk.journal(), complete);
    assert_eq!(read(&disk), records(&events));
}
