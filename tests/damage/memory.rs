//! Damage to the journal, and to the values in sled, on a disk in memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tinygate::events::Record;
use tinygate::store::disk::{JOURNAL, MirrorKey};
use tinygate::store::{FILE_HEADER, LogFile, OpenError, Repair, RepairOptions, Store};

use crate::outcome::{Damaged, Judged, Outcome, Table};
use crate::store_support::sim_disk::{MirrorMap, SimDisk};
use crate::store_support::{Direct, read_file};
use crate::truth::{self, Sled, block_starts, events_before, in_memory, truth};

/// Time limit of a case, which normally takes a millisecond.
const PATIENCE: Duration = Duration::from_secs(60);
const THREAD: &str = "case";

/// A damaged log, and what must at least be left of it.
struct Case {
    group: String,
    name: String,
    damaged: Damaged,
    disk: SimDisk,
    /// Events before the first changed byte, or in the intact copy.
    floor: u64,
    /// Events that sled had before.
    covered: u64,
    /// The journal ends at the end of an append, and sled has no more events.
    traceless: bool,
}

enum Report {
    Begun(String, Damaged, String),
    Ended(Judged),
}

/// Judges every case in a thread, which may panic or hang.
pub fn every_case(table: &mut Table) {
    quiet_panics();
    let (sender, reports) = mpsc::channel();
    let worker = thread::Builder::new().name(THREAD.to_owned());
    let worker = worker
        .spawn(move || {
            for case in cases() {
                let begun = Report::Begun(case.group.clone(), case.damaged, case.name.clone());
                sender.send(begun).unwrap();
                let judged = catch_unwind(AssertUnwindSafe(|| judge(&case)));
                let judged = judged
                    .unwrap_or_else(|_| Judged::new(&case.name, Outcome::Panic, "it panicked"));
                sender.send(Report::Ended(judged)).unwrap();
            }
        })
        .unwrap();
    let mut current = None;
    loop {
        match reports.recv_timeout(PATIENCE) {
            Ok(Report::Begun(group, damaged, name)) => current = Some((group, damaged, name)),
            Ok(Report::Ended(judged)) => {
                let (group, damaged, _) = current.take().unwrap();
                table.add(&group, damaged, judged);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let (group, damaged, name) = current.take().unwrap();
                let judged = Judged::new(&name, Outcome::Hang, "no answer");
                table.add(&group, damaged, judged);
                return;
            }
        }
    }
    worker.join().unwrap();
}

/// Does not print panics of cases, which are an outcome in the table.
fn quiet_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(THREAD) {
            previous(info);
        }
    }));
}

fn cases() -> Box<dyn Iterator<Item = Case>> {
    let journals = Sled::ALL.into_iter().flat_map(journal_cases);
    let mirrors = [true, false].into_iter().flat_map(mirror_cases);
    Box::new(journals.chain(mirrors))
}

/// Every damage to the journal's bytes, with sled in the given state.
fn journal_cases(sled: Sled) -> impl Iterator<Item = Case> {
    let whole = in_memory(sled);
    let original = whole.journal();
    let damages = flips(&original)
        .chain(cuts(&original))
        .chain(moves(&original));
    let damages: Vec<(&'static str, String, Vec<u8>)> = damages.collect();
    damages
        .into_iter()
        .filter(move |(_, _, bytes)| *bytes != original)
        .map(move |(group, name, bytes)| {
            let disk = whole.copy();
            disk.set_journal(&bytes);
            let original = whole.journal();
            let same = bytes.iter().zip(&original).take_while(|(a, b)| a == b);
            let same = same.count();
            let at_border =
                original.starts_with(&bytes) && block_starts(&original).contains(&bytes.len());
            Case {
                group: format!("journal {group}, {}", sled.name()),
                name: format!("{name}, {}", sled.name()),
                damaged: match sled {
                    Sled::Level | Sled::Behind => Damaged::OneOfTwo,
                    Sled::Absent => Damaged::TheOnly,
                },
                disk,
                floor: sled.events().max(events_before(&original, same)),
                covered: sled.events(),
                traceless: at_border && events_before(&original, bytes.len()) >= sled.events(),
            }
        })
}

fn flips(journal: &[u8]) -> impl Iterator<Item = (&'static str, String, Vec<u8>)> + use<> {
    let journal = journal.to_vec();
    (0..journal.len()).flat_map(move |at| {
        let journal = journal.clone();
        [0x01, 0x80, 0xff].into_iter().map(move |mask| {
            let mut bytes = journal.clone();
            bytes[at] ^= mask;
            ("byte flipped", format!("byte {at} ^ {mask:02x}"), bytes)
        })
    })
}

fn cuts(journal: &[u8]) -> impl Iterator<Item = (&'static str, String, Vec<u8>)> + use<> {
    let journal = journal.to_vec();
    (0..journal.len()).map(move |length| {
        let name = format!("cut to {length} bytes");
        ("cut", name, journal[..length].to_vec())
    })
}

/// Blocks duplicated, removed, swapped, and taken from another run.
fn moves(journal: &[u8]) -> impl Iterator<Item = (&'static str, String, Vec<u8>)> + use<> {
    let blocks_of = |journal: &[u8]| -> Vec<Vec<u8>> {
        let starts = block_starts(journal);
        starts
            .windows(2)
            .map(|pair| journal[pair[0]..pair[1]].to_vec())
            .collect()
    };
    let header = journal[..FILE_HEADER].to_vec();
    let blocks = blocks_of(journal);
    let foreign = blocks_of(&truth::foreign_journal());
    let build = |blocks: &[Vec<u8>]| [header.clone(), blocks.concat()].concat();
    let mut all = Vec::new();
    let count = blocks.len();
    for one in 0..count {
        let mut without = blocks.clone();
        without.remove(one);
        let name = format!("block {one} removed");
        all.push(("block removed", name, build(&without)));
        for at in 0..=count {
            let mut with = blocks.clone();
            with.insert(at, blocks[one].clone());
            let name = format!("block {one} again before block {at}");
            all.push(("block duplicated", name, build(&with)));
            let mut with = blocks.clone();
            with.insert(at, foreign[one].clone());
            let name = format!("block {one} of another run before block {at}");
            all.push(("block of another run", name, build(&with)));
        }
        for other in one + 1..count {
            let mut swapped = blocks.clone();
            swapped.swap(one, other);
            let name = format!("blocks {one} and {other} swapped");
            all.push(("blocks swapped", name, build(&swapped)));
        }
        let mut replaced = blocks.clone();
        replaced[one].clone_from(&foreign[one]);
        let name = format!("block {one} replaced by another run's");
        all.push(("block of another run", name, build(&replaced)));
    }
    all.into_iter()
}

/// Every damage to the values in sled, with the journal and without.
fn mirror_cases(journal: bool) -> impl Iterator<Item = Case> {
    let whole = in_memory(Sled::Level);
    let original = whole.journal();
    if !journal {
        whole.remove_journal();
    }
    let map = whole.state().mirror.clone().unwrap();
    let mut damages: Vec<(String, Option<u64>, MirrorMap)> = Vec::new();
    let number = |key: MirrorKey| match key {
        MirrorKey::Block(number) => Some(number),
        MirrorKey::FileHeader | MirrorKey::Head => None,
    };
    for (key, value) in &map {
        for at in 0..value.len() {
            let mut damaged = map.clone();
            damaged.get_mut(key).unwrap()[at] ^= 0x40;
            damages.push((format!("{key:?} byte {at}"), number(*key), damaged));
        }
        for length in 0..value.len() {
            let mut damaged = map.clone();
            damaged.get_mut(key).unwrap().truncate(length);
            damages.push((format!("{key:?} cut to {length}"), number(*key), damaged));
        }
        let mut damaged = map.clone();
        damaged.remove(key);
        damages.push((format!("{key:?} removed"), number(*key), damaged));
        for other in map.keys().filter(|other| *other != key) {
            let mut damaged = map.clone();
            damaged.insert(*other, value.clone());
            let name = format!("{key:?} in the place of {other:?}");
            damages.push((name, number(*other), damaged));
        }
    }
    damages.into_iter().map(move |(name, block, damaged)| {
        let disk = whole.copy();
        disk.state().mirror = Some(damaged);
        let start = |block: u64| block_starts(&original)[block as usize];
        let before = block.map_or(0, |block| events_before(&original, start(block)));
        let all = truth().len() as u64;
        Case {
            group: format!(
                "values in sled, {}",
                if journal {
                    "journal whole"
                } else {
                    "no journal"
                }
            ),
            name,
            damaged: if journal {
                Damaged::OneOfTwo
            } else {
                Damaged::TheOnly
            },
            disk,
            floor: if journal { all } else { before },
            covered: if journal { all } else { 0 },
            traceless: false,
        }
    })
}

fn judge(case: &Case) -> Judged {
    let truth = truth();
    if let Some(judged) = judge_reader(case, &truth) {
        return judged;
    }
    let disk = case.disk.copy();
    match Direct::open(&disk.arc()) {
        Ok((log, repairs)) => {
            drop(log);
            judge_opened(case, &disk, &repairs, &truth)
        }
        Err(OpenError::Damaged { sound, what }) => {
            judge_refused(case, &disk, sound.get(), &what, &truth)
        }
        // A journal cut within its first append looks like that of a process killed early.
        Err(error @ OpenError::NotALog { .. })
            if case.floor == 0
                && case.covered == 0
                && in_memory(Sled::Absent)
                    .journal()
                    .starts_with(&disk.journal()) =>
        {
            let all = truth.len() as u64;
            Judged::new(&case.name, Outcome::CutOff, error.to_string()).losing(all, 0, 0)
        }
        Err(other) => Judged::new(&case.name, Outcome::WrongAnswer, other.to_string()),
    }
}

/// The problem with what a reader without a lock finds, if any.
fn judge_reader(case: &Case, truth: &[Record]) -> Option<Judged> {
    let wrong = |outcome, why: String| Some(Judged::new(&case.name, outcome, why));
    let file = case.disk.arc().open(JOURNAL).unwrap()?;
    let log = match LogFile::new(file) {
        Ok(log) => log,
        // The error names the position: the first event.
        Err(_) => return None,
    };
    let (records, error) = read_file(log);
    if truth.get(..records.len()) != Some(records.as_slice()) {
        return wrong(Outcome::WrongAnswer, "a reader got other events".to_owned());
    }
    if let Some(error) = error {
        let further = error.seq.get() > records.len() as u64;
        return further.then(|| {
            let why = format!("the reader's error names event {}", error.seq);
            Judged::new(&case.name, Outcome::WrongAnswer, why)
        });
    }
    let mut reader = LogFile::new(case.disk.arc().open(JOURNAL).unwrap()?)
        .unwrap()
        .records();
    while reader.next().is_some() {}
    let tail = reader.tail().unwrap();
    let whole = records.len() == truth.len() || tail.is_some();
    let bytes = case.disk.journal();
    let border = in_memory(Sled::Absent).journal().starts_with(&bytes)
        && block_starts(&in_memory(Sled::Absent).journal()).contains(&bytes.len());
    if whole || border {
        None
    } else {
        wrong(Outcome::SilentLoss, "a reader noticed nothing".to_owned())
    }
}

fn judge_opened(case: &Case, disk: &SimDisk, repairs: &[Repair], truth: &[Record]) -> Judged {
    let all = truth.len() as u64;
    let judged = |outcome, why: &str| Judged::new(&case.name, outcome, why);
    let (records, error) =
        read_file(LogFile::new(disk.arc().open(JOURNAL).unwrap().unwrap()).unwrap());
    if error.is_some() || truth.get(..records.len()) != Some(records.as_slice()) {
        return judged(Outcome::WrongAnswer, "other events after opening");
    }
    match Direct::open(&disk.arc()) {
        Ok((_, again)) if again.is_empty() => {}
        other => {
            let why = format!("opening again: {:?}", other.map(|(_, repairs)| repairs));
            return judged(Outcome::WrongAnswer, &why);
        }
    }
    let kept = records.len() as u64;
    let is_reported = repairs.iter().any(|repair| {
        let detail = &repair.detail;
        detail.contains("cut off") && repair.quarantine.is_some() || detail.contains("are lost")
    });
    let outcome = if kept == all && repairs.is_empty() {
        Outcome::Unaffected
    } else if kept == all {
        Outcome::Recovered
    } else if kept < case.floor {
        Outcome::SilentLoss
    } else if is_reported {
        Outcome::CutOff
    } else if case.traceless {
        Outcome::Traceless
    } else {
        Outcome::SilentLoss
    };
    judged(outcome, &format!("{repairs:?}")).losing(all, kept, case.covered)
}

fn judge_refused(case: &Case, disk: &SimDisk, sound: u64, what: &str, truth: &[Record]) -> Judged {
    let all = truth.len() as u64;
    let judged = |outcome, why: &str| Judged::new(&case.name, outcome, why);
    let same = disk.file(JOURNAL) == case.disk.file(JOURNAL)
        && disk.state().mirror == case.disk.state().mirror;
    if !same {
        return judged(Outcome::WrongAnswer, "a refused log was changed");
    }
    if sound < case.floor {
        let why = format!("refused at {sound}: {what}");
        return judged(Outcome::SilentLoss, &why).losing(all, sound, case.covered);
    }
    let wishes = RepairOptions {
        accept_loss: true,
        keep: None,
    };
    match Store::repair_on(disk.arc(), wishes) {
        Ok((store, repairs)) => {
            store.close().unwrap();
            let on_request = |repair: &Repair| repair.detail.contains("given up on request");
            if !repairs.iter().any(on_request) {
                return judged(Outcome::SilentLoss, &format!("not said: {repairs:?}"));
            }
        }
        // Not even the header of a copy is readable, so nothing can be recovered.
        Err(OpenError::Damaged { sound, .. }) if sound.get() == 0 && case.floor == 0 => {
            return judged(Outcome::Refused, what).losing(all, 0, case.covered);
        }
        Err(other) => return judged(Outcome::WrongAnswer, &other.to_string()),
    }
    let (records, error) =
        read_file(LogFile::new(disk.arc().open(JOURNAL).unwrap().unwrap()).unwrap());
    if error.is_some() || truth.get(..sound as usize) != Some(records.as_slice()) {
        return judged(Outcome::WrongAnswer, "other events after the repair");
    }
    judged(Outcome::Refused, what).losing(all, sound, case.covered)
}
