//! The log on a failing disk: every kind of damage to a small log, crashes during
//! writes, a full disk. No case may panic, return an event that was not appended, or
//! lose an acknowledged one silently.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)] // a test panics to fail

mod store_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use store_support::sim_disk::SimDisk;
use store_support::{Direct, decision, fact, mixture, read_all, read_file, records};
use tinygate::events::{Event, Record, Seq};
use tinygate::store::disk::{Disk, JOURNAL, MirrorError, MirrorKey};
use tinygate::store::{
    AppendError, Durability, EncodedAppend, EventLog, FILE_HEADER, Failure, LogCopy, LogFile,
    MAX_BLOCK, OpenError, ReadErrorKind, Store,
};

/// A log of several appends, in both copies, and its events.
fn small_log() -> (SimDisk, Vec<(u64, Event)>) {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    let mut events = Vec::new();
    for at in 0..6 {
        let append: Vec<(u64, Event)> = (0..=at % 3)
            .map(|n| (at, fact(&format!("{at}.{n}"))))
            .collect();
        log.append(&append).unwrap();
        events.extend(append);
    }
    log.follow();
    (disk, events)
}

fn read_sim(disk: &SimDisk) -> (Vec<Record>, Option<tinygate::store::ReadError>) {
    let Some(file) = disk.arc().open(JOURNAL).unwrap() else {
        // Before its first event.
        return (Vec::new(), None);
    };
    match LogFile::new(file) {
        Ok(log) => read_file(log),
        Err(error) => (Vec::new(), Some(error)),
    }
}

/// The offsets of a journal's blocks, and its end.
fn block_starts(journal: &[u8]) -> Vec<usize> {
    let mut at = FILE_HEADER;
    let mut starts = vec![at];
    while at < journal.len() {
        at += 104 + usize::from(u16::from_le_bytes([journal[at + 36], journal[at + 37]]));
        starts.push(at);
    }
    starts
}

/// Opens the log for writing and returns its events; both copies must agree afterwards.
#[track_caller]
fn reopen(name: &str, disk: &SimDisk) -> Result<(Vec<Record>, usize), OpenError> {
    let (log, repairs) = Direct::open(&disk.arc())?;
    drop(log);
    let (events, error) = read_sim(disk);
    assert!(error.is_none(), "{name}: {error:?}");
    let again = match Direct::open(&disk.arc()) {
        Ok((_, again)) => again,
        // The first append was cut off.
        Err(OpenError::NotALog { .. }) if events.is_empty() => Vec::new(),
        Err(error) => panic!("{name}: {error}"),
    };
    assert!(
        again.is_empty(),
        "{name}: opening again finds more to repair: {again:?}"
    );
    let journal = disk.journal();
    let blocks = block_starts(&journal);
    let state = disk.state();
    let mirror = state.mirror.as_ref().unwrap();
    assert_eq!(
        mirror.len(),
        blocks.len() - 1 + 2,
        "{name}: sled has blocks, head and header"
    );
    for (number, pair) in blocks.windows(2).enumerate() {
        assert_eq!(
            mirror[&MirrorKey::Block(number as u64)],
            journal[pair[0]..pair[1]],
            "{name}"
        );
    }
    Ok((events, repairs.len()))
}

#[test]
fn every_flipped_byte_of_the_journal_is_repaired_from_sled() {
    let (whole, events) = small_log();
    let journal = whole.journal();
    for at in 0..journal.len() {
        for flip in [0x01, 0x80, 0xff] {
            let name = format!("byte {at} ^ {flip:02x}");
            let disk = whole.copy();
            let mut damaged = journal.clone();
            damaged[at] ^= flip;
            disk.set_journal(&damaged);

            let (read, error) = read_sim(&disk);
            let error = error.unwrap_or_else(|| panic!("{name}: not noticed by a reader"));
            assert_eq!(read, records(&events)[..read.len()], "{name}");
            assert!(
                matches!(
                    error.kind,
                    ReadErrorKind::Damaged { .. } | ReadErrorKind::NotALog { .. }
                ),
                "{name}: {error}"
            );
            assert!(error.seq.get() <= read.len() as u64, "{name}");

            let (all, repairs) =
                reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(all, records(&events), "{name}");
            assert_eq!(repairs, 1, "{name}");
            assert_eq!(disk.journal(), journal, "{name}: the journal is as it was");
            let kept = disk.file("quarantine/1-journal").unwrap();
            assert!(
                damaged.ends_with(&kept) && kept.len() + at >= kept.len(),
                "{name}: the damaged bytes are kept"
            );
        }
    }
}

#[test]
fn every_flipped_byte_without_sled_is_an_error_or_loses_only_the_last_append() {
    let (whole, events) = small_log();
    let journal = whole.journal();
    let starts = block_starts(&journal);
    let last = starts[starts.len() - 2];
    for at in 0..journal.len() {
        let name = format!("byte {at}");
        let disk = whole.copy();
        disk.state().mirror = None;
        let mut damaged = journal.clone();
        damaged[at] ^= 0x10;
        disk.set_journal(&damaged);
        match reopen(&name, &disk) {
            Ok((all, repairs)) => {
                assert!(
                    at < FILE_HEADER || at >= last,
                    "{name}: an append was dropped that another follows"
                );
                assert_eq!(all, records(&events)[..all.len()], "{name}");
                assert!(
                    at >= last || all.len() == events.len(),
                    "{name}: the header was corrected"
                );
                assert!(repairs >= 1, "{name}: not reported");
            }
            Err(OpenError::Damaged { sound, .. }) => {
                assert!(FILE_HEADER <= at && at < last, "{name}");
                let before = starts.iter().filter(|start| **start <= at).count();
                let whole_appends = [0, 1, 3, 6, 7, 9, 12];
                assert_eq!(sound.get(), whole_appends[before - 1], "{name}");
                assert_eq!(disk.journal(), damaged, "{name}: nothing was changed");
                assert!(disk.state().mirror.is_none(), "{name}: nothing was changed");
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn every_flipped_byte_of_a_block_in_sled_is_repaired_from_the_journal() {
    let (whole, events) = small_log();
    let mirror = whole.state().mirror.clone().unwrap();
    for (key, value) in &mirror {
        for at in 0..value.len() {
            let name = format!("{key:?} byte {at}");
            let disk = whole.copy();
            let mut damaged = value.clone();
            damaged[at] ^= 4;
            disk.state().mirror.as_mut().unwrap().insert(*key, damaged);
            let (all, repairs) =
                reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(all, records(&events), "{name}");
            // A wrong head is only rewritten.
            assert_eq!(repairs, usize::from(*key != MirrorKey::Head), "{name}");
        }
    }
    for key in mirror.keys() {
        let name = format!("{key:?} removed");
        let disk = whole.copy();
        disk.state().mirror.as_mut().unwrap().remove(key);
        let (all, _) = reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(all, records(&events), "{name}");
    }
}

#[test]
fn a_truncated_journal_is_completed_from_sled() {
    let (whole, events) = small_log();
    let journal = whole.journal();
    for length in 0..journal.len() {
        let name = format!("cut to {length}");
        let disk = whole.copy();
        disk.set_journal(&journal[..length]);
        let (read, _) = read_sim(&disk);
        assert_eq!(read, records(&events)[..read.len()], "{name}");
        let (all, repairs) = reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(all, records(&events), "{name}");
        assert_eq!(repairs, 1, "{name}");
        assert_eq!(disk.journal(), journal, "{name}");
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_kept() {
    let (disk, events) = small_log();
    let before = disk.journal();
    let (mut log, _) = Direct::open(&disk.arc()).unwrap();
    log.append(&[(9, fact("torn")), (9, fact("off"))]).unwrap();
    let after = disk.journal();
    for length in before.len() + 1..after.len() {
        for zeros in [0, 700] {
            if zeros > 0 && after[length..].iter().all(|byte| *byte == 0) {
                continue; // the missing bytes are zeros, so the block is intact
            }
            let name = format!("{length} bytes and {zeros} zeros");
            let disk = disk.copy();
            let mut torn = after[..length].to_vec();
            let (read, error) = {
                disk.set_journal(&torn);
                read_sim(&disk)
            };
            assert!(
                error.is_none(),
                "{name}: an unfinished write is not damage: {error:?}"
            );
            assert_eq!(read, records(&events), "{name}");
            torn.extend(vec![0; zeros]);
            disk.set_journal(&torn);
            let (all, repairs) =
                reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(all, records(&events), "{name}");
            assert_eq!(repairs, 1, "{name}");
            assert_eq!(disk.journal(), before, "{name}");
            assert_eq!(
                disk.pristine("quarantine/1-journal").unwrap(),
                torn[before.len()..],
                "{name}: kept durably, before it is cut off"
            );
            assert_eq!(disk.pristine(JOURNAL).unwrap(), before, "{name}: durably");
        }
    }
}

/// Part of an append is never kept, whichever copies have it.
#[test]
fn an_append_of_several_blocks_is_kept_or_dropped_as_a_whole() {
    let (disk, events) = small_log();
    let before = disk.journal();
    let (mut log, _) = Direct::open(&disk.arc()).unwrap();
    let large = [
        (9, fact(&"x".repeat(3 * MAX_BLOCK))),
        (9, decision(1)),
        (9, fact(&"y".repeat(MAX_BLOCK))),
    ];
    log.append(&large).unwrap();
    log.follow();
    let after = disk.journal();
    let starts = block_starts(&after);
    let blocks_before = block_starts(&before).len() - 1;
    for (number, start) in starts.iter().enumerate().skip(blocks_before) {
        for in_sled in blocks_before..=number {
            let name = format!("{number} blocks in the journal, {in_sled} in sled");
            let disk = disk.copy();
            disk.set_journal(&after[..*start]);
            let mut state = disk.state();
            let mirror = state.mirror.as_mut().unwrap();
            mirror.retain(|key, _| !matches!(key, MirrorKey::Block(at) if *at >= in_sled as u64));
            mirror.remove(&MirrorKey::Head);
            drop(state);
            let (all, repairs) =
                reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
            let cut = blocks_before < number && number + 1 < starts.len();
            assert_eq!(
                repairs,
                usize::from(cut),
                "{name}: of the journal, for sled is not damaged by an unfinished append"
            );
            if number + 1 == starts.len() {
                assert_eq!(all.len(), events.len() + 3, "{name}");
            } else {
                assert_eq!(all, records(&events), "{name}");
                assert_eq!(disk.journal(), before, "{name}");
            }
        }
    }
}

/// The journal ends before a block that sled has lost too; only later blocks in sled show that
/// it was stored.
#[test]
fn a_block_missing_from_both_copies_is_a_loss_if_sled_has_later_ones() {
    let (disk, _) = small_log();
    let journal = disk.journal();
    let starts = block_starts(&journal);
    disk.set_journal(&journal[..starts[3]]);
    disk.lose_mirror(Some(MirrorKey::Head));
    disk.lose_mirror(Some(MirrorKey::Block(3)));
    let Err(OpenError::Damaged { sound, what }) = reopen("refused", &disk) else {
        panic!("a loss is not noticed");
    };
    assert_eq!(sound, Seq::new(read_sim(&disk).0.len() as u64));
    assert!(what.contains("a later block in sled"), "{what}");
    assert!(
        disk.journal() == journal[..starts[3]],
        "nothing was changed"
    );
}

#[test]
fn damage_at_different_places_of_the_copies_is_repaired() {
    let (whole, events) = small_log();
    let journal = whole.journal();
    let starts = block_starts(&journal);
    for in_journal in 0..starts.len() - 1 {
        for in_sled in 0..starts.len() - 1 {
            let name = format!("block {in_journal} of the journal, block {in_sled} of sled");
            let disk = whole.copy();
            let mut damaged = journal.clone();
            damaged[starts[in_journal] + 50] ^= 1;
            disk.set_journal(&damaged);
            disk.state()
                .mirror
                .as_mut()
                .unwrap()
                .get_mut(&MirrorKey::Block(in_sled as u64))
                .unwrap()[60] ^= 1;
            match reopen(&name, &disk) {
                Ok((all, repairs)) => {
                    assert_ne!(in_journal, in_sled, "{name}");
                    assert_eq!(all, records(&events), "{name}");
                    assert_eq!(repairs, 2, "{name}");
                }
                Err(OpenError::Damaged { sound, .. }) => {
                    assert_eq!(in_journal, in_sled, "{name}");
                    assert_eq!(sound.get(), [0, 1, 3, 6, 7, 9][in_sled], "{name}");
                    assert_eq!(disk.journal(), damaged, "{name}: nothing was changed");
                }
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }
}

/// A journal with rearranged blocks, with and without sled.
#[test]
fn blocks_duplicated_removed_swapped_and_foreign() {
    let (whole, events) = small_log();
    let journal = whole.journal();
    let starts = block_starts(&journal);
    let block = |n: usize| journal[starts[n]..starts[n + 1]].to_vec();
    let other = {
        let disk = SimDisk::default();
        let mut log = Direct {
            writer: tinygate::store::Writer::create(&disk.arc(), "a run", [8; 16]).unwrap(),
        };
        log.append(&[(0, fact("0.0"))]).unwrap();
        disk.journal()[FILE_HEADER..].to_vec()
    };
    let blocks: Vec<Vec<u8>> = (0..6).map(block).collect();
    let build = |parts: &[&Vec<u8>]| {
        let mut bytes = journal[..FILE_HEADER].to_vec();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    };
    let b = &blocks;
    let cases = [
        (
            "the first block twice",
            build(&[&b[0], &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]]),
            true,
        ),
        (
            "the last block twice",
            build(&[&b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &b[5]]),
            true,
        ),
        (
            "a block removed",
            build(&[&b[0], &b[1], &b[3], &b[4], &b[5]]),
            false,
        ),
        (
            "the first block removed",
            build(&[&b[1], &b[2], &b[3], &b[4], &b[5]]),
            false,
        ),
        (
            "two blocks swapped",
            build(&[&b[0], &b[2], &b[1], &b[3], &b[4], &b[5]]),
            true,
        ),
        (
            "the order reversed",
            build(&[&b[5], &b[4], &b[3], &b[2], &b[1], &b[0]]),
            true,
        ),
        (
            "a block of another run in the middle",
            build(&[&b[0], &b[1], &other, &b[2], &b[3], &b[4], &b[5]]),
            true,
        ),
        (
            "a block of another run in the place of one",
            build(&[&b[0], &other, &b[2], &b[3], &b[4], &b[5]]),
            false,
        ),
        (
            "a block of another run at the end",
            build(&[&b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &other]),
            true,
        ),
    ];
    for (name, bytes, alone) in cases {
        let disk = whole.copy();
        disk.set_journal(&bytes);
        let (read, error) = read_sim(&disk);
        assert_eq!(read, records(&events)[..read.len()], "{name}");
        assert!(error.is_some(), "{name}: a reader notices");
        let (all, repairs) = reopen(name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((all, repairs), (records(&events), 1), "{name}");

        let disk = whole.copy();
        disk.set_journal(&bytes);
        disk.state().mirror = None;
        match reopen(name, &disk) {
            Ok((all, _)) => {
                assert!(alone, "{name}");
                assert_eq!(all, records(&events), "{name}");
            }
            Err(OpenError::Damaged { .. }) => assert!(!alone, "{name}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn two_intact_copies_that_differ_are_left_unchanged() {
    let (one, events) = small_log();
    let two = one.copy();
    for (disk, text) in [(&one, "ours"), (&two, "theirs")] {
        let (mut log, _) = Direct::open(&disk.arc()).unwrap();
        log.append(&[(1, fact(text))]).unwrap();
        log.append(&[(2, fact("then"))]).unwrap();
        log.follow();
    }
    let mixed = one.copy();
    mixed.state().mirror = two.state().mirror.clone();
    let (journal, mirror) = (mixed.journal(), mixed.state().mirror.clone());
    let error = Direct::open(&mixed.arc()).err().unwrap();
    let OpenError::Forked {
        seq,
        journal: ours,
        sled,
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(seq.get(), events.len() as u64);
    assert_ne!(ours.hash, sled.hash);
    assert_eq!((ours.events, sled.events), (seq.get() + 2, seq.get() + 2));
    assert!(
        error.to_string().contains(&ours.hash[..16])
            && error.to_string().contains(&sled.hash[..16])
    );
    assert_eq!(
        (mixed.journal(), mixed.state().mirror.clone()),
        (journal, mirror)
    );
    assert!(mixed.state().aside.is_empty());

    let foreign = SimDisk::default();
    drop(tinygate::store::Writer::create(&foreign.arc(), "another", [9; 16]).unwrap());
    foreign.set_journal(&one.journal());
    assert!(matches!(
        Direct::open(&foreign.arc()),
        Err(OpenError::Forked {
            seq: Seq::FIRST,
            ..
        })
    ));
}

#[test]
fn either_copy_alone_restores_the_log() {
    let (whole, events) = small_log();
    let disk = whole.copy();
    disk.remove_journal();
    assert_eq!(reopen("no journal", &disk).unwrap(), (records(&events), 1));
    assert_eq!(disk.journal(), whole.journal());

    let disk = whole.copy();
    disk.state().mirror = None;
    assert_eq!(reopen("no sled", &disk).unwrap(), (records(&events), 1));

    let disk = whole.copy();
    disk.state().faults.mirror_does_not_open = Some(MirrorError::Failed("it panicked".into()));
    let (_, repairs) = Direct::open(&disk.arc()).unwrap();
    assert_eq!(repairs.len(), 1);
    assert_eq!(repairs[0].copy, LogCopy::Sled);
    assert_eq!(repairs[0].quarantine.as_deref(), Some("quarantine/1-sled"));
    assert_eq!(repairs[0].restored, events.len() as u64);

    let disk = SimDisk::default();
    assert!(matches!(
        Direct::open(&disk.arc()),
        Err(OpenError::NotALog { .. })
    ));
    whole.remove_journal();
    whole.state().faults.mirror_does_not_open = Some(MirrorError::Failed("it panicked".into()));
    assert!(matches!(
        Direct::open(&whole.arc()),
        Err(OpenError::Damaged { .. })
    ));
}

/// A power cut that keeps any number of unsynced bytes, between any two appends.
#[test]
fn a_power_cut_loses_no_acknowledged_event() {
    let append = |at: u64| vec![(at, fact(&format!("{at}"))), (at, decision(at as u32))];
    for acknowledged in 0..5u64 {
        for kept in (0..500).step_by(7) {
            let name = format!("{acknowledged} appends, {kept} bytes of the next");
            let disk = SimDisk::default();
            let mut log = Direct::create(&disk.arc());
            let mut events = Vec::new();
            for at in 0..acknowledged {
                log.append(&append(at)).unwrap();
                events.extend(append(at));
                if at % 2 == 0 {
                    log.follow();
                } else {
                    log.writer.follow(false).unwrap();
                }
            }
            disk.state().faults.sync_fails = true;
            log.append(&append(acknowledged)).unwrap_err();
            events.extend(append(acknowledged));
            drop(log);
            disk.state().faults.sync_fails = false;
            disk.crash(kept);
            let all = match reopen(&name, &disk) {
                Ok((all, _)) => all,
                Err(OpenError::NotALog { .. }) if acknowledged == 0 => Vec::new(),
                Err(error) => panic!("{name}: {error}"),
            };
            assert_eq!(all, records(&events)[..all.len()], "{name}");
            assert!(
                all.len() == 2 * acknowledged as usize || all.len() == events.len(),
                "{name}: whole appends only"
            );
        }
    }
}

/// The repair fails at every write; the next one completes it.
#[test]
fn a_repair_on_a_full_disk_loses_nothing() {
    let (whole, events) = small_log();
    let mut damaged = whole.journal();
    damaged[FILE_HEADER + 40] ^= 1;
    let used = damaged.len();
    let mut refused = 0;
    for room in (0..2 * used + 50).step_by(13) {
        let name = format!("room for {room} bytes");
        let disk = whole.copy();
        disk.set_journal(&damaged);
        disk.state().faults.capacity = Some(used + room);
        match Direct::open(&disk.arc()) {
            Ok(_) => {}
            Err(OpenError::DiskFull { .. }) => refused += 1,
            Err(other) => panic!("{name}: {other}"),
        }
        disk.state().faults.capacity = None;
        let (all, _) = reopen(&name, &disk).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(all, records(&events), "{name}");
    }
    assert!(refused > 10);
}

#[test]
fn appends_work_again_once_a_full_disk_has_space() {
    let (whole, mut events) = small_log();
    let used = whole.journal().len();
    let mut full = 0;
    for room in 0..300 {
        let disk = whole.copy();
        let (mut log, _) = Direct::open(&disk.arc()).unwrap();
        disk.state().faults.capacity = Some(used + room);
        disk.state().faults.short = Some(50);
        match log.append(&[(1, fact("does it fit?")), (1, decision(1))]) {
            Ok(_) => continue,
            Err(failure) => assert_eq!(failure, Failure::DiskFull, "{room}"),
        }
        full += 1;
        assert_eq!(
            disk.journal(),
            whole.journal(),
            "{room}: the half block is gone"
        );
        disk.state().faults.capacity = None;
        let head = log.append(&[(2, fact("now it does"))]).unwrap();
        assert_eq!(head.get(), events.len() as u64 + 1);
    }
    assert!(full > 100, "{full}");

    let (store, _) = Store::open_on(whole.arc()).unwrap();
    let head = store.head();
    whole.state().faults.capacity = Some(used + 10);
    let answer = store.append(head, &[(1, fact("no"))], Durability::Durable);
    assert!(
        matches!(answer, Err(AppendError::DiskFull { head: at }) if at == head),
        "{answer:?}"
    );
    assert_eq!(store.head(), head);

    // The next call reports the loss of a lazy append, and the store continues.
    store
        .append(head, &[(1, fact("lost"))], Durability::Lazy)
        .unwrap();
    assert!(matches!(store.sync(), Err(AppendError::DiskFull { .. })));
    let answer = store.append(
        Seq::new(head.get() + 1),
        &[(1, fact("after"))],
        Durability::Durable,
    );
    assert!(
        matches!(answer, Err(AppendError::DiskFull { head: at }) if at == head),
        "{answer:?}"
    );
    whole.state().faults.capacity = None;
    store
        .append(head, &[(3, fact("space again"))], Durability::Durable)
        .unwrap();
    events.push((3, fact("space again")));
    assert_eq!(read_all(&store), records(&events));
    store.close().unwrap();
}

#[test]
fn a_sync_reports_an_earlier_lost_lazy_append() {
    let (disk, events) = small_log();
    let (store, _) = Store::open_on(disk.arc()).unwrap();
    let head = store.head();
    disk.state().faults.capacity = Some(disk.journal().len() + 10);
    // So large that it is written at once, although no caller waits for it.
    let large = fact(&"lost".repeat(1 << 19));
    store.append(head, &[(1, large)], Durability::Lazy).unwrap();
    let answer = store.sync();
    assert!(
        matches!(answer, Err(AppendError::DiskFull { head: at }) if at == head),
        "{answer:?}"
    );
    assert_eq!(store.sync().unwrap(), head, "the loss is reported once");
    drop(store);
    disk.state().faults.capacity = None;
    assert_eq!(reopen("after", &disk).unwrap().0, records(&events));
}

/// Appends that arrive while the writer is busy are written in groups of a megabyte. A group that
/// fails on a full disk does not affect earlier ones.
#[test]
fn a_full_disk_only_fails_its_own_group() {
    let (disk, events) = small_log();
    let (store, _) = Store::open_on(disk.arc()).unwrap();
    let head = store.head().get();
    let room = disk.journal().len() + (5 << 19);
    // The writer waits for the disk while this is held.
    let mut busy = disk.state();
    busy.faults.capacity = Some(room);
    for at in 0..3 {
        let large = [(1, fact(&"x".repeat(1 << 20)))];
        let at = Seq::new(head + at);
        store.append(at, &large, Durability::Lazy).unwrap();
    }
    drop(busy);
    let answer = store.sync();
    assert!(
        matches!(answer, Err(AppendError::DiskFull { head: at }) if at.get() == head + 2),
        "{answer:?}"
    );
    drop(store);
    disk.state().faults.capacity = None;
    let read = reopen("after", &disk).unwrap().0;
    assert_eq!(read.len(), events.len() + 2);
}

#[test]
fn closing_reports_a_lost_lazy_append() {
    let (disk, events) = small_log();
    let (store, _) = Store::open_on(disk.arc()).unwrap();
    let head = store.head();
    let used = disk.journal().len();
    disk.state().faults.capacity = Some(used + 10);
    store
        .append(head, &[(1, fact("lost"))], Durability::Lazy)
        .unwrap();
    assert!(matches!(store.close(), Err(AppendError::DiskFull { head: at }) if at == head));
    disk.state().faults.capacity = None;
    assert_eq!(reopen("after", &disk).unwrap().0, records(&events));
}

#[test]
fn sled_on_a_full_disk_is_not_damaged() {
    let (disk, events) = small_log();
    disk.state().faults.mirror_does_not_open = Some(MirrorError::DiskFull);
    assert!(matches!(
        Direct::open(&disk.arc()),
        Err(OpenError::DiskFull { .. })
    ));
    disk.state().faults.mirror_does_not_open = Some(MirrorError::InUse);
    assert!(matches!(
        Direct::open(&disk.arc()),
        Err(OpenError::SledInUse)
    ));
    disk.state().faults.mirror_does_not_open = None;
    assert!(disk.state().aside.is_empty());
    assert_eq!(reopen("after", &disk).unwrap(), (records(&events), 0));
}

#[test]
fn after_a_failed_sync_appends_are_rejected() {
    let (disk, events) = small_log();
    let (store, _) = Store::open_on(disk.arc()).unwrap();
    let head = store.head();
    disk.state().faults.sync_fails = true;
    let answer = store.append(head, &[(1, fact("x"))], Durability::Durable);
    assert!(
        matches!(&answer, Err(AppendError::Refused { why, .. }) if why.contains("synced")),
        "{answer:?}"
    );
    disk.state().faults.sync_fails = false;
    for durability in [Durability::Durable, Durability::Lazy] {
        let answer = store.append(head, &[(1, fact("x"))], durability);
        assert!(
            matches!(answer, Err(AppendError::Refused { .. })),
            "{answer:?}"
        );
    }
    assert!(store.close().is_err());
    disk.crash(0);
    assert_eq!(reopen("after", &disk).unwrap().0, records(&events));
}

#[test]
fn a_failed_write_that_cannot_be_cut_off_stops_the_store() {
    let (disk, events) = small_log();
    let (mut log, _) = Direct::open(&disk.arc()).unwrap();
    disk.state().faults.capacity = Some(disk.journal().len() + 30);
    disk.state().faults.set_len_fails = true;
    assert!(matches!(
        log.append(&[(1, fact("x"))]),
        Err(Failure::Refused(_))
    ));
    disk.state().faults.capacity = None;
    disk.state().faults.set_len_fails = false;
    assert!(matches!(
        log.append(&[(1, fact("x"))]),
        Err(Failure::Refused(_))
    ));
    assert_eq!(reopen("after", &disk).unwrap().0, records(&events));

    let (mut log, _) = Direct::open(&disk.arc()).unwrap();
    disk.state().faults.write_fails = true;
    assert!(matches!(
        log.append(&[(1, fact("x"))]),
        Err(Failure::Refused(_))
    ));
}

#[test]
fn a_sled_that_fails_stops_the_store_but_loses_nothing() {
    let (disk, mut events) = small_log();
    let (store, _) = Store::open_on(disk.arc()).unwrap();
    disk.state().faults.mirror_fails = Some(MirrorError::DiskFull);
    store
        .append(store.head(), &[(1, decision(1))], Durability::Durable)
        .unwrap();
    events.push((1, decision(1)));
    // The failure is known after the next turn of the writer.
    assert!(store.sync().is_err());
    let answer = store.append(store.head(), &[(1, fact("x"))], Durability::Durable);
    assert!(
        matches!(&answer, Err(AppendError::Refused { why, .. }) if why.contains("sled")),
        "{answer:?}"
    );
    drop(store);
    disk.state().faults.mirror_fails = None;
    assert_eq!(reopen("after", &disk).unwrap().0, records(&events));
}

#[test]
fn short_reads_and_writes_change_nothing() {
    let disk = SimDisk::default();
    disk.state().faults.short = Some(11);
    let mut log = Direct::create(&disk.arc());
    let events = mixture(4, 100);
    log.append(&events).unwrap();
    log.follow();
    drop(log);
    assert_eq!(reopen("short", &disk).unwrap().0, records(&events));
    assert!(
        disk.state().faults.hits["short read"] > 0 && disk.state().faults.hits["short write"] > 0
    );
}

/// Without a thread everything happens in the caller's order and by the caller's clock.
#[test]
fn a_store_in_steps_follows_its_clock() {
    let disk = SimDisk::default();
    let milliseconds = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let theirs = Arc::clone(&milliseconds);
    let now = move || start + Duration::from_millis(theirs.load(Ordering::Relaxed));
    let store = Store::create_in_steps(disk.arc(), "a run", [7; 16], now).unwrap();
    let append = |event: Event, durability| {
        let event = [(1, event)];
        store.append(store.head(), &event, durability).unwrap()
    };
    let on_disk = || read_sim(&disk).0.len();
    let in_sled = || disk.state().mirror.as_ref().map_or(0, |map| map.len() - 2);
    let is_synced = || {
        let state = disk.state();
        state.mirror == state.mirror_synced
    };

    append(fact("lazy"), Durability::Lazy);
    milliseconds.store(399, Ordering::Relaxed);
    store.step();
    assert_eq!(on_disk(), 0, "its time has not passed");
    // Samples wait half a second in the trainer; both delays together stay below a second.
    milliseconds.store(400, Ordering::Relaxed);
    store.step();
    assert_eq!((on_disk(), in_sled()), (1, 0), "sled follows later");
    milliseconds.store(1400, Ordering::Relaxed);
    store.step();
    assert_eq!(in_sled(), 1);
    assert!(is_synced(), "durably");
    append(fact("lazy"), Durability::Lazy);
    append(fact("durable"), Durability::Durable);
    assert_eq!((on_disk(), in_sled()), (3, 1), "with what came before it");
    append(decision(1), Durability::Durable);
    assert_eq!((on_disk(), in_sled()), (4, 3), "sled follows a decision");
    assert!(is_synced(), "durably");
    append(fact("lazy"), Durability::Lazy);
    store.close().unwrap();
    assert_eq!((on_disk(), in_sled()), (5, 4));
    assert!(is_synced(), "durably");
    assert_eq!(reopen("after", &disk).unwrap().1, 0);
}

/// A process that was killed between its write and its sync leaves an intact block that a power
/// cut destroys. The next process syncs it first; otherwise sled could show that it was stored
/// although it is lost.
#[test]
fn opening_syncs_the_journal_before_it_updates_sled() {
    let (disk, mut events) = small_log();
    let (mut log, _) = Direct::open(&disk.arc()).unwrap();
    disk.state().faults.sync_fails = true;
    let late = [(9, fact("never synced"))];
    assert!(matches!(log.append(&late), Err(Failure::Refused(_))));
    drop(log);
    disk.state().faults.sync_fails = false;
    assert!(disk.pristine(JOURNAL).unwrap() < disk.journal());

    let broken = MirrorError::Failed("planned fault".to_owned());
    disk.state().faults.mirror_fails = Some(broken);
    assert!(matches!(
        Direct::open(&disk.arc()),
        Err(OpenError::Sled { .. })
    ));
    assert!(
        disk.pristine(JOURNAL).unwrap() == disk.journal(),
        "all of it survives a power cut"
    );
    disk.state().faults.mirror_fails = None;
    disk.crash(0);
    events.extend(late);
    assert_eq!(reopen("after", &disk).unwrap().0, records(&events));
}

/// The next sync does not report a lazy append as durable that failed on a full disk.
#[test]
fn a_sync_reports_a_lost_lazy_append() {
    let disk = SimDisk::default();
    let milliseconds = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let theirs = Arc::clone(&milliseconds);
    let now = move || start + Duration::from_millis(theirs.load(Ordering::Relaxed));
    let store = Store::create_in_steps(disk.arc(), "a run", [7; 16], now).unwrap();
    let append = |event| store.append(store.head(), &[(1, event)], Durability::Lazy);
    append(fact("lazy")).unwrap();
    disk.state().faults.capacity = Some(0);
    milliseconds.store(1000, Ordering::Relaxed);
    store.step();
    disk.state().faults.capacity = None;
    let answer = store.sync();
    assert!(
        matches!(answer, Err(AppendError::DiskFull { head }) if head == Seq::FIRST),
        "{answer:?}"
    );
    append(fact("again")).unwrap();
    assert_eq!(store.sync().unwrap(), Seq::new(1));
}

#[test]
fn small_appends_share_a_block_until_it_is_full() {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    let mut events = Vec::new();
    for at in 0..2000u64 {
        let append = mixture(at, (at % 4) as usize + 1);
        log.writer
            .add(&EncodedAppend::encode(log.writer.next(), &append).unwrap());
        events.extend(append);
    }
    log.writer.commit().unwrap();
    log.follow();
    let journal = disk.journal();
    let starts = block_starts(&journal);
    for pair in starts.windows(2) {
        assert!(pair[1] - pair[0] <= MAX_BLOCK);
    }
    assert!(events.len() / (starts.len() - 1) > 5, "blocks are filled");
    assert_eq!(reopen("many", &disk).unwrap().0, records(&events));
}

/// Cut after any block, the log ends with an append and has no extra bytes.
#[test]
fn an_append_that_fits_into_a_block_is_not_split() {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    for size in (100..3000).step_by(61) {
        let append = [(1, fact(&"x".repeat(size))), (1, fact("second"))];
        let unit = EncodedAppend::encode(log.writer.next(), &append).unwrap();
        log.writer.add(&unit);
    }
    log.writer.commit().unwrap();
    let journal = disk.journal();
    for start in block_starts(&journal) {
        disk.set_journal(&journal[..start]);
        let file = disk.arc().open(JOURNAL).unwrap().unwrap();
        let mut records = LogFile::new(file).unwrap().records();
        let read = records.by_ref().filter(|record| record.is_ok()).count();
        assert_eq!(records.tail().unwrap(), None, "after {read} events");
    }
}

/// A block is full when it has no free byte, and not before.
#[test]
fn an_append_that_just_fits_shares_the_block() {
    const BLOCK_HEADER: usize = 104;
    let room = MAX_BLOCK - BLOCK_HEADER;
    for before in 0..16 {
        let disk = SimDisk::default();
        let mut log = Direct::create(&disk.arc());
        let first = [(1, fact(&"x".repeat(before)))];
        log.writer
            .add(&EncodedAppend::encode(log.writer.next(), &first).unwrap());
        let left = room - log.writer.waiting();
        let fitting = (0..left).find_map(|size| {
            let append = [(1, fact(&"y".repeat(size)))];
            let unit = EncodedAppend::encode(log.writer.next(), &append).unwrap();
            (unit.size() == left).then_some(unit)
        });
        let Some(unit) = fitting else { continue };
        log.writer.add(&unit);
        log.writer.commit().unwrap();
        let journal = disk.journal();
        assert_eq!(journal.len(), FILE_HEADER + MAX_BLOCK);
        assert_eq!(block_starts(&journal).len() - 1, 1);
        return;
    }
    panic!("no append fits");
}

#[test]
fn a_reader_reads_no_more_than_it_needs() {
    let disk = SimDisk::default();
    let mut log = Direct::create(&disk.arc());
    for _ in 0..3 {
        log.append(&[(1, fact("one")), (1, fact("two"))]).unwrap();
    }
    let file = disk.arc().open(JOURNAL).unwrap().unwrap();
    let mut records = LogFile::new(file).unwrap().records();
    for read in 0..6 {
        assert_eq!(records.next().unwrap().unwrap().seq.get(), read);
        let append_ends = read / 2 * 2 + 2;
        assert_eq!(records.next_seq().get(), append_ends);
    }
}

#[test]
fn missing_parts_of_sled_are_reported() {
    let (whole, events) = small_log();
    for (gone, words) in [
        (MirrorKey::FileHeader, "it is empty"),
        (MirrorKey::Block(2), "block 2 is missing"),
    ] {
        let disk = whole.copy();
        disk.lose_mirror(Some(gone));
        let (log, repairs) = Direct::open(&disk.arc()).unwrap();
        drop(log);
        assert_eq!(repairs.len(), 1, "{repairs:?}");
        assert_eq!(repairs[0].copy, LogCopy::Sled);
        assert!(repairs[0].detail.contains(words), "{repairs:?}");
        assert_eq!(reopen(words, &disk).unwrap(), (records(&events), 0));
    }
}

/// Any bytes in the file give a result, without a panic or an event that was not appended.
#[test]
fn noise_is_not_a_log() {
    let mut g = store_support::any_event::Gen::new(1);
    let (whole, events) = small_log();
    let journal = whole.journal();
    for round in 0..400 {
        let mut bytes = journal.clone();
        for _ in 0..=g.below(4) {
            let at = g.below(bytes.len() as u64) as usize;
            let end = (at + g.below(300) as usize).min(bytes.len());
            match g.below(3) {
                0 => bytes[at..end].fill(g.next() as u8),
                1 => drop(bytes.drain(at..end)),
                _ => {
                    let copy = bytes[at..end].to_vec();
                    let to = g.below(bytes.len() as u64) as usize;
                    bytes.splice(to..to, copy);
                }
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
        for with_sled in [true, false] {
            let name = format!("round {round}, sled {with_sled}");
            let disk = whole.copy();
            disk.set_journal(&bytes);
            let (read, _) = read_sim(&disk);
            assert_eq!(read, records(&events)[..read.len()], "{name}");
            if !with_sled {
                disk.state().mirror = None;
            }
            match reopen(&name, &disk) {
                Ok((all, _)) => {
                    assert_eq!(all, records(&events)[..all.len()], "{name}");
                    assert!(!with_sled || all.len() == events.len(), "{name}");
                }
                Err(OpenError::Damaged { .. } | OpenError::NotALog { .. }) => {
                    assert!(!with_sled, "{name}")
                }
                Err(other) => panic!("{name}: {other}"),
            }
        }
    }
}

#[test]
fn a_disk_is_shared_by_its_handles() {
    let disk: Arc<dyn Disk> = SimDisk::default().arc();
    let mut file = disk.create("a/b").unwrap();
    file.write_at(b"xyz", 0).unwrap();
    assert_eq!(disk.open("a/b").unwrap().unwrap().len().unwrap(), 3);
    assert_eq!(disk.names("a").unwrap(), ["b"]);
}
