//! Implements the store's disk on a run directory: the journal is a file, the mirror is sled.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use super::disk::{Disk, DiskFile, Mirror, MirrorError, SLED, is_full};
use super::real_file::{RealFile, create_folder, sync_parent};
use super::sled_copy::SledCopy;
use super::sled_folder;
use super::sled_mirror::{PATIENCE, SledMirror};

/// A run directory.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    pub fn new(root: impl Into<PathBuf>) -> RealDisk {
        RealDisk { root: root.into() }
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
        let mirror = SledMirror::open(&path, PATIENCE)?;
        Ok(Some(Box::new(mirror)))
    }

    fn mirror_to_read(&self) -> Result<Option<Box<dyn Mirror>>, MirrorError> {
        let failed = |error: io::Error| MirrorError::Failed(error.to_string());
        match SledCopy::make(&self.path(SLED)).map_err(failed)? {
            Some(copy) => Ok(Some(Box::new(copy.open()?))),
            None => Ok(None),
        }
    }

    fn mirror_is_bare(&self) -> Result<Option<bool>, MirrorError> {
        sled_folder::is_bare(&self.path(SLED))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_does_not_exist_is_absent() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let disk = RealDisk::new(root.path());
        assert!(disk.open("nothing").unwrap().is_none());
        assert!(disk.open("folder").is_err());
        assert!(disk.open("file/nothing").is_err());
        assert_eq!(disk.names("nothing").unwrap(), Vec::<String>::new());
        assert!(disk.names("file").is_err());
    }

    #[test]
    fn a_file_gets_the_length_that_is_set() {
        let root = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(root.path());
        let mut file = disk.create("file").unwrap();
        file.write_at(b"bytes", 0).unwrap();
        file.set_len(2).unwrap();
        assert_eq!(fs::read(root.path().join("file")).unwrap(), b"by");
    }
}
