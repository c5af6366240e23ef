//! The seam between the log and the disk.
//!
//! Everything the store asks of a disk goes through [`Disk`], [`DiskFile`] and
//! [`Mirror`], so that tests can put a disk there that tears writes, fills up
//! or forgets. [`RealDisk`] is a run directory. Names are relative to it, with
//! `/` between their parts.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::presence::{is_bare, sled_copy, sled_is_bare};
use super::sled_mirror::SledMirror;

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

    /// Names in a folder; none if there is no folder.
    fn names(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Opens the second copy; `None` if there is none and `create` is not set.
    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError>;

    /// The second copy, to look at: opening it for writing may change what is damaged.
    fn mirror_to_read(&self) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        self.mirror(false)
    }

    /// Whether the second copy holds no event, for certain; `None` if there is none.
    fn mirror_is_bare(&self) -> Result<Option<bool>, MirrorError> {
        match self.mirror(false)? {
            Some(mut mirror) => is_bare(mirror.as_mut()).map(Some),
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

/// A run directory.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
    /// How long one answer of sled may take.
    patience: Duration,
}

impl RealDisk {
    pub fn new(root: impl Into<PathBuf>) -> RealDisk {
        RealDisk {
            root: root.into(),
            patience: Duration::from_secs(60),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Option<Box<dyn DiskFile>>> {
        let path = self.path(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Ok(Some(Box::new(RealFile(file))))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            create_folder(folder)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        sync_parent(&path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        sync_parent(&self.path(from))?;
        sync_parent(&self.path(to))
    }

    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn mirror(&self, create: bool) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        let path = self.path(SLED);
        let existing = path
            .try_exists()
            .map_err(|error| MirrorError::Failed(error.to_string()))?;
        if !existing && !create {
            return Ok(None);
        }
        if !existing {
            create_folder(&path).map_err(|error| {
                if is_full(&error) {
                    MirrorError::DiskFull
                } else {
                    MirrorError::Failed(error.to_string())
                }
            })?;
        }
        let mirror = SledMirror::open(&path, self.patience)?;
        Ok(Some(Box::new(mirror)))
    }

    fn mirror_to_read(&self) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        sled_copy(&self.path(SLED), self.patience)
    }

    fn mirror_is_bare(&self) -> Result<Option<bool>, MirrorError> {
        sled_is_bare(&self.path(SLED), self.patience)
    }

    fn set_mirror_aside(&self, to: &str) -> io::Result<bool> {
        if !self.path(SLED).try_exists()? {
            return Ok(false);
        }
        let to = self.path(to);
        if let Some(folder) = to.parent() {
            create_folder(folder)?;
        }
        fs::rename(self.path(SLED), &to)?;
        sync_parent(&to)?;
        sync_parent(&self.path(SLED))?;
        Ok(true)
    }
}

/// Makes a folder and those above it, each durably.
pub(super) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
    {
        create_folder(parent)?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    sync_parent(path)
}

/// Makes the name of `path` durable in its folder.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        Some(_) => File::open(".")?.sync_all(),
        None => Ok(()),
    }
}

pub(super) struct RealFile(pub(super) File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, bytes, offset)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, bytes, offset)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_durable_by_the_kernel() {
        // a folder that the kernel cannot sync, and says so
        let refused = sync_parent(Path::new("/proc/self/stat")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
