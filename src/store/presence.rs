//! Distinguishes a run from the remains of one that was killed before its first event.
//!
//! Nothing was acknowledged before the first event is durable, so such remains are not
//! a run, and a new run may replace them. The test is strict, because it allows files to
//! be replaced: the journal must look like that of a new log whose first append was cut
//! off, and sled must hold no event. Everything else is a log, sound or damaged.
//!
//! Nothing here changes a file or needs a lock.

use std::fs::{self, File};
use std::path::Path;

use super::block::{FileHeader, HeaderError};
use super::compare::{Loss, compare_only};
use super::disk::{Disk, DiskFile, JOURNAL, MirrorError, SLED};
use super::error::OpenError;
use super::journal::Window;
use super::reader::LogFile;
use super::real_file::{RealFile, is_missing};
use super::sled_folder;

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Nothing,
    /// The files of a process that ended before its first event was durable.
    Remains,
    /// A log, sound or damaged.
    Log,
}

/// What the two copies of a log hold, without reading them to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Nothing,
    /// No event, and none was ever durable.
    Remains,
    /// The run has checkpoints, so there were events, but neither copy has any left.
    Emptied,
    /// The journal is missing or holds no append; sled holds events or damaged data.
    SledOnly,
    /// The journal holds an append, or damaged data that may have been one.
    Journal,
}

impl Content {
    /// # Errors
    /// There is no log.
    pub fn expect_log(self) -> Result<(), OpenError> {
        match self {
            Content::SledOnly | Content::Journal => Ok(()),
            Content::Emptied => Err(OpenError::NoEventLeft),
            Content::Remains => Err(OpenError::NotALog { remains: true }),
            Content::Nothing => Err(OpenError::NotALog { remains: false }),
        }
    }

    /// # Errors
    /// [`OpenError::Exists`] if there is a log.
    pub fn expect_none(self) -> Result<(), OpenError> {
        match Presence::from(self) {
            Presence::Nothing | Presence::Remains => Ok(()),
            Presence::Log => Err(OpenError::Exists),
        }
    }
}

impl From<Content> for Presence {
    fn from(content: Content) -> Presence {
        match content {
            Content::Nothing => Presence::Nothing,
            Content::Remains => Presence::Remains,
            Content::Emptied | Content::SledOnly | Content::Journal => Presence::Log,
        }
    }
}

/// Whether the directory `run` holds a run.
///
/// # Errors
/// A log of a newer build, and disk errors.
pub fn presence(run: &Path) -> Result<Presence, OpenError> {
    content(run).map(Presence::from)
}

/// What the log in the directory `run` holds.
pub(super) fn content(run: &Path) -> Result<Content, OpenError> {
    let journal = match File::open(run.join(JOURNAL)) {
        Ok(file) => Some(Box::new(RealFile(file)) as Box<dyn DiskFile>),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(OpenError::disk("open", JOURNAL, error)),
    };
    let has_journal = journal.is_some();
    let found = of_copies(journal, || sled_folder::is_bare(&run.join(SLED)))?;
    // A checkpoint is written long after the first event.
    if found == Content::Remains && has_journal && has_trained(run) {
        return Ok(Content::Emptied);
    }
    if found == Content::Nothing && (run.join("log").exists() || run.join(SLED).exists()) {
        return Ok(Content::Remains);
    }
    Ok(found)
}

/// What the log on any disk holds.
pub(super) fn content_on(disk: &dyn Disk) -> Result<Content, OpenError> {
    let journal = disk
        .open(JOURNAL)
        .map_err(|source| OpenError::disk("open", JOURNAL, source))?;
    of_copies(journal, || disk.mirror_is_bare())
}

fn of_copies(
    journal: Option<Box<dyn DiskFile>>,
    sled: impl FnOnce() -> Result<Option<bool>, MirrorError>,
) -> Result<Content, OpenError> {
    let missing = journal.is_none();
    if let Some(journal) = journal
        && !is_fresh(journal)?
    {
        return Ok(Content::Journal);
    }
    match sled() {
        Ok(None) if missing => Ok(Content::Nothing),
        Ok(None | Some(true)) => Ok(Content::Remains),
        Ok(Some(false)) | Err(MirrorError::Failed(_)) => Ok(Content::SledOnly),
        Err(error @ (MirrorError::InUse | MirrorError::DiskFull)) => Err(OpenError::sled(error)),
    }
}

/// Whether a journal is that of a new log without a complete first append.
fn is_fresh(file: Box<dyn DiskFile>) -> Result<bool, OpenError> {
    let error = |source| OpenError::disk("read", JOURNAL, source);
    let mut window = Window::new(file);
    let bytes = window.header().map_err(error)?;
    match FileHeader::read(bytes) {
        Ok(_) => {}
        Err(HeaderError::Short { .. }) => return Ok(FileHeader::is_begun(bytes)),
        Err(HeaderError::NewerVersion(found)) => return Err(OpenError::NewerVersion(found)),
        Err(HeaderError::Magic | HeaderError::Hash) => return Ok(false),
    }
    // The first append is enough for most logs; the rest of the file is not read.
    let file = match LogFile::starts_with_append(window) {
        (true, _) => return Ok(false),
        (false, file) => file,
    };
    match compare_only(Some(file), Ok(None), Loss::Refused) {
        Ok(verdict) => Ok(verdict.is_unfinished_start()),
        Err(OpenError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a stage of this run has written any files.
fn has_trained(run: &Path) -> bool {
    let Ok(entries) = fs::read_dir(run) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.path().join("checkpoints").is_dir())
}
