//! Tells a run from the remains of one that was killed before its first event.
//!
//! Until the first event is durable nothing was acknowledged, so what such a process
//! leaves behind is no run: a new one may take its place. The test is strict, because
//! its answer lets files be replaced: the journal must be what a fresh log's journal
//! looks like when its first append is cut off somewhere, and sled must hold no event.
//! Everything else is a log, sound or damaged.
//!
//! Nothing here changes a file or needs a lock.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use super::block::{BLOCK_MAGIC, FileHeader, HeadMarker, HeaderError};
use super::disk::{
    Disk, DiskFile, JOURNAL, Mirror, MirrorError, MirrorKey, RealDisk, RealFile, SLED,
};
use super::error::OpenError;
use super::journal::Window;
use super::reader::LogFile;
use super::recover::{Loss, compare};
use super::scratch::{Scratch, copy_folder};
use super::sled_mirror::SledMirror;

/// Bytes other than 0 in a sled folder that holds a file header and a head at most.
/// The first event alone has more.
const BARE_SLED: u64 = 2048;

/// What a directory holds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Nothing,
    /// Of a process that ended before its first event was durable.
    Remains,
    /// A log, sound or damaged.
    Log,
}

impl Presence {
    /// What there is to say where a log is needed.
    pub(super) fn expect_log(self) -> Result<(), OpenError> {
        match self {
            Presence::Log => Ok(()),
            Presence::Remains => Err(OpenError::NotALog { remains: true }),
            Presence::Nothing => Err(OpenError::NotALog { remains: false }),
        }
    }
}

/// What the directory `run` holds of a run.
///
/// # Errors
/// A log of a newer build, and those of the disk.
pub fn presence(run: &Path) -> Result<Presence, OpenError> {
    let journal = match File::open(run.join(JOURNAL)) {
        Ok(file) => Some(Box::new(RealFile(file)) as Box<dyn DiskFile>),
        Err(error) if is_missing(&error) => None,
        Err(error) => return Err(OpenError::disk("open", JOURNAL, error)),
    };
    let found = of_copies(journal, || RealDisk::new(run).mirror_is_bare())?;
    if found == Presence::Remains && run.join(JOURNAL).exists() && has_trained(run) {
        // a checkpoint is written long after the first event: the log was damaged
        return Ok(Presence::Log);
    }
    if found == Presence::Nothing && (run.join("log").exists() || run.join(SLED).exists()) {
        return Ok(Presence::Remains);
    }
    Ok(found)
}

/// As [`presence`], on any disk.
pub(super) fn presence_on(disk: &dyn Disk) -> Result<Presence, OpenError> {
    let journal = disk
        .open(JOURNAL)
        .map_err(|source| OpenError::disk("open", JOURNAL, source))?;
    of_copies(journal, || disk.mirror_is_bare())
}

/// Whether there is no journal with an event, or with damage where one may have been.
pub(super) fn journal_is_bare(disk: &dyn Disk) -> Result<bool, OpenError> {
    let journal = disk
        .open(JOURNAL)
        .map_err(|source| OpenError::disk("open", JOURNAL, source))?;
    journal.map_or(Ok(true), is_fresh)
}

fn of_copies(
    journal: Option<Box<dyn DiskFile>>,
    sled: impl FnOnce() -> Result<Option<bool>, MirrorError>,
) -> Result<Presence, OpenError> {
    let missing = journal.is_none();
    if let Some(journal) = journal
        && !is_fresh(journal)?
    {
        return Ok(Presence::Log);
    }
    match sled() {
        Ok(None) if missing => Ok(Presence::Nothing),
        Ok(None | Some(true)) => Ok(Presence::Remains),
        Ok(Some(false)) | Err(MirrorError::Failed(_)) => Ok(Presence::Log),
        Err(error @ (MirrorError::InUse | MirrorError::DiskFull)) => Err(OpenError::sled(error)),
    }
}

/// Whether a journal is a fresh log's without a whole first append.
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
    let file = window.into_file();
    // Most logs are told by their first append; the rest of them is not looked at.
    let file = match LogFile::starts_with_append(file) {
        (true, _) => return Ok(false),
        (false, file) => file,
    };
    match compare(Some(file), Ok(None), Loss::Refused) {
        Ok(compared) => Ok(compared.is_unfinished_start()),
        Err(OpenError::Damaged { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a stage of this run has written something.
fn has_trained(run: &Path) -> bool {
    let Ok(entries) = fs::read_dir(run) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.path().join("checkpoints").is_dir())
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Whether an open mirror holds no event, and never did as far as it shows.
pub(super) fn is_bare(mirror: &mut dyn Mirror) -> Result<bool, MirrorError> {
    if !mirror.blocks(0, 1)?.is_empty() {
        return Ok(false);
    }
    let head = mirror.get(MirrorKey::Head)?;
    // The file header that it is hashed with may not have come to the disk.
    Ok(head.is_none_or(|head| HeadMarker::is_of_no_event(&head)))
}

/// Whether the sled folder at `path` holds no event; `None` where there is no folder.
/// Its bytes are looked at first: a folder that was killed while it was made does not open.
pub(super) fn sled_is_bare(path: &Path, patience: Duration) -> Result<Option<bool>, MirrorError> {
    let failed = |error: io::Error| MirrorError::Failed(error.to_string());
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Ok(Some(false)),
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let mut found = Bytes::default();
    found.of_folder(path, 2).map_err(failed)?;
    if found.has_block {
        return Ok(Some(false));
    }
    if found.not_zero <= BARE_SLED {
        return Ok(Some(true));
    }
    match sled_copy(path, patience)? {
        Some(mut mirror) => is_bare(mirror.as_mut()).map(Some),
        None => Ok(None),
    }
}

/// A copy of the sled folder at `path`, opened; `None` where there is no folder.
pub(super) fn sled_copy(
    path: &Path,
    patience: Duration,
) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
    let failed = |error: io::Error| MirrorError::Failed(error.to_string());
    if !path.try_exists().map_err(failed)? {
        return Ok(None);
    }
    let scratch = Scratch::make().map_err(failed)?;
    let copy = scratch.path().join("sled");
    copy_folder(path, &copy).map_err(failed)?;
    Ok(Some(Box::new(Copied {
        mirror: SledMirror::open(&copy, patience)?,
        _scratch: scratch,
    })))
}

/// A copy of a second copy. The folder is removed after sled was closed.
struct Copied {
    mirror: SledMirror,
    _scratch: Scratch,
}

impl Mirror for Copied {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError> {
        self.mirror.get(key)
    }

    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError> {
        self.mirror.blocks(from, limit)
    }

    fn put(&mut self, _: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError> {
        Err(MirrorError::Failed("a copy is only read".to_owned()))
    }

    fn sync(&mut self) -> Result<(), MirrorError> {
        Ok(())
    }
}

/// What the files of a folder hold.
#[derive(Default)]
struct Bytes {
    /// Somewhere stands what a block begins with.
    has_block: bool,
    not_zero: u64,
}

impl Bytes {
    fn of_folder(&mut self, folder: &Path, depth: u32) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if self.has_block {
                return Ok(());
            }
            if entry.file_type()?.is_file() {
                self.of_file(&entry.path())?;
            } else if 0 < depth && entry.file_type()?.is_dir() {
                self.of_folder(&entry.path(), depth - 1)?;
            }
        }
        Ok(())
    }

    fn of_file(&mut self, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let mut buffer = vec![0; 256 << 10];
        let mut kept = 0;
        loop {
            let read = file.read(buffer.get_mut(kept..).unwrap_or_default())?;
            let new = buffer.get(kept..kept + read).unwrap_or_default();
            self.not_zero += new.iter().filter(|byte| **byte != 0).count() as u64;
            let bytes = buffer.get(..kept + read).unwrap_or_default();
            self.has_block |= bytes
                .windows(BLOCK_MAGIC.len())
                .any(|window| window == BLOCK_MAGIC);
            if read == 0 || self.has_block {
                return Ok(());
            }
            // a beginning that the next read completes
            let end = kept + read;
            kept = end.min(BLOCK_MAGIC.len() - 1);
            buffer.copy_within(end - kept..end, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_of_a_folder_do_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = vec![0; 3 * BARE_SLED as usize];
        file.extend([7; 5]);
        fs::write(folder.path().join("db"), file).unwrap();
        let mut found = Bytes::default();
        found.of_folder(folder.path(), 2).unwrap();
        assert_eq!(found.not_zero, 5);
        assert!(!found.has_block);
    }

    #[test]
    fn what_a_block_begins_with_is_found_across_two_reads() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = vec![0; (256 << 10) - 2];
        file.extend(BLOCK_MAGIC);
        fs::write(folder.path().join("db"), file).unwrap();
        let mut found = Bytes::default();
        found.of_folder(folder.path(), 2).unwrap();
        assert!(found.has_block);
    }
}
