//! Repair that a person asks for.
//!
//! Whatever opening a log puts right is put right the same way, by the same code.
//! Two things more can be asked for, and happen only then: to go on without events
//! that are whole in neither copy, and to go on with one of two copies that differ.
//!
//! Nothing is removed: what leaves a copy stays in the quarantine. A crash within a
//! repair leaves a log that the same repair ends as if there had been no crash.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, JOURNAL, QUARANTINE, RealDisk, SLED};
use super::error::{ChainHead, LogCopy, OpenError, Repair};
use super::lock::RunLock;
use super::recover::{Loss, compare, quarantine_name};
use super::scratch::{Scratch, copy_folder};
use super::store::expect_log;
use super::writer::Writer;
use crate::events::Seq;

/// What a repair may do beyond what opening a log does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Go on with the sound events where later ones are lost.
    pub accept_loss: bool,
    /// Of two copies that differ, go on with this one.
    pub keep: Option<LogCopy>,
}

impl Wishes {
    fn loss(self) -> Loss {
        if self.accept_loss {
            Loss::Accepted
        } else {
            Loss::Refused
        }
    }
}

/// Opens a log as [`Writer::open`] does, and does what is wished for.
///
/// # Errors
/// Those of [`Writer::open`]; then nothing was changed.
pub(super) fn repair(
    disk: &Arc<dyn Disk>,
    wishes: Wishes,
) -> Result<(Writer, Vec<Repair>), OpenError> {
    match (Writer::open_with(disk, wishes.loss()), wishes.keep) {
        (Err(OpenError::Forked { seq, journal, sled }), Some(keep)) => {
            let fork = Fork { seq, journal, sled };
            keep_one(disk, wishes.loss(), keep, &fork)
        }
        (result, _) => result,
    }
}

/// Where two copies differ.
struct Fork {
    seq: Seq,
    journal: ChainHead,
    sled: ChainHead,
}

/// Sets the other copy aside, whole. Opening then makes it anew, also after a crash.
fn keep_one(
    disk: &Arc<dyn Disk>,
    loss: Loss,
    keep: LogCopy,
    fork: &Fork,
) -> Result<(Writer, Vec<Repair>), OpenError> {
    is_sound(disk, loss, keep)?;
    let (other, head, name) = match keep {
        LogCopy::Journal => {
            let name = quarantine_name(disk.as_ref(), "sled")?;
            disk.set_mirror_aside(&name)
                .map_err(|source| OpenError::rename(SLED, &name, source))?;
            (LogCopy::Sled, &fork.sled, name)
        }
        LogCopy::Sled => {
            let name = quarantine_name(disk.as_ref(), "journal")?;
            // makes the folder; the journal then takes the empty file's place
            let made = disk.create(&name);
            drop(made.map_err(|source| OpenError::disk("make", &name, source))?);
            disk.rename(JOURNAL, &name)
                .map_err(|source| OpenError::rename(JOURNAL, &name, source))?;
            (LogCopy::Journal, &fork.journal, name)
        }
    };
    let (writer, mut repairs) = Writer::open_with(disk, loss)?;
    let restored = repairs
        .iter()
        .find(|repair| repair.copy == other)
        .map_or(0, |repair| repair.restored);
    // these words say it better than that a copy is missing
    repairs.retain(|repair| repair.copy != other);
    repairs.push(Repair {
        copy: other,
        detail: format!(
            "{}: it differs from the {} from event {} on ({head}); the {} was kept as asked, this copy was made anew from it",
            other.as_str(),
            keep.as_str(),
            fork.seq,
            keep.as_str(),
        ),
        quarantine: Some(name),
        restored,
    });
    Ok((writer, repairs))
}

/// Whether one copy gives a log by itself: only then is the other one moved.
fn is_sound(disk: &Arc<dyn Disk>, loss: Loss, copy: LogCopy) -> Result<(), OpenError> {
    match copy {
        LogCopy::Journal => {
            let journal = disk
                .open(JOURNAL)
                .map_err(|source| OpenError::disk("open", JOURNAL, source))?;
            compare(journal, Ok(None), loss)?;
        }
        LogCopy::Sled => {
            let mut mirror = disk.mirror(false).map_err(OpenError::sled)?;
            compare(None, Ok(mirror.as_deref_mut()), loss)?;
        }
    }
    Ok(())
}

/// Does a repair on a copy of the log, in the temporary directory: what it says, the
/// repair itself would do. Returns it with the number of events there would be.
///
/// # Errors
/// Those that the repair would have, and those of the copy.
pub fn rehearse(run: &Path, wishes: Wishes) -> Result<(u64, Vec<Repair>), OpenError> {
    expect_log(run)?;
    RunLock::refuse_held(run)?;
    let error = |source| OpenError::disk("copy", "log", source);
    let scratch = Scratch::make().map_err(error)?;
    if run.join("log").is_dir() {
        copy_folder(&run.join("log"), &scratch.path().join("log")).map_err(error)?;
    }
    // the names in the quarantine, so that the next ones are the same
    let names = RealDisk::new(run).names(QUARANTINE).map_err(error)?;
    if !names.is_empty() {
        let quarantine = scratch.path().join(QUARANTINE);
        fs::create_dir(&quarantine).map_err(error)?;
        for name in names {
            fs::write(quarantine.join(name), []).map_err(error)?;
        }
    }
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(scratch.path()));
    let (writer, repairs) = repair(&disk, wishes)?;
    Ok((writer.head().get(), repairs))
}
