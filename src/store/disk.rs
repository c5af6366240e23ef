//! The interface between the log and the disk.
//!
//! The store accesses the disk only through [`Disk`], [`DiskFile`] and [`Mirror`], so
//! that tests can use a disk that tears writes, fills up or loses unsynced data. Names
//! are relative to the run directory, with `/` as the separator.

use std::io;

use super::block::HeadMarker;

pub const JOURNAL: &str = "log/journal.tgj";
pub const NEW_JOURNAL: &str = "log/journal.tgj.new";
pub const SLED: &str = "log/sled";
pub const QUARANTINE: &str = "quarantine";
pub const LOCK: &str = "lock";

/// The files of a run, and the second copy of its log.
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing; `None` if it does not exist.
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>>;

    /// Creates an empty file, replacing any other, and the folders above it. The name is
    /// durable afterwards, the content is not.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Replaces a file with another atomically and durably.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// The names in a folder; empty if it does not exist.
    fn names(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Opens the second copy; `None` if it is missing and `create` is not set.
    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError>;

    /// Opens the second copy for reading only. Opening it for writing may change damaged data.
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

    /// Renames the second copy to `to`. Returns whether there was one.
    fn set_mirror_aside(&self, to: &str) -> io::Result<bool>;
}

/// An open file. Reads and writes may be short, like those of an operating system.
pub trait DiskFile: Send {
    fn len(&self) -> io::Result<u64>;
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    fn set_len(&mut self, length: u64) -> io::Result<()>;
    /// Returns once content and length survive a power cut.
    fn sync(&mut self) -> io::Result<()>;

    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|length| length == 0)
    }
}

/// A key in the second copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MirrorKey {
    FileHeader,
    Head,
    Block(u64),
}

/// The second copy of the log: values by key.
pub trait Mirror: Send {
    fn get(&mut self, key: MirrorKey) -> Result<Option<Vec<u8>>, MirrorError>;

    /// At most `limit` blocks in ascending order from `from` on; missing ones are skipped.
    fn blocks(&mut self, from: u64, limit: usize) -> Result<Vec<(u64, Vec<u8>)>, MirrorError>;

    /// Sets values, or removes them (`None`), atomically.
    fn put(&mut self, changes: Vec<(MirrorKey, Option<Vec<u8>>)>) -> Result<(), MirrorError>;

    /// Returns once everything written survives a power cut.
    fn sync(&mut self) -> Result<(), MirrorError>;

    /// Whether it holds no event, and shows no sign of ever having held one.
    fn is_bare(&mut self) -> Result<bool, MirrorError> {
        if !self.blocks(0, 1)?.is_empty() {
            return Ok(false);
        }
        let head = self.get(MirrorKey::Head)?;
        // The file header that its hash depends on may not be on the disk.
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

/// Reads until `bytes` is full or the file ends. Returns the number of bytes read.
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
