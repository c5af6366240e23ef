//! Repair that a person asks for.
//!
//! It repairs what opening a log repairs, by the same code. Two more things happen
//! only where the options allow them: events that are whole in neither copy are
//! given up, and of two copies that differ one is kept.
//!
//! Nothing is deleted: what leaves a copy stays in the quarantine. A crash during a
//! repair leaves a log that the same repair completes as if there had been no crash.

use std::sync::Arc;

use super::chain::Fork;
use super::compare::{Loss, compare_only};
use super::disk::{Disk, JOURNAL, SLED};
use super::error::{LogCopy, OpenError, Repair};
use super::presence::Content;
use super::restore::quarantine_name;
use super::writer::Writer;

/// What a repair may do that opening a log does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Keep the sound events where later ones are lost.
    pub accept_loss: bool,
    /// Of two copies that differ, keep this one.
    pub keep: Option<LogCopy>,
}

impl RepairOptions {
    fn loss(self) -> Loss {
        if self.accept_loss {
            Loss::Accepted
        } else {
            Loss::Refused
        }
    }
}

/// Opens the log that `content` says is there, and does what the options allow.
///
/// # Errors
/// Those of [`Writer::open`]; then nothing was changed.
pub(super) fn repair(
    disk: &Arc<dyn Disk>,
    content: Content,
    options: RepairOptions,
) -> Result<(Writer, Vec<Repair>), OpenError> {
    let loss = options.loss();
    let opened = Writer::open_content(disk, content, loss, |_, _, _| {});
    match (opened, options.keep) {
        (Err(OpenError::Forked { seq, journal, sled }), Some(keep)) => {
            let fork = Fork { seq, journal, sled };
            keep_one(disk, loss, keep, &fork)
        }
        (result, _) => result,
    }
}

/// Sets the other copy aside, whole. Opening then rebuilds it, also after a crash.
fn keep_one(
    disk: &Arc<dyn Disk>,
    loss: Loss,
    keep: LogCopy,
    fork: &Fork,
) -> Result<(Writer, Vec<Repair>), OpenError> {
    is_sound(disk, loss, keep)?;
    let (other, head, name, left) = match keep {
        LogCopy::Journal => {
            let name = quarantine_name(disk.as_ref(), "sled")?;
            disk.set_mirror_aside(&name)
                .map_err(|source| OpenError::rename(SLED, &name, source))?;
            (LogCopy::Sled, &fork.sled, name, Content::Journal)
        }
        LogCopy::Sled => {
            let name = quarantine_name(disk.as_ref(), "journal")?;
            // makes the folder; the journal then takes the empty file's place
            let made = disk.create(&name);
            drop(made.map_err(|source| OpenError::disk("make", &name, source))?);
            disk.rename(JOURNAL, &name)
                .map_err(|source| OpenError::rename(JOURNAL, &name, source))?;
            (LogCopy::Journal, &fork.journal, name, Content::SledOnly)
        }
    };
    let (writer, mut repairs) = Writer::open_content(disk, left, loss, |_, _, _| {})?;
    let restored = repairs
        .iter()
        .find(|repair| repair.copy == other)
        .map_or(0, |repair| repair.restored);
    // replaces the report that a copy is missing
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
            compare_only(journal, Ok(None), loss)?;
        }
        LogCopy::Sled => {
            let mut mirror = disk.mirror(false).map_err(OpenError::sled)?;
            compare_only(None, Ok(mirror.as_deref_mut()), loss)?;
        }
    }
    Ok(())
}
