//! What a person may ask of a damaged log, and a machine that stops in the middle
//! of giving it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails so"
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

/// Twelve appends of two events, each a block; sled has the first eight.
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

/// The same with both copies at the head.
fn level() -> (SimDisk, Vec<(u64, Event)>) {
    let (disk, events) = lagging();
    drop(Direct::open(&disk.arc()).unwrap());
    (disk, events)
}

/// Offsets at which blocks begin, and the end.
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

/// Two logs that were one up to their last append, the journal of one and the sled of the other.
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

fn repair(disk: &SimDisk, wishes: RepairOptions) -> Result<Vec<Repair>, OpenError> {
    let (store, repairs) = Store::repair_on(disk.arc(), wishes)?;
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

/// Nothing that was in a copy is neither there any more nor in quarantine.
#[track_caller]
fn nothing_is_gone(name: &str, before: &SimDisk, after: &SimDisk) {
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
fn the_copy_that_is_made_anew_says_how_many_events_it_got() {
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
    wishes: RepairOptions,
    /// What the log is afterwards.
    events: Vec<(u64, Event)>,
    /// Whether opening alone does the same.
    opens: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, wishes, opens, (disk, events): (SimDisk, Vec<(u64, Event)>)| {
        cases.push(Case {
            name,
            disk,
            wishes,
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
        // what stands there before was durable
        let state = &mut case.disk.state();
        state.mirror_synced = state.mirror.clone();
    }
    cases
}

#[test]
fn each_damage_is_repaired_as_asked_and_nothing_is_thrown_away() {
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
        let repairs = repair(&disk, case.wishes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!repairs.is_empty(), "{name}: said in words");
        assert_eq!(read(&disk), records(&case.events), "{name}");
        nothing_is_gone(name, &case.disk, &disk);
        let again = repair(&disk, NOTHING);
        if case.events.is_empty() {
            // with every event given up there is no run any more
            assert!(matches!(again, Err(OpenError::NotALog { .. })), "{name}");
            continue;
        }
        let again = again.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(again, [], "{name}: there is no more to do");
    }
}

/// Counts what is given up: twelve appends of two events each.
#[test]
fn what_is_given_up_is_said_in_numbers() {
    #[track_caller]
    fn check(name: &str, want: &str) {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let told = repair(&case.disk, LOSS).unwrap();
        assert!(
            told.iter().any(|repair| repair.detail.contains(want)),
            "{name}: {told:#?}"
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

/// The machine stops before any change that a repair makes; the next repair ends it.
#[test]
fn a_repair_that_is_cut_short_is_ended_by_the_next() {
    let mut stops = 0;
    for case in cases() {
        let name = case.name;
        let undisturbed = case.disk.copy();
        repair(&undisturbed, case.wishes).unwrap();
        for changes in 0..1000 {
            let mut ended = false;
            for kept in [0, 40, usize::MAX >> 1] {
                let name = format!("{name}: stopped after {changes} changes, {kept} bytes more");
                let disk = case.disk.copy();
                disk.state().faults.changes_left = Some(changes);
                ended = repair_until_it_stops(&disk, case.wishes);
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
                        // everything was put aside already
                        assert_eq!(opened.journal(), undisturbed.journal(), "{name}");
                        nothing_is_gone(&name, &case.disk, &disk);
                        continue;
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
                repair(&disk, case.wishes).unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(disk.journal(), undisturbed.journal(), "{name}");
                assert_eq!(mirror(&disk), mirror(&undisturbed), "{name}");
                nothing_is_gone(&name, &case.disk, &disk);
            }
            if ended {
                break;
            }
            assert!(changes < 999, "{name}: a repair has an end");
        }
    }
    assert!(stops > 200, "{stops}");
}

/// Whether the repair came to its end.
fn repair_until_it_stops(disk: &SimDisk, wishes: RepairOptions) -> bool {
    match Store::repair_on(disk.arc(), wishes) {
        Ok((store, _)) => store.close().is_ok(),
        Err(_) => false,
    }
}

#[test]
fn a_copy_that_is_not_whole_is_not_chosen() {
    let (disk, _, _) = forked();
    break_journal(&disk, 2);
    let (journal, sled) = (disk.journal(), mirror(&disk));
    let error = repair(&disk, keep(LogCopy::Journal)).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert_eq!((disk.journal(), mirror(&disk)), (journal, sled));
    assert!(disk.state().aside.is_empty());
}

#[test]
fn a_wish_that_nothing_needs_changes_nothing() {
    for wishes in [LOSS, keep(LogCopy::Journal), keep(LogCopy::Sled)] {
        let (disk, events) = level();
        let (journal, sled) = (disk.journal(), mirror(&disk));
        assert_eq!(repair(&disk, wishes).unwrap(), []);
        assert_eq!((disk.journal(), mirror(&disk)), (journal, sled));
        assert_eq!(read(&disk), records(&events));
    }
}
