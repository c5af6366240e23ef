//! Makes both copies of a log hold exactly the log of a [`Verdict`].
//!
//! The journal is written first, and is durable before sled gets a block of it.
//! Damaged bytes are moved to quarantine. After a crash the copies still hold the same
//! log, so the next attempt completes the repair.

use super::block::{FILE_HEADER, HeadMarker};
use super::chain::{BATCH, Row, SledBlocks, Stop, journal_io, walk};
use super::compare::{JournalVerdict, SledVerdict, Verdict};
use super::disk::{
    Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey, NEW_JOURNAL, QUARANTINE, SLED,
    read_full, write_full,
};
use super::error::{LogCopy, OpenError, Repair};
use super::journal::Window;
use tinygate_events::Seq;

/// Both copies after they were made to agree.
pub struct Restored {
    pub journal: Box<dyn DiskFile>,
    pub mirror: Box<dyn Mirror>,
    /// Length of the journal.
    pub length: u64,
    pub repairs: Vec<Repair>,
}

/// Makes both copies hold exactly the log of the verdict.
pub fn restore(
    disk: &dyn Disk,
    verdict: &Verdict,
    mut mirror: Option<Box<dyn Mirror>>,
) -> Result<Restored, OpenError> {
    let mut repairs = Vec::new();
    let journal = restore_journal(disk, verdict, &mut mirror, &mut repairs)?;
    let length = journal.len().map_err(journal_io)?;
    let mirror = restore_sled(disk, verdict, mirror, &mut repairs)?;
    Ok(Restored {
        journal,
        mirror,
        length,
        repairs,
    })
}

fn restore_journal(
    disk: &dyn Disk,
    verdict: &Verdict,
    mirror: &mut Option<Box<dyn Mirror>>,
    repairs: &mut Vec<Repair>,
) -> Result<Box<dyn DiskFile>, OpenError> {
    let old = match verdict.journal {
        JournalVerdict::Missing => None,
        JournalVerdict::Sound
        | JournalVerdict::Longer { .. }
        | JournalVerdict::Incomplete { .. } => disk.open(JOURNAL).map_err(journal_io)?,
    };
    let Some(mut old) = old else {
        let journal = rebuild_journal(disk, verdict, mirror)?;
        repairs.push(Repair {
            copy: LogCopy::Journal,
            detail: format!(
                "the journal was missing; it was rebuilt from sled{}",
                lost_with_the_journal(verdict)
            ),
            quarantine: None,
            restored: verdict.end.seq,
        });
        return Ok(journal);
    };
    let place = |good: &u64, length: &u64, fault: &str| {
        format!("journal, byte {good} of {length}: {fault}")
    };
    let (journal, repair) = match &verdict.journal {
        JournalVerdict::Missing | JournalVerdict::Sound => {
            // A process that was killed before its sync left this in the page cache only.
            old.sync()
                .map_err(|source| OpenError::disk("sync", JOURNAL, source))?;
            return Ok(old);
        }
        JournalVerdict::Longer {
            good,
            length,
            fault,
        } => {
            let quarantine = keep_bytes(disk, old.as_ref(), *good, *length)?;
            old.set_len(*good)
                .and_then(|()| old.sync())
                .map_err(|source| OpenError::disk("cut", JOURNAL, source))?;
            let fault = fault.as_ref().map(ToString::to_string);
            let fault = fault.unwrap_or_else(|| "an append was not finished".to_owned());
            let why = match &verdict.given_up {
                Some(given_up) => format!("{}; the rest was cut off", given_up.on_request()),
                None => {
                    "nothing shows that the rest was ever confirmed, so it was cut off".to_owned()
                }
            };
            let repair = Repair {
                copy: LogCopy::Journal,
                detail: format!("{}; {why}", place(good, length, &fault)),
                quarantine,
                restored: 0,
            };
            (old, repair)
        }
        JournalVerdict::Incomplete {
            good,
            length,
            fault,
            events,
        } => {
            let quarantine = keep_bytes(disk, old.as_ref(), *good, *length)?;
            drop(old);
            let journal = rebuild_journal(disk, verdict, mirror)?;
            let fault = fault.as_ref().map(ToString::to_string);
            let fault = fault.unwrap_or_else(|| "it ends too early".to_owned());
            let repair = Repair {
                copy: LogCopy::Journal,
                detail: format!(
                    "{}; it was rebuilt from the intact blocks{}",
                    place(good, length, &fault),
                    lost_with_the_journal(verdict)
                ),
                quarantine,
                restored: verdict.end.seq.saturating_sub(*events),
            };
            (journal, repair)
        }
    };
    repairs.push(repair);
    Ok(journal)
}

/// What a rewritten journal may lack, for the record of the repair.
fn lost_with_the_journal(verdict: &Verdict) -> String {
    match &verdict.given_up {
        Some(given_up) => format!("; {}", given_up.on_request()),
        None if verdict.journal_has_end => String::new(),
        None => format!(
            "; the log ends before event {}, where sled ends; newer events, if any, are lost",
            verdict.end.seq
        ),
    }
}

/// Writes a new journal from both copies, and replaces the old one with it.
fn rebuild_journal(
    disk: &dyn Disk,
    verdict: &Verdict,
    mirror: &mut Option<Box<dyn Mirror>>,
) -> Result<Box<dyn DiskFile>, OpenError> {
    let write_error = |source| OpenError::disk("write", NEW_JOURNAL, source);
    let mut file = disk.create(NEW_JOURNAL).map_err(write_error)?;
    write_full(file.as_mut(), verdict.header.as_bytes(), 0).map_err(write_error)?;
    let mut length = FILE_HEADER as u64;
    let mut window = disk.open(JOURNAL).map_err(journal_io)?.map(Window::new);
    let mut blocks = SledBlocks::new(mirror.as_deref_mut());
    let key = verdict.header.key();
    let stop = walk(
        &key,
        &Row::start(&key),
        window.as_mut(),
        &mut blocks,
        |step| {
            if step.block.number < verdict.end.number {
                write_full(file.as_mut(), step.block.bytes, length).map_err(write_error)?;
                length += step.block.bytes.len() as u64;
            }
            Ok(())
        },
    )?;
    reaches(&stop, verdict)?;
    file.sync().map_err(write_error)?;
    disk.rename(NEW_JOURNAL, JOURNAL)
        .map_err(|source| OpenError::rename(NEW_JOURNAL, JOURNAL, source))?;
    Ok(file)
}

/// Checks that a walk reached the end of the log, like the first one.
fn reaches(stop: &Stop, verdict: &Verdict) -> Result<(), OpenError> {
    if verdict.end.number <= stop.link.number {
        return Ok(());
    }
    Err(OpenError::Damaged {
        sound: Seq::new(stop.link.seq),
        what: "a copy that was just read cannot be read again".to_owned(),
    })
}

/// Copies the journal's bytes from `from` on to quarantine. Returns the copy's name, or
/// `None` if there are no bytes.
fn keep_bytes(
    disk: &dyn Disk,
    file: &dyn DiskFile,
    from: u64,
    to: u64,
) -> Result<Option<String>, OpenError> {
    if to <= from {
        return Ok(None);
    }
    let name = quarantine_name(disk, "journal")?;
    let error = |source| OpenError::disk("write", &name, source);
    let mut copy = disk.create(&name).map_err(error)?;
    let mut buffer = vec![0; 64 << 10];
    let mut offset = from;
    while offset < to {
        let read = read_full(file, &mut buffer, offset).map_err(journal_io)?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        write_full(copy.as_mut(), bytes, offset - from).map_err(error)?;
        offset += read as u64;
    }
    copy.sync().map_err(error)?;
    Ok(Some(name))
}

/// The next free name in the quarantine.
pub fn quarantine_name(disk: &dyn Disk, what: &str) -> Result<String, OpenError> {
    let names = disk
        .names(QUARANTINE)
        .map_err(|source| OpenError::disk("list", QUARANTINE, source))?;
    let last = names
        .iter()
        .filter_map(|name| name.split('-').next()?.parse::<u64>().ok())
        .max()
        .unwrap_or(0);
    Ok(format!("{QUARANTINE}/{}-{what}", last.saturating_add(1)))
}

fn restore_sled(
    disk: &dyn Disk,
    verdict: &Verdict,
    mirror: Option<Box<dyn Mirror>>,
    repairs: &mut Vec<Repair>,
) -> Result<Box<dyn Mirror>, OpenError> {
    let fault = match (&verdict.sled, mirror) {
        (SledVerdict::Sound, Some(mirror)) => return Ok(mirror),
        (SledVerdict::Behind(row), Some(mut mirror)) => {
            tracing::debug!(
                has = row.blocks(),
                wanted = verdict.end.number,
                "sled is updated from the journal"
            );
            match fill_sled(disk, verdict, mirror.as_mut(), row) {
                Ok(()) => return Ok(mirror),
                Err(Filling::Log(error)) => return Err(error),
                Err(Filling::Sled(MirrorError::DiskFull)) => {
                    return Err(OpenError::DiskFull {
                        what: "sled".to_owned(),
                    });
                }
                Err(Filling::Sled(error)) => Some(error.to_string()),
            }
        }
        (SledVerdict::Damaged(fault), _) => Some(fault.clone()),
        (SledVerdict::Missing | SledVerdict::Sound | SledVerdict::Behind(_), _) => None,
    };
    let name = quarantine_name(disk, "sled")?;
    let moved = disk
        .set_mirror_aside(&name)
        .map_err(|source| OpenError::rename(SLED, &name, source))?;
    let mut mirror = disk
        .mirror(true)
        .and_then(|mirror| mirror.ok_or_else(|| MirrorError::Failed("not created".to_owned())))
        .map_err(OpenError::sled)?;
    let start = Row::start(&verdict.header.key());
    fill_sled(disk, verdict, mirror.as_mut(), &start).map_err(|error| match error {
        Filling::Log(error) => error,
        Filling::Sled(error) => OpenError::sled(error),
    })?;
    let fault = fault.unwrap_or_else(|| "the folder was missing".to_owned());
    repairs.push(Repair {
        copy: LogCopy::Sled,
        detail: format!("sled: {fault}; it was rebuilt from the journal"),
        quarantine: moved.then_some(name),
        restored: verdict.end.seq,
    });
    Ok(mirror)
}

/// Which copy failed while sled was filled.
enum Filling {
    Log(OpenError),
    Sled(MirrorError),
}

/// Removes blocks after the end from sled, and adds missing ones from the journal, which
/// is intact by now. Reads only the part of the journal after `has`.
fn fill_sled(
    disk: &dyn Disk,
    verdict: &Verdict,
    mirror: &mut (dyn Mirror + 'static),
    has: &Row,
) -> Result<(), Filling> {
    let key = verdict.header.key();
    loop {
        let after = mirror
            .blocks(verdict.end.number, BATCH)
            .map_err(Filling::Sled)?;
        if after.is_empty() {
            break;
        }
        let removed = after
            .into_iter()
            .map(|(number, _)| (MirrorKey::Block(number), None));
        mirror.put(removed.collect()).map_err(Filling::Sled)?;
    }
    let mut changes = vec![(
        MirrorKey::FileHeader,
        Some(verdict.header.as_bytes().to_vec()),
    )];
    let mut failed = None;
    if has.blocks() < verdict.end.number {
        let file = disk.open(JOURNAL);
        let file = file.map_err(|error| Filling::Log(journal_io(error)))?;
        let mut window = file.map(Window::new);
        let mut no_sled = SledBlocks::new(None);
        let stop = walk(&key, has, window.as_mut(), &mut no_sled, |step| {
            if failed.is_none() {
                let block = step.block.bytes.to_vec();
                changes.push((MirrorKey::Block(step.block.number), Some(block)));
                if changes.len() >= BATCH {
                    failed = mirror.put(std::mem::take(&mut changes)).err();
                }
            }
            Ok(())
        });
        reaches(&stop.map_err(Filling::Log)?, verdict).map_err(Filling::Log)?;
    }
    if let Some(error) = failed {
        return Err(Filling::Sled(error));
    }
    let marker = HeadMarker {
        blocks: verdict.end.number,
        seq: Seq::new(verdict.end.seq),
    };
    changes.push((MirrorKey::Head, Some(marker.to_bytes(&key))));
    mirror.put(changes).map_err(Filling::Sled)?;
    mirror.sync().map_err(Filling::Sled)
}
