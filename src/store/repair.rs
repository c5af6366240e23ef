//! Repair on request.
//!
//! It makes the same repairs as opening a log, with the same code. Two more need an
//! option: giving up events that neither copy has intact, and keeping one of two copies
//! that differ.
//!
//! Nothing is deleted: bytes that are removed from a copy are kept in the quarantine. If
//! a repair crashes, running it again completes it as if there had been no crash.

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
    /// Keep the sound events if later ones are lost.
    pub accept_loss: bool,
    /// Keep this one of two copies that differ.
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

/// Opens the log described by `content`, with the repairs that the options allow.
///
/// # Errors
/// Those of [`Writer::open`]; nothing was changed then.
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

/// Moves the other copy to quarantine. Opening then rebuilds it, also after a crash.
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
            // Creates the folder; the journal then replaces the empty file.
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
    // Replaces the report that a copy is missing.
    repairs.retain(|repair| repair.copy != other);
    repairs.push(Repair {
        copy: other,
        detail: format!(
            "{}: it differs from the {} from event {} on ({head}); the {} was kept on request, and this copy was rebuilt from it",
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

/// Checks that one copy holds a log by itself. Only then is the other one moved.
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
