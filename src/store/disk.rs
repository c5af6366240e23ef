//! The seam between the log and the disk.
//!
//! Everything the store asks of a disk goes through [`Disk`], [`DiskFile`] and
//! [`Mirror`], so that tests can put a disk there that tears writes, fills up
//! or forgets. Names are relative to the run directory, with `/` between their parts.

use std::io;

use super::block::HeadMarker;

pub const JOURNAL: &str = "log/journal.tgj";
pub const NEW_JOURNAL: &str = "log/journal.tgj.new";
pub const SLED: &str = "log/sled";
pub const QUARANTINE: &str = "quarantine";
pub const LOCK: &str = "lock";

/// The files of a run, and the second copy of its log.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing; `None` if there is none.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>>;

    /// Makes an empty file, in the place of any other, and the folders above it.
    /// The name is durable afterwards, the content is not.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Puts a file in the place of another in one step, durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The names in a folder; empty if there is no folder.
    fn names(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Opens the second copy; `None` if it is missing and `create` is not set.
    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError>;

    /// The second copy for reading only: opening it for writing may change what is damaged.
    fn mirror_to_read(&self) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        self.mirror(false)
    }

    /// Whether the second copy certainly holds no event; `None` if there is no second copy.
    fn mirror_is_bare(&self) -> Result<Option<bool>, MirrorError> {
        match self.mirror(false)? {
            Some(mut mirror) => mirror.is_bare().map(Some),
            None => Ok(None),
        }
    }

    /// Moves the second copy out of the way, under the name `to`. Whether there was one.
    fn set_mirror_aside(&self, to: &str) -> io::Result<bool>;
}

/// An open file. Reads and writes may be short, as those of an operating system.
pub trait DiskFile: Send {
    fn len(&self) -> io::Result<u64>;
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    fn set_len(&mut self, length: u64) -> io::Result<()>;
    /// Returns when content and length survive a power cut.
    fn sync(&mut self) -> io::Result<()>;

    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|length| length == 0)
    }
}

/// A place in the second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MirrorKey {
    FileHeader,
    Head,
    Block(u64),
}

/// The second copy of the log: values by key.
pub trait Mirror: Send {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError>;

    /// Blocks by rising number from `from` on, at most `limit`; missing ones are left out.
    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError>;

    /// Sets and (`None`) removes values, all or none.
    fn put(&mut self, changes: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError>;

    /// Returns when everything put survives a power cut.
    fn sync(&mut self) -> Result<(), MirrorError>;

    /// Whether it holds no event, and never did as far as it shows.
    fn is_bare(&mut self) -> Result<bool, MirrorError> {
        if !self.blocks(0, 1)?.is_empty() {
            return Ok(false);
        }
        let head = self.get(MirrorKey::Head)?;
        // the file header that it is hashed with may not be on the disk
        Ok(head.is_none_or(|head| HeadMarker::is_of_no_event(&head)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MirrorError {
    #[error("another process has it open")]
    InUse,
    #[error("the disk is full")]
    DiskFull,
    #[error("{0}")]
    Failed(String),
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Reads until `bytes` is full or the file ends.
pub(super) fn read_full(file: &dyn DiskFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of `bytes`.
pub(super) fn write_full(file: &mut dyn DiskFile, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write_at(rest, offset.saturating_add(written as u64)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(wrote) => written += wrote,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
